"""What is kept of an interval of W/96: increments of the counters, the highest peaks, how much of it was seen.

A workload of ten pods has 960 intervals in its window. As objects they cost milliseconds to look at; as columns they
are a few arrays, and a part of the window is a choice of rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from recommender.histograms import BOUNDED_BUCKETS, EMPTY, counts_of, packed_of, smallest_type
from recommender.keys import SeriesKey
from recommender.samples import Counters, EngineFacts

INTERVALS_PER_WINDOW = 96
"""An observation window W has 96 intervals: half an hour of 48 hours (docs/sizing.md)."""


def interval_seconds(window_seconds: float) -> float:
    """W/96."""
    return window_seconds / INTERVALS_PER_WINDOW


@dataclass(frozen=True)
class Interval:
    """One engine during one interval. `reuse` is the packed increment of the histogram's cumulative counts."""

    start: float
    seconds: float
    covered_seconds: float
    samples: int
    capacity_bytes: int
    active_peak_bytes: int
    demand_peak_bytes: int
    requests: int = 0
    lookup_tokens: int = 0
    hit_tokens: int = 0
    preemptions: int = 0
    admissions_blocked: int = 0
    reuse: int = EMPTY

    @property
    def end(self) -> float:
        return self.start + self.seconds


_PLAIN = [field for field in dataclasses.fields(Interval) if field.name != "reuse"]
_BEYOND = "beyond"
ROW = np.dtype([*((field.name, "<f8" if field.type == "float" else "<i8") for field in _PLAIN), (_BEYOND, "<i8")])
"""One interval without its histogram, but for the blocks that lie beyond its last bound: many, as a rule."""

_EIGHT_BYTES = np.dtype("<i8")

_MOST_A_FIELD = 2**48
"""No honest counter grows by so much in an interval. Below it a window of 32,000 intervals adds up in 64 bits."""


class Columns(Sequence[Interval]):
    """Intervals of engines: `rows` of `ROW`, and `counts`, the blocks of each bounded bucket of the reuse histogram.

    Reads as a sequence of `Interval` for those who look at single ones.
    """

    def __init__(self, rows: NDArray[Any], counts: NDArray[Any]) -> None:
        """`rows`: (n,) of `ROW`. `counts`: (n, BOUNDED_BUCKETS), unsigned, not cumulative."""
        self.rows = rows
        self.counts = counts
        self._source: tuple[Columns, int] | None = None

    @classmethod
    def of(cls, intervals: Iterable[Interval]) -> Self:
        """The columns of interval objects."""
        given = tuple(intervals)
        counts = counts_of([one.reuse for one in given], _MOST_A_FIELD)
        names = [field.name for field in _PLAIN]
        rows = np.array([(*(getattr(one, name) for name in names), 0) for one in given], ROW)
        rows[_BEYOND] = counts[:, -1]
        for name in names:
            if ROW[name].kind == "i":
                np.minimum(rows[name], _MOST_A_FIELD, out=rows[name])
        bounded = counts[:, :-1]
        return cls(rows, bounded.astype(smallest_type(bounded)))

    @classmethod
    def together(cls, parts: Sequence[Columns]) -> Self:
        """All rows of `parts`, one after the other; without a copy where they are slices that follow each other."""
        if not parts:
            return cls(np.empty(0, ROW), np.empty((0, BOUNDED_BUCKETS), np.uint16))
        first = parts[0]._source
        if first is not None:
            source, begin = first
            end = begin
            for one in parts:
                if one._source is None or one._source[0] is not source or one._source[1] != end:
                    break
                end += len(one)
            else:
                return cls(source.rows[begin:end], source.counts[begin:end])
        # As plain numbers of eight bytes: NumPy joins those ten times faster than records.
        rows = np.concatenate([one.rows.view(_EIGHT_BYTES) for one in parts]).view(ROW)
        return cls(rows, np.concatenate([one.counts for one in parts]))

    @property
    def ends(self) -> NDArray[np.float64]:
        """When each interval ends, in seconds since the epoch."""
        ends: NDArray[np.float64] = self.rows["start"] + self.rows["seconds"]
        return ends

    @cached_property
    def middles(self) -> NDArray[np.float64]:
        middles: NDArray[np.float64] = self.rows["start"] + self.rows["seconds"] / 2
        return middles

    def kept(self, mask: NDArray[np.bool_]) -> Columns:
        """The rows of `mask`; without a copy where that is all of them."""
        return self if mask.all() else self.taken(mask.nonzero()[0])

    def taken(self, places: NDArray[np.int64]) -> Columns:
        """The rows of `places`, in their order."""
        # As in `together`: forty times faster.
        numbers = self.rows.view(_EIGHT_BYTES).reshape(-1, ROW.itemsize // _EIGHT_BYTES.itemsize)
        return Columns(numbers.take(places, axis=0).reshape(-1).view(ROW), self.counts.take(places, axis=0))

    def total(self, column: str) -> int:
        return int(self.rows[column].sum())

    def cumulative(self) -> tuple[int, ...]:
        """The reuse histogram of all rows together: cumulative counts, +Inf last."""
        # The narrower type takes half the time, and holds what so many small counts can come to.
        small = self.counts.itemsize == 2 and len(self) < 1 << 16
        summed = self.counts.sum(axis=0, dtype=np.uint32 if small else np.int64)
        up_to: list[int] = summed.cumsum(dtype=np.int64).tolist()
        return (*up_to, up_to[-1] + self.total(_BEYOND))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Interval: ...
    @overload
    def __getitem__(self, index: slice) -> Columns: ...
    def __getitem__(self, index: int | slice) -> Interval | Columns:
        if isinstance(index, slice):
            part = Columns(self.rows[index], self.counts[index])
            first, _, step = index.indices(len(self))
            part._source = (self, first) if step == 1 else None
            return part
        *fields, beyond = self.rows[index].item()
        everything: tuple[Any, ...] = (*fields, packed_of(self.counts[index], beyond))
        return Interval(*everything)


def expiry(start: float, window_seconds: float) -> float:
    """Until when an interval that begins at `start` is kept, in seconds since the epoch."""
    # A little longer than the window: the first interval of the window must not go while it is used.
    return start + window_seconds + 3 * interval_seconds(window_seconds)


@dataclass(frozen=True)
class Series:
    """The intervals of one engine in order of time, and what it last said of itself."""

    key: SeriesKey
    facts: EngineFacts
    intervals: Sequence[Interval]

    @cached_property
    def columns(self) -> Columns:
        return self.intervals if isinstance(self.intervals, Columns) else Columns.of(self.intervals)


@dataclass(frozen=True)
class ClosedInterval:
    """An interval to be stored, with the counters where it ended: there the next one begins, also after a restart."""

    key: SeriesKey
    facts: EngineFacts
    interval: Interval
    counters: Counters
    seen_at: float
    expires: float
