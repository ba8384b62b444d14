"""Which blocks of a chain stand for it, and what is assumed of those between two of them.

All of the first 8, then every 8th, 16th and 32nd. A chained hash fixes its position, so two requests that share a
prefix sample the same blocks of it, and no block is looked at to find out whether it is a sample.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

DENSE = 8
WIDEST_GAP = 32

_REMEMBERED_BLOCKS = 1 << 20
"""So many blocks of settled gaps, then the older half fades: prompts change."""


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


class GapShare:
    """What part of a gap between two samples chains have in common, where they part in it: as in the gaps before."""

    __slots__ = ("_blocks", "_common")

    def __init__(self) -> None:
        # To begin with, one gap of which half is.
        self._common = WIDEST_GAP // 2
        self._blocks = WIDEST_GAP

    def settle(self, common: int, blocks: int) -> None:
        """The real pool has shown how many `blocks` of a gap two chains have in common."""
        self._common += common
        self._blocks += blocks
        if self._blocks > _REMEMBERED_BLOCKS:
            self._common //= 2
            self._blocks //= 2

    def of(self, blocks: int) -> int:
        """How many of so many blocks are likely in common."""
        return round(self._common / self._blocks * blocks)
