"""Reuse histograms as the recommender keeps them.

An increment that grows, scrape by scrape, is one Python integer with a 64-bit lane for each bucket's cumulative count:
two of them are added by one machine-speed operation. What is over is kept as counts of the single buckets, which are
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


def pack(cumulative: Sequence[int]) -> int:
    """Cumulative counts, in the order of the bounds and +Inf last, as one integer."""
    return int.from_bytes(_LAYOUT.pack(*cumulative), "little")


def unpack(packed: int) -> tuple[int, ...]:
    """The cumulative counts of a packed histogram."""
    return _LAYOUT.unpack(packed.to_bytes(_LAYOUT.size, "little"))


def counts_of(packed: Sequence[int], most: int) -> NDArray[np.int64]:
    """Counts of the single buckets, a row for each packed histogram; no cumulative one beyond `most`."""
    lanes = b"".join(one.to_bytes(_LAYOUT.size, "little") for one in packed)
    cumulative = np.minimum(np.frombuffer(lanes, "<u8").reshape(-1, BUCKETS), most).astype(np.int64)
    return np.diff(np.maximum.accumulate(cumulative, axis=1), axis=1, prepend=0)


def packed_of(bounded: NDArray[Any], beyond: int) -> int:
    """The packed histogram of a row of counts, and of what lies beyond the last bound."""
    return int.from_bytes(np.append(bounded, np.uint64(beyond)).cumsum(dtype="<u8").tobytes(), "little")


def smallest_type(counts: NDArray[np.int64]) -> np.dtype[Any]:
    """The narrowest unsigned type that holds `counts`: two, four or eight bytes."""
    largest = int(counts.max(initial=0))
    return np.dtype("<u2" if largest < 1 << 16 else "<u4" if largest < 1 << 32 else "<u8")
