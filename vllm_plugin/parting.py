"""Which part of a chain is known, whose it is, and where between two samples it leaves those that are known."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Optional, Union

from vllm_plugin.sampling import GapShare, position
from vllm_plugin.stack import Event, FreeStack
from vllm_plugin.windows import Windows

Owner = Union[int, Event]
"""What the estimator's table knows of a block: how many running requests hold it, or the event that freed it."""
Stretch = tuple[Optional[Event], int]
"""A stretch of a chain with one owner (None: running requests), and the index at which it ends."""

FORGOTTEN = Event(0, 0)
"""Stands for blocks that the real pool still has, but the table does not know."""


class Parting:
    """Of one pool. What it hit settles where two chains part; where it had evicted, a share of the gap is assumed.

    That share is what settled gaps had in common. It is not half: prompts are built of parts, and gaps behind them are
    long.
    """

    def __init__(self, table: dict[int, Owner], stack: FreeStack, windows: Windows | None, usable_blocks: int) -> None:
        """`table`, `stack`, `windows`: the estimator's. `usable_blocks`: of today's pool."""
        self._table = table
        self._stack = stack
        self._windows = windows
        self._usable_blocks = usable_blocks
        self._in_common = GapShare()

    def stretches(
        self,
        hashes: Sequence[Hashable],
        keys: list[int],
        owners: list[Owner | None],
        full: int,
        hit_blocks: int,
        base: int,
    ) -> list[Stretch]:
        """The known part of a chain as stretches of one owner each, from its head on.

        `keys` and `owners`: the samples of its first `full` blocks, of which the observed pool had `hit_blocks`.
        `base`: active and spare blocks, with which each distance begins.
        """
        stretches: list[Stretch] = []
        count = len(keys)
        sample = 0
        while sample < count:
            owner = owners[sample]
            if owner is None:
                break
            pinned = owner.__class__ is int
            # mypy does not follow the comparison of classes, which is faster than `isinstance`.
            event: Event | None = None if pinned else owner  # type: ignore[assignment]
            while sample < count and (owners[sample].__class__ is int if pinned else owners[sample] is owner):
                # Equal ones are neighbours as nearly always.
                equal = owners.count(owners[sample])
                sample += equal if owners[sample : sample + equal].count(owners[sample]) == equal else 1
            low = position(sample - 1) + 1
            high = position(sample) if sample < count else full
            following = owners[sample] if sample < count else None
            if pinned and hit_blocks < low:
                # Held, but not computed yet: a miss whatever the pool's size, and so is all that follows.
                stretches.append((None, hit_blocks))
                return stretches
            if following.__class__ is Event:
                stretches.append((event, min(max(following.start, low), high)))
            elif following is None:
                self._end(stretches, hashes, event, low, high, hit_blocks, base)
            else:
                stretches.append((event, high))
        if hit_blocks > (stretches[-1][1] if stretches else 0):
            # The real pool has more than was seen here. A running request has generated it since if the known part
            # is held to its end.
            stretches.append((None if stretches and stretches[-1][0] is None else FORGOTTEN, hit_blocks))
        return stretches

    def _end(
        self,
        stretches: list[Stretch],
        hashes: Sequence[Hashable],
        event: Event | None,
        low: int,
        high: int,
        hit_blocks: int,
        base: int,
    ) -> None:
        """Close the last known stretch, whose end lies between two samples: from `low` up to `high`."""
        first = low
        closed = event is not None and low <= event.end <= high and hash(hashes[event.end - 1]) == event.keys[-1]
        hit = min(hit_blocks, high)
        if event is not None and closed:
            stretches.append((event, event.end))
            low = event.end
        elif hit >= low and not self._evicted(event, hit, base):
            other = self._table.get(hash(hashes[hit - 1]))
            if other.__class__ is Event and other is not event:
                stretches.append((event, min(max(other.start, low), hit)))
                event = other
            stretches.append((event, hit))
            self._in_common.settle(hit - first, high - first)
            return
        low = max(low, hit)
        for index in range(high - 1, low - 1, -1):
            other = self._table.get(hash(hashes[index]))
            if other.__class__ is Event and other is not event:
                # Another chain ends in this gap, and this one has it all.
                if not closed:
                    stretches.append((event, min(max(other.start, low), index + 1)))
                stretches.append((other, index + 1))
                return
        if not closed:
            end = max(low, first + self._in_common.of(high - first))
            stretches.append((event, end if event is None else min(end, max(event.end, low))))

    def _evicted(self, event: Event | None, index: int, base: int) -> bool:
        """Whether today's pool had to drop this block of the event, so that its absence says nothing."""
        if event is None:
            return False
        depth = self._windows.depth(event, index) if self._windows is not None else None
        if depth is None:
            depth = self._stack.depth(event, index)
        return base + depth > self._usable_blocks
