"""A stretch of a workload's history, and the questions that sizing asks of it. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.curves import HitRateCurve
from recommender.intervals import Columns, Series
from recommender.samples import EngineFacts

ROLLING_PARTS = 6
"""The rolling part of a window W is W/6: eight hours of 48 (docs/sizing.md)."""

STRIDES = 48
"""It moves by W/48: an hour of 48."""


def nearest_rank(values: Sequence[float], percentile: float) -> float:
    """The smallest of `values` that `percentile` percent of them do not exceed; 100 is the largest."""
    if not values:
        return 0.0
    return sorted(values)[rank_of(len(values), percentile)]


def rank_of(count: int, percentile: float) -> int:
    """The place of `nearest_rank` among `count` values in ascending order."""
    return max(math.ceil(percentile / 100 * count), 1) - 1


class Window:
    """What was seen of a workload in the `seconds` before `end`: each engine of each pod is a series."""

    def __init__(
        self, end: float, seconds: float, known: Sequence[Series], columns: Columns, lengths: NDArray[np.int64]
    ) -> None:
        """`known`: the series that have intervals here, their earlier and later ones too; `columns`: the intervals,
        series by series; `lengths`: how many each has."""
        self.end = end
        self.seconds = seconds
        self.columns = columns
        self.lengths = lengths
        self._known = known

    @classmethod
    def of(cls, series: Sequence[Series], end: float, seconds: float) -> Window:
        """The window over those intervals of `series` of which the larger part lies in it."""
        seen = [one for one in series if len(one.columns)]
        lengths = np.array([len(one.columns) for one in seen], np.int64)
        columns = _in_order(Columns.together([one.columns for one in seen]), lengths)
        return cls(end, seconds, seen, columns, lengths)._cut(end, seconds)

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """Each engine with its intervals of the window."""
        bounds = itertools.pairwise([0, *self.lengths.cumsum().tolist()])
        return tuple(
            replace(one, intervals=self.columns[first:last])
            for one, (first, last) in zip(self._known, bounds, strict=True)
        )

    @cached_property
    def covered_seconds(self) -> float:
        """How much of the window holds data of at least one pod."""
        of_any: list[float] = self.covered_by_interval.max(axis=0, initial=0.0).tolist()
        return min(sum(of_any), self.seconds)

    @property
    def coverage_percent(self) -> float:
        return 100 * self.covered_seconds / self.seconds

    @property
    def samples(self) -> int:
        return self.columns.total("samples")

    @property
    def first(self) -> float | None:
        """When the first interval of the window begins."""
        return float(self.columns.rows["start"].min()) if len(self.columns) else None

    @property
    def last(self) -> float | None:
        """When the last interval of the window ends."""
        return float(self.columns.ends.max()) if len(self.columns) else None

    @cached_property
    def requests(self) -> int:
        return self.columns.total("requests")

    @cached_property
    def lookup_tokens(self) -> int:
        return self.columns.total("lookup_tokens")

    @property
    def hit_tokens(self) -> int:
        return self.columns.total("hit_tokens")

    @cached_property
    def preemptions(self) -> int:
        return self.columns.total("preemptions")

    @property
    def admissions_blocked(self) -> int:
        return self.columns.total("admissions_blocked")

    @property
    def hit_rate(self) -> float | None:
        """vLLM's own hit rate over the window; None where nothing was looked up."""
        return self.hit_tokens / self.lookup_tokens if self.lookup_tokens else None

    @cached_property
    def blocked_share(self) -> float:
        """Of the pod that waited most: its blocked admissions ÷ its requests."""
        if not self.admissions_blocked:
            return 0.0
        # An admission that still waits may belong to a request that is counted later.
        sums = zip(self.totals("admissions_blocked"), self.totals("requests"), strict=True)
        return max(blocked / max(requests, blocked) for blocked, requests in sums if blocked)

    @property
    def largest_capacity_bytes(self) -> int:
        """The largest pool seen in the window; 0 in an empty one."""
        return int(self.columns.rows["capacity_bytes"].max(initial=0))

    @property
    def block_tokens(self) -> int:
        return self._known[0].facts.block_tokens if self._known else 1

    @property
    def block_tokens_of_each(self) -> list[int]:
        """Tokens of a block of each series: on other GPUs vLLM may choose another size."""
        return [one.facts.block_tokens for one in self._known]

    @property
    def facts(self) -> list[EngineFacts]:
        """What each engine last said of itself."""
        return [one.facts for one in self._known]

    @property
    def approximate(self) -> bool:
        """Whether a curve is an approximation, as that of a model with sliding windows."""
        return any(one.facts.windows for one in self._known)

    def totals(self, column: str) -> list[int]:
        """The sum of a column for each series."""
        if not len(self.columns):
            return []
        sums: list[int] = np.add.reduceat(self.columns.rows[column], self._first_rows).tolist()
        return sums

    @cached_property
    def _curve(self) -> HitRateCurve:
        return HitRateCurve(self.columns.cumulative(), self.block_tokens, self.lookup_tokens)

    def curve(self) -> HitRateCurve:
        """The curve of all pods together: the hit rate that the workload as a whole would have had."""
        return self._curve

    @cached_property
    def _demand_peaks(self) -> list[float]:
        return self._worst_of_each_interval("demand_peak_bytes")

    def demand_peaks(self) -> Sequence[float]:
        """The highest demand of any pod, for each interval."""
        return self._demand_peaks

    def active_peaks(self) -> list[float]:
        """The most that running requests of any pod held, for each interval."""
        return self._worst_of_each_interval("active_peak_bytes")

    def latest(self, seconds: float) -> Window:
        """The last `seconds` of the window."""
        return self._cut(self.end, seconds)

    def of_pools_from(self, capacity_bytes: float) -> Window:
        """What was seen of pools that have at least so many bytes."""
        return self._of_rows(self.columns.rows["capacity_bytes"] >= capacity_bytes, self.end, self.seconds)

    def part_ends(self) -> list[float]:
        """Where the rolling parts end, the newest first."""
        stride = self.seconds / STRIDES
        return [self.end - step * stride for step in range(STRIDES - STRIDES // ROLLING_PARTS + 1)]

    def rolling(self, coverage_percent: float) -> Iterator[Window]:
        """Every part of W/6, by strides of W/48, that is covered as the policy asks of the whole."""
        for end in self.part_ends():
            window = self._cut(end, self.seconds / ROLLING_PARTS)
            if window.coverage_percent >= coverage_percent and window.lookup_tokens:
                yield window

    @cached_property
    def covered_by_interval(self) -> NDArray[Any]:
        """How much was seen of each interval, in seconds: (series, different intervals)."""
        rows, shape = self.columns.rows, self._shape
        # A recommender that stopped and started again in an interval has stored two pieces of it.
        seen = np.bincount(self._places, rows["covered_seconds"], shape[0] * shape[1])
        length = np.zeros(shape[0] * shape[1])
        length[self._places] = rows["seconds"]
        return np.minimum(seen, length).reshape(shape)

    def rows_by_interval(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The middles of all intervals, ascending; and how many rows of each series come before each of them, and,
        last, in all: (intervals + 1, series)."""
        counts = np.bincount(self._places, minlength=self._shape[0] * self._shape[1]).reshape(self._shape)
        return self._times[0], np.vstack((np.zeros_like(self.lengths), counts.cumsum(axis=1).T))

    def _cut(self, end: float, seconds: float) -> Window:
        """Those intervals of which the larger part lies in the `seconds` before `end`."""
        middles = self.columns.middles
        return self._of_rows((end - seconds < middles) & (middles <= end), end, seconds)

    def _of_rows(self, kept: NDArray[np.bool_], end: float, seconds: float) -> Window:
        if kept.all():
            return Window(end, seconds, self._known, self.columns, self.lengths)
        lengths = np.add.reduceat(kept, self._first_rows, dtype=np.int64)
        known = [one for one, length in zip(self._known, lengths.tolist(), strict=True) if length]
        return Window(end, seconds, known, self.columns.kept(kept), lengths[lengths > 0])

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        return np.concatenate(([0], self.lengths.cumsum()[:-1]))

    @cached_property
    def _times(self) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """The different middles of intervals, ascending; the rows in that order, and where those of each begin."""
        middles = self.columns.middles
        order = np.argsort(middles, kind="stable")
        ordered = middles[order]
        first = np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)].nonzero()[0]
        return ordered[first], order, first

    @property
    def _shape(self) -> tuple[int, int]:
        """Series and different intervals."""
        return len(self.lengths), len(self._times[0])

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """The place of each row among (series, different intervals)."""
        series, intervals = self._shape
        _, order, first = self._times
        own = np.empty(len(order), np.int64)
        own[order] = np.repeat(np.arange(intervals), np.diff(first, append=len(order)))
        return np.repeat(np.arange(series), self.lengths) * intervals + own

    def _worst_of_each_interval(self, peak: str) -> list[float]:
        _, order, first = self._times
        if not len(order):
            return []
        worst: list[float] = np.maximum.reduceat(self.columns.rows[peak][order].astype(np.float64), first).tolist()
        return worst


def _in_order(columns: Columns, lengths: NDArray[np.int64]) -> Columns:
    """Each series in order of time, which a clock that was set back, or another length of intervals, may have upset."""
    back = np.diff(columns.middles) < 0
    # Between two series time may go back.
    back[lengths.cumsum()[:-1] - 1] = False
    if not back.any():
        return columns
    order = np.lexsort((columns.middles, np.repeat(np.arange(len(lengths)), lengths)))
    return columns.taken(order)
