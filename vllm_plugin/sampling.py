"""Which blocks of a chain stand for it.

All of the first 8, then every 8th, 16th and 32nd. A chained hash fixes its position, so two requests that share a
prefix sample the same blocks of it, and no block is looked at to find out whether it is a sample.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

DENSE = 8
WIDEST_GAP = 32


def sampled(hashes: Sequence[Hashable], blocks: int) -> list[Hashable]:
    """The hashes of a chain's first `blocks` blocks by which the estimator knows it."""
    if blocks <= DENSE:
        return list(hashes[:blocks])
    return [
        *hashes[:DENSE],
        *hashes[15 : min(blocks, 32) : 8],
        *hashes[47 : min(blocks, 64) : 16],
        *hashes[95:blocks:32],
    ]


def position(sample: int) -> int:
    """Index in the chain of the given sample."""
    if sample < DENSE:
        return sample
    if sample < 11:
        return 15 + 8 * (sample - 8)
    if sample < 13:
        return 47 + 16 * (sample - 11)
    return 95 + 32 * (sample - 13)
