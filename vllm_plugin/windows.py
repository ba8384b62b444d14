"""Sliding windows in the estimator's books: which blocks a hit needs of them, and when those were released.

A window releases its blocks while the request runs, and they stay in the pool until they are evicted. A later request
that finds a prefix needs the last blocks of each window there: those that the chain's request released when its window
had passed that point, or an earlier request where this one had begun behind it.
"""

from __future__ import annotations

from vllm_plugin.layout import Layout
from vllm_plugin.stack import Event, FreeStack

_MOST_LINKS = 8
"""So many chains, each of which goes on from the one before, are followed back."""


class Past:
    """What a request found and in whose chain, and what its windows released before it ended."""

    __slots__ = ("continued", "hits", "passed")

    def __init__(self, hits: int, continued: Event | None) -> None:
        self.hits = hits
        self.continued = continued
        self.passed: Event | None = None


class Windows:
    """Of one pool; `stack` is the estimator's."""

    def __init__(self, layout: Layout, stack: FreeStack) -> None:
        """`layout`: with a window at least."""
        self._layout = layout
        self._narrowest = min(layout.windows)
        self._stack = stack
        self._running: dict[str, Past] = {}

    def begin(self, request_id: str, hits: int, continued: Event | None) -> None:
        """A request was admitted, and goes on from the first `hits` blocks of that event's chain."""
        self._running[request_id] = Past(hits, continued)
        for _ in range(_MOST_LINKS):
            if continued is None or continued.past is None:
                return
            last, continued = continued.past, continued.past.continued
        last.continued = None

    def end(self, request_id: str, event: Event, passed: int) -> None:
        """It is about to be freed as this event; its windows had released `passed` blocks before."""
        event.past = self._running.pop(request_id, None) or Past(0, None)
        if passed > 0:
            event.past.passed = Event(0, passed)
            self._stack.push(event.past.passed)

    def clear(self) -> None:
        """Forget everything."""
        self._running.clear()

    def depth(self, event: Event, stop: int) -> int | None:
        """`FreeStack.depth` of the first to go of all that a hit at `stop` of this event's chain needs.

        Without them nothing of the chain is found. None for a chain so short that its request's windows held all of it:
        then a shorter prefix is found where the end is gone.
        """
        last = self._who_passed(event, stop)
        if last is event and event.end <= self._narrowest and self._layout.chains:
            return None
        return self._stack.depth(last, last.end - 1) + self._layout.passed_after(stop, last.end)

    def take(self, event: Event, stop: int) -> None:
        """A request takes a chain up to `stop`, and with it those blocks of windows."""
        last = self._who_passed(event, stop)
        held, passed = self._layout.taken(stop, last.end)
        in_windows = last.weight - self._layout.chains * (last.end - last.start)
        self._stack.lighten(last, min(held, max(in_windows, 0)))
        if last.past is not None and last.past.passed is not None:
            self._stack.lighten(last.past.passed, passed)

    def _who_passed(self, event: Event, stop: int) -> Event:
        """Whose windows were at `stop` of this event's chain: its own request's, or one's on which that went on.

        Of one that still ran when it was gone on from, this is not known: the request that went on stands for it.
        """
        last = event
        while (past := last.past) is not None and stop < past.hits > self._narrowest and past.continued is not None:
            last = past.continued
        return last
