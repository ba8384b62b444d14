"""How the history's values look in the file: blobs of columns, JSON for facts, and a seal over each row.

SQLite notices when its pages do not hang together, not when a byte of a number has changed. Every row therefore
carries a checksum of all it says: a row that fails it is damage, never a wrong size.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recommender.histograms import BOUNDED_BUCKETS, BUCKETS, bytes_of
from recommender.intervals import ROW, Columns
from recommender.keys import WorkloadKey
from recommender.samples import Counters, EngineFacts, Rank

_ENGINE = np.dtype("<i8")
_LARGE = np.dtype([("place", "<i8"), ("count", "<u8")])
"""A count that is wider than the others of its row."""
_COUNTERS = struct.Struct(f"<5Q{8 * BUCKETS}s")


class DamagedRowError(ValueError):
    """A row that does not say what was once written."""


def seal(*values: Any) -> int:
    """The checksum of a row; a blob comes last, and alone."""
    *others, last = values
    if isinstance(last, bytes):
        return zlib.crc32(last, zlib.crc32(repr(others).encode()))
    return zlib.crc32(repr(values).encode())


def unsealed(row: Sequence[Any]) -> tuple[Any, ...]:
    """The values of a row whose seal comes last. Raises `DamagedRowError`."""
    *values, found = row
    if found != seal(*values):
        raise DamagedRowError("a row does not match its checksum")
    return tuple(values)


class Content(NamedTuple):
    """Intervals as they are stored: of how many engines, how many bytes a count has, and all their bytes.

    The bytes are the engines' numbers, then the rows, then the counts in two or four bytes each. Few buckets hold much:
    the counts that need more are cut off there, and stand whole at the end, with their places.
    """

    engines: int
    width: int
    content: bytes


def to_content(engines: Sequence[int], columns: Columns) -> Content:
    """As short as it can be."""
    counts = columns.counts.reshape(-1).astype("<u8")
    large = {width: counts >= 1 << 8 * width for width in (2, 4)}
    sizes = {width: width * len(counts) + _LARGE.itemsize * int(beyond.sum()) for width, beyond in large.items()}
    width = min(sizes, key=lambda width: sizes[width])
    places = large[width].nonzero()[0]
    exceptions = np.empty(len(places), _LARGE)
    exceptions["place"], exceptions["count"] = places, counts[places]
    numbers = np.array(engines, _ENGINE).tobytes()
    parts = (numbers, columns.rows.tobytes(), counts.astype(f"<u{width}").tobytes(), exceptions.tobytes())
    return Content(len(engines), width, b"".join(parts))


def from_contents(contents: Iterable[Content]) -> tuple[NDArray[Any], Columns]:
    """Engines and columns of rows of the store, in order. Raises `DamagedRowError`."""
    numbers, rows, counts, exceptions, before = [], [], [], [], 0
    for engines, width, content in contents:
        first = engines * _ENGINE.itemsize
        second = first + engines * ROW.itemsize
        third = second + engines * BOUNDED_BUCKETS * width
        if width not in (2, 4) or engines < 1 or len(content) < third or (len(content) - third) % _LARGE.itemsize:
            raise DamagedRowError(f"{len(content)} bytes for {engines} intervals with counts of {width} bytes")
        view = memoryview(content)
        numbers.append(view[:first])
        rows.append(view[first:second])
        counts.append((width, view[second:third]))
        if len(content) > third:
            exceptions.append((before, np.frombuffer(view[third:], _LARGE)))
        before += engines * BOUNDED_BUCKETS
    matrix = _joined(counts, exceptions).reshape(-1, BOUNDED_BUCKETS)
    return np.frombuffer(b"".join(numbers), _ENGINE), Columns(np.frombuffer(b"".join(rows), ROW), matrix)


def _joined(counts: Sequence[tuple[int, memoryview]], exceptions: Sequence[tuple[int, NDArray[Any]]]) -> NDArray[Any]:
    """All counts in a row, in the narrowest type that holds them."""
    widths = {width for width, _ in counts}
    found: NDArray[Any]
    if len(widths) <= 1:
        found = np.frombuffer(b"".join(view for _, view in counts), f"<u{max(widths, default=2)}")
    else:
        found = np.concatenate([np.frombuffer(view, f"<u{width}") for width, view in counts])
    if exceptions:
        places = np.concatenate([before + each["place"] for before, each in exceptions])
        values = np.concatenate([each["count"] for _, each in exceptions])
        if int(places.max()) >= len(found):
            raise DamagedRowError("a count beyond the last interval")
        found = found.astype("<u4" if int(values.max()) < 1 << 32 else "<u8")
        found[places] = values
    return found


def identity(workload: WorkloadKey, fingerprint: str) -> tuple[str, ...]:
    """By what a workload under a fingerprint is found."""
    owner = workload.workload
    return (workload.namespace, owner.group, owner.kind, owner.name, workload.container, fingerprint)


@lru_cache(maxsize=4096)
def facts_text(facts: EngineFacts) -> str:
    """Most engines of a workload say the same of themselves."""
    return json.dumps(dataclasses.asdict(facts))


@lru_cache(maxsize=4096)
def facts_of(text: str) -> EngineFacts:
    """Raises `DamagedRowError`."""
    try:
        fields = json.loads(text)
        return EngineFacts(**{**fields, "ranks": tuple(Rank(**rank) for rank in fields["ranks"])})
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedRowError(f"facts of an engine: {type(error).__name__}: {error}") from error


def counters_blob(counters: Counters) -> bytes:
    return _COUNTERS.pack(
        counters.requests,
        counters.lookup_tokens,
        counters.hit_tokens,
        counters.preemptions,
        counters.admissions_blocked,
        bytes_of(counters.reuse),
    )


def counters_of(blob: bytes) -> Counters:
    """Raises `DamagedRowError`."""
    try:
        requests, lookup_tokens, hit_tokens, preemptions, blocked, reuse = _COUNTERS.unpack(blob)
    except struct.error as error:
        raise DamagedRowError(f"counters of an engine: {error}") from error
    return Counters(requests, lookup_tokens, hit_tokens, preemptions, blocked, int.from_bytes(reuse, "little"))
