"""Reuse histograms as the recommender keeps them: cumulative counts of all buckets in one integer.

A histogram is 146 counts. Packed into 64-bit lanes of one Python integer, two of them are added, or subtracted where
none is larger, by one machine-speed operation: a window of 96 intervals is `sum()` of 96 integers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from vllm_plugin.names import REUSE_BUCKET_BOUNDS

BUCKETS = len(REUSE_BUCKET_BOUNDS) + 1
"""The bounds of the plugin, and +Inf."""

_LAYOUT = struct.Struct(f"<{BUCKETS}Q")
EMPTY = 0


class UnreadableHistogramError(ValueError):
    """A stored histogram that is not one."""


def pack(cumulative: Sequence[int]) -> int:
    """Cumulative counts, in the order of the bounds and +Inf last, as one integer."""
    return int.from_bytes(_LAYOUT.pack(*cumulative), "little")


def unpack(packed: int) -> tuple[int, ...]:
    """The cumulative counts of a packed histogram."""
    return _LAYOUT.unpack(packed.to_bytes(_LAYOUT.size, "little"))


def to_blob(packed: int) -> bytes:
    """What is stored: a few hundred bytes, as most counts repeat their neighbour."""
    return zlib.compress(packed.to_bytes(_LAYOUT.size, "little"))


def from_blob(blob: bytes) -> int:
    """The packed histogram of a stored one; raises `UnreadableHistogramError`."""
    try:
        plain = zlib.decompress(blob)
    except zlib.error as error:
        raise UnreadableHistogramError(f"a stored histogram cannot be unpacked: {error}") from error
    if len(plain) != _LAYOUT.size:
        raise UnreadableHistogramError(f"a stored histogram has {len(plain)} bytes instead of {_LAYOUT.size}")
    return int.from_bytes(plain, "little")
