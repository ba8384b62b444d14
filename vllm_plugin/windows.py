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
        self._layout = layout
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

    def depth(self, event: Event, stop: int) -> int:
        """Blocks released since those of the windows that a hit at `stop` needs; 0 if the event's request had them."""
        last: Event | None = event
        while last is not None and last.past is not None and self._began_behind(last.past, stop):
            last = last.past.continued
        if last is None:
            return self._stack.total
        passed = self._layout.passed_after(stop, last.end)
        if passed or last is not event or not self._layout.chains:
            return self._stack.newer(last) + last.weight + passed
        return 0

    def take(self, event: Event, stop: int) -> None:
        """A request takes a chain up to `stop`, and with it those blocks of windows."""
        held, passed = self._layout.taken(stop, event.end)
        in_windows = event.weight - self._layout.chains * (event.end - event.start)
        self._stack.lighten(event, min(held, max(in_windows, 0)))
        if event.past is not None and event.past.passed is not None:
            self._stack.lighten(event.past.passed, passed)

    def _began_behind(self, past: Past, stop: int) -> bool:
        return stop < past.hits and past.hits > min(self._layout.windows)
