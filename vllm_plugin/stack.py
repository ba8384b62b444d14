"""The free events of a pool, newest on top: how much was freed since a given event.

vLLM evicts in the order in which blocks were freed, so the depth of an event is the number of blocks that will be
evicted after it. `estimator` pushes an event for each freed request and asks for depths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

_GROUP_BITS = 6


class Event:
    """The part of one freed request's chain that went back to the pool together: its blocks `start` to `end`.

    A later request that reuses the chain takes blocks from `start` on, since it must begin at the chain's head.
    """

    __slots__ = ("end", "keys", "slot", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.keys: list[Hashable] = []
        """Hashes by which the estimator finds this event, the chain's last block at the end."""
        self.slot = -1


class FreeStack:
    """Events by age, with at most `slots` distinguishable depths: the oldest share one when there are more.

    Sums are kept per slot and per 64 slots: in Python an update of two list cells beats the twelve steps of a
    Fenwick tree, and a query is two sums over at most 64 cells, which run in C.
    """

    def __init__(self, slots: int = 4096) -> None:
        self.total = 0
        """Blocks in all events together."""
        self._order: deque[Event] = deque()
        self._cells = [0] * slots
        self._groups = [0] * (slots >> _GROUP_BITS)
        self._next = 0

    def __len__(self) -> int:
        return len(self._order)

    def push(self, event: Event) -> None:
        """Put a new event on top."""
        if self._next == len(self._cells):
            self._merge()
        event.slot = self._next
        self._next += 1
        self._order.append(event)
        self._add(event.slot, event.end - event.start)

    def take(self, event: Event, stop: int) -> int:
        """Blocks up to index `stop` leave the event; says how many did."""
        taken = min(stop, event.end) - event.start
        if taken <= 0:
            return 0
        event.start += taken
        self._add(event.slot, -taken)
        return taken

    def newer(self, event: Event) -> int:
        """Blocks freed after `event`; of events that share its slot, half count as newer."""
        slot = event.slot
        group = slot >> _GROUP_BITS
        cells = self._cells
        return (
            sum(self._groups[group + 1 :])
            + sum(cells[slot + 1 : (group + 1) << _GROUP_BITS])
            + ((cells[slot] - event.end + event.start) >> 1)
        )

    def drop_oldest(self) -> Event:
        """Remove the bottom event."""
        event = self._order.popleft()
        self._add(event.slot, event.start - event.end)
        event.start = event.end
        return event

    def oldest_blocks(self) -> int:
        """Blocks in the bottom event; 0 when there is none."""
        return self._order[0].end - self._order[0].start if self._order else 0

    def clear(self) -> None:
        """Forget everything."""
        self._order.clear()
        self._reset_sums()

    def _add(self, slot: int, blocks: int) -> None:
        self._cells[slot] += blocks
        self._groups[slot >> _GROUP_BITS] += blocks
        self.total += blocks

    def _reset_sums(self) -> None:
        self._cells = [0] * len(self._cells)
        self._groups = [0] * len(self._groups)
        self._next = 0
        self.total = 0

    def _merge(self) -> None:
        """Give out the slots anew: empty events go, and old neighbours share a slot.

        Neighbours share as long as their blocks are a small part of their depth, so that the error made is a small
        part of the distance; the tolerance doubles until at least a quarter of the slots is free again.
        """
        alive = [event for event in self._order if event.end > event.start]
        tolerance = 1 / 512
        while True:
            sizes: list[int] = []
            depth = room = 0
            for event in reversed(alive):
                blocks = event.end - event.start
                if room < blocks:
                    sizes.append(0)
                    room = max(blocks, int(depth * tolerance))
                sizes[-1] += 1
                room -= blocks
                depth += blocks
            if len(sizes) <= len(self._cells) * 3 // 4:
                break
            tolerance *= 2
        self._order = deque(alive)
        self._reset_sums()
        oldest_first = iter(alive)
        for slot, size in enumerate(reversed(sizes)):
            for _ in range(size):
                event = next(oldest_first)
                event.slot = slot
                self._add(slot, event.end - event.start)
        self._next = len(sizes)
