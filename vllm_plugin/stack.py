"""The free events of a pool, newest on top: how much was freed since a given event.

vLLM evicts in the order in which blocks were freed, so the depth of an event is the number of blocks that will be
evicted after it. `estimator` pushes an event for each freed request and asks for depths.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_plugin.windows import Past

_GROUP_BITS = 6
_FINEST = 1 / 512
_TIDIED_A_PUSH = 4


class Event:
    """The part of one freed request's chain that went back to the pool together: its blocks `start` to `end`.

    A later request that reuses the chain takes blocks from `start` on, since it must begin at the chain's head.
    """

    __slots__ = ("end", "keys", "number", "past", "start", "weight")

    def __init__(self, start: int, end: int, weight: int | None = None) -> None:
        self.start = start
        self.end = end
        self.weight = end - start if weight is None else weight
        """What it takes of the pool: more than its blocks where several groups keep blocks of one chain."""
        self.keys: list[int] = []
        """Keys by which the estimator finds this event, the chain's last block at the end."""
        self.past: Past | None = None
        """Where windows are."""
        self.number = -1
        """Its place in the order of all events ever."""


class FreeStack:
    """Events by age, with at most `slots` distinguishable depths: the oldest share one when there are more.

    Sums are kept per slot and per 64 slots: in Python an update of two list cells beats the twelve steps of a
    Fenwick tree, and a query is two sums over at most 64 cells, which run in C. A slot knows the first of its events,
    an event its number: so slots can be given out anew without a look at the events, of which there may be very many.
    """

    def __init__(self, slots: int = 4096, chains: int = 1) -> None:
        """`chains`: what each block of a chain takes of the pool."""
        self._chains = chains
        self.total = 0
        """Blocks in all events together."""
        # Oldest first: those that were looked at since the last round of tidying began, then the others.
        self._tidied: deque[Event] = deque()
        self._order: deque[Event] = deque()
        self._emptied = 0
        self._slots = slots
        self._firsts: list[int] = []
        self._cells = [0] * slots
        self._groups = [0] * -(-slots >> _GROUP_BITS)
        self._pushed = 0
        self._tolerance = _FINEST

    def __len__(self) -> int:
        """Events, some empty ones included."""
        return len(self._tidied) + len(self._order)

    def push(self, event: Event) -> None:
        """Put a new event on top; it must not be empty."""
        if len(self._firsts) == self._slots:
            self._merge()
        number = event.number = self._pushed
        self._pushed = number + 1
        self._add(len(self._firsts), event.weight)
        self._firsts.append(number)
        self._order.append(event)
        if self._emptied and self._emptied << 1 > len(self._tidied) + len(self._order):
            self._tidy()

    def take(self, event: Event, stop: int) -> int:
        """Blocks up to index `stop` leave the event; says how many did."""
        taken = min(stop, event.end) - event.start
        if taken <= 0:
            return 0
        event.start += taken
        weight = taken * self._chains
        if event.start == event.end:
            self._emptied += 1
            weight = event.weight
        event.weight -= weight
        self._add(bisect_right(self._firsts, event.number) - 1, -weight)
        return taken

    def lighten(self, event: Event, weight: int) -> None:
        """So much of the event, at most all of it, is somebody's again, though no block of its chain."""
        weight = min(weight, event.weight)
        event.weight -= weight
        self._add(bisect_right(self._firsts, event.number) - 1, -weight)

    def depth(self, event: Event, index: int) -> int:
        """Blocks that are evicted after block `index` of the event's chain, and this one. `index`: from `start` on.

        Of other events that share its slot, half count as newer.
        """
        slot = bisect_right(self._firsts, event.number) - 1
        group = slot >> _GROUP_BITS
        cells = self._cells
        weight = event.weight
        return (
            sum(self._groups[group + 1 :])
            + sum(cells[slot + 1 : (group + 1) << _GROUP_BITS])
            + ((cells[slot] - weight) >> 1)
            + weight
            - event.end
            + index
            + 1
        )

    def drop_oldest(self) -> Event:
        """Remove the bottom event."""
        event = (self._tidied or self._order).popleft()
        if event.start < event.end:
            self._add(bisect_right(self._firsts, event.number) - 1, -event.weight)
            event.start = event.end
            event.weight = 0
        else:
            self._emptied -= 1
        return event

    def oldest_depth(self) -> int:
        """Blocks above the bottom event; 0 when there is none."""
        events = self._tidied or self._order
        return self.total - events[0].weight if events else 0

    def clear(self) -> None:
        """Forget everything."""
        self._tidied.clear()
        self._order.clear()
        self._emptied = 0
        self._give_out([], [])

    def _add(self, slot: int, blocks: int) -> None:
        self._cells[slot] += blocks
        self._groups[slot >> _GROUP_BITS] += blocks
        self.total += blocks

    def _tidy(self) -> None:
        """Look for empty events, a few of all at a time: no call ever has to look at many."""
        for _ in range(_TIDIED_A_PUSH):
            if not self._order:
                self._order, self._tidied = self._tidied, self._order
            event = self._order.popleft()
            if event.start < event.end:
                self._tidied.append(event)
            else:
                self._emptied -= 1
                if not self._emptied:
                    return

    def _give_out(self, firsts: list[int], cells: list[int]) -> None:
        self._firsts = firsts
        self._cells = cells + [0] * (self._slots - len(cells))
        self._groups = [
            sum(self._cells[group << _GROUP_BITS : (group + 1) << _GROUP_BITS]) for group in range(len(self._groups))
        ]
        self.total = sum(cells)

    def _merge(self) -> None:
        """Give out the slots anew: empty ones go, and old neighbours become one.

        Neighbours join as long as their blocks are a small part of their depth, so that the error made is a small
        part of the distance. That part doubles until at least a quarter of the slots is free again.
        """
        firsts, cells = self._joined()
        while len(firsts) > self._slots * 3 // 4:
            self._tolerance *= 2
            firsts, cells = self._joined()
        if len(firsts) < self._slots // 2 and self._tolerance > _FINEST:
            # There was room to spare: try to be finer the next time.
            self._tolerance /= 2
        self._give_out(firsts, cells)

    def _joined(self) -> tuple[list[int], list[int]]:
        """First events and blocks of the slots that remain, oldest first."""
        firsts: list[int] = []
        cells: list[int] = []
        depth = room = 0
        for first, blocks in zip(reversed(self._firsts), reversed(self._cells[: len(self._firsts)])):
            if not blocks:
                continue
            if room < blocks:
                firsts.append(first)
                cells.append(blocks)
                room = max(int(depth * self._tolerance) - blocks, 0)
            else:
                firsts[-1] = first
                cells[-1] += blocks
                room -= blocks
            depth += blocks
        return firsts[::-1], cells[::-1]
