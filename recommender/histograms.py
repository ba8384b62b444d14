"""Reuse histograms as the recommender keeps them.

Those of running engines are one Python integer each, with a 64-bit lane for each bucket's cumulative count: two of them
are added or compared by a few machine-speed operations. What is over is kept as counts of the single buckets, which are
small numbers: two bytes each for most engines, four for busy ones.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_plugin.names import REUSE_BUCKET_BOUNDS

BUCKETS = len(REUSE_BUCKET_BOUNDS) + 1
"""The bounds of the plugin, and +Inf."""

BOUNDED_BUCKETS = BUCKETS - 1
"""Without +Inf."""

_LAYOUT = struct.Struct(f"<{BUCKETS}Q")
EMPTY = 0

_GUARDS = sum(1 << 64 * lane + 63 for lane in range(BUCKETS))
"""The highest bit of each lane: no count is so large, so that it is gone where a subtraction had to borrow it."""
_BELOW = (1 << 64 * (BUCKETS - 1)) - 1
"""All lanes but that of +Inf."""
_GUARDS_BELOW = _GUARDS & _BELOW


def pack(cumulative: Sequence[int]) -> int:
    """Cumulative counts, in the order of the bounds and +Inf last, as one integer."""
    return int.from_bytes(_LAYOUT.pack(*cumulative), "little")


def unpack(packed: int) -> tuple[int, ...]:
    """The cumulative counts of a packed histogram."""
    return _LAYOUT.unpack(bytes_of(packed))


def increase(packed: int, earlier: int) -> int | None:
    """By how much each cumulative count is above the `earlier` one, packed; None where that is no histogram: a count is
    lower than it was, or a smaller bucket has grown by more than a larger one. No count may have 64 bits."""
    grown = (packed | _GUARDS) - earlier
    if grown & _GUARDS != _GUARDS:
        return None
    grown ^= _GUARDS
    steps = (grown >> 64 | _GUARDS_BELOW) - (grown & _BELOW)
    return grown if steps & _GUARDS_BELOW == _GUARDS_BELOW else None


def bytes_of(packed: int) -> bytes:
    """Eight bytes a bucket, little-endian."""
    return packed.to_bytes(_LAYOUT.size, "little")


def counts_of(packed: Sequence[int], most: int) -> NDArray[np.int64]:
    """Counts of the single buckets, a row for each packed histogram; no cumulative one beyond `most`."""
    lanes = b"".join(map(bytes_of, packed))
    cumulative = np.minimum(np.frombuffer(lanes, "<u8").reshape(-1, BUCKETS), most).astype(np.int64)
    return np.diff(np.maximum.accumulate(cumulative, axis=1), axis=1, prepend=0)


def packed_of(bounded: NDArray[Any], beyond: int) -> int:
    """The packed histogram of a row of counts, and of what lies beyond the last bound."""
    return int.from_bytes(np.append(bounded, np.uint64(beyond)).cumsum(dtype="<u8").tobytes(), "little")


def smallest_type(counts: NDArray[np.int64]) -> np.dtype[Any]:
    """The narrowest unsigned type that holds `counts`: two, four or eight bytes."""
    largest = int(counts.max(initial=0))
    return np.dtype("<u2" if largest < 1 << 16 else "<u4" if largest < 1 << 32 else "<u8")
