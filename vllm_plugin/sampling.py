"""Which blocks of a chain stand for it, and what is assumed of those between two of them.

The first 4, then two of each doubling, then every 64th. A chained hash fixes its position, so two requests that share a
prefix sample the same blocks of it, and no block is looked at to find out whether it is a sample. Python's own hash of
a block's hash stands for it: 64 bits, of which two in 65,536 are equal once in ten billion pools.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from operator import itemgetter

WIDEST_GAP = 64

_FIRST = (0, 1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63, 95, 127, 191)
_OF_FIRST = itemgetter(*_FIRST)
_REST = _FIRST[-1] + WIDEST_GAP

_REMEMBERED_BLOCKS = 1 << 20
"""So many blocks of settled gaps, then the older half fades: prompts change."""


def sampled(hashes: Sequence[Hashable], blocks: int) -> list[int]:
    """The keys of a chain's first `blocks` blocks by which the estimator knows it."""
    if blocks > _FIRST[-1]:
        return [*map(hash, _OF_FIRST(hashes)), *map(hash, hashes[_REST:blocks:WIDEST_GAP])]
    return [hash(hashes[index]) for index in _FIRST[: samples_in(blocks)]]


def samples_in(blocks: int) -> int:
    """How many keys a chain of so many blocks has."""
    if blocks > _FIRST[-1]:
        return len(_FIRST) + (blocks - _FIRST[-1] - 1) // WIDEST_GAP
    return bisect_left(_FIRST, blocks)


def position(sample: int) -> int:
    """Index in the chain of the given sample."""
    return _FIRST[sample] if sample < len(_FIRST) else _REST + WIDEST_GAP * (sample - len(_FIRST))


class GapShare:
    """What part of a gap between two samples chains have in common, where they part in it: as in the gaps before."""

    __slots__ = ("_blocks", "_common")

    def __init__(self) -> None:
        # To begin with, half of one gap.
        self._common = 16
        self._blocks = 32

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
