"""Terms: what a recommender has while it leads, from the history's lock to the last write, and what it is in between.

A leader whose lease is not surely held stops at once, and stands by again in the same process. Ending the process would
be no safer: requests are not sent from the moment on in which the lease is in doubt, and nothing of a term outlives it.
It would be slower: what watches have filled would be read anew, and a supervisor waits longer before each restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from prometheus_client import Counter, Gauge

from recommender.history_files import HistoryError
from recommender.rounds import Rounds
from recommender.sources import Objects
from recommender.telemetry import Telemetry
from vllm_plugin.names import PREFIX

logger = logging.getLogger(__name__)

_NAME = PREFIX + "recommender_"
_AWAY_SECONDS = 10.0
"""Who cannot open the history leaves the lease to others for so long."""
_END_SECONDS = 60.0
"""A term that takes longer to end is stuck."""


class Terms:
    """One term after the other: `work` makes the rounds of one, told how the way there goes."""

    def __init__(
        self,
        objects: Objects,
        telemetry: Telemetry,
        work: Callable[[Callable[[str], None]], AbstractAsyncContextManager[Rounds]],
    ) -> None:
        self._objects = objects
        self._leadership = objects.leadership
        self._telemetry = telemetry
        self._work = work
        self._rounds: Rounds | None = None
        self._fault: str | None = None
        """Why no rounds could be made when it was this one's turn."""
        self._ending_since: float | None = None
        leader = Gauge(_NAME + "leader", "Whether this recommender leads: 1, or 0.", registry=telemetry.registry)
        leader.set_function(lambda: float(self._leadership.held_seconds() > 0))
        self._transitions = Counter(
            _NAME + "leader_transitions", "Times that this recommender came to lead.", registry=telemetry.registry
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises `HistoryError` where there is nobody to leave the work to."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                gained = asyncio.create_task(self._leadership.gained())
                await asyncio.wait({gained, stopping}, return_when=asyncio.FIRST_COMPLETED)
                gained.cancel()
                if stop.is_set():
                    return
                self._transitions.inc()
                await self._lead(stop, stopping)
        finally:
            stopping.cancel()

    def alive(self) -> str | None:
        """What is wrong, where only a new process can help."""
        since = 0.0 if self._ending_since is None else time.monotonic() - self._ending_since
        if since > _END_SECONDS:
            return f"the work of a leader is not over {since:.0f} s after it should be"
        return self._rounds.alive() if self._rounds is not None else None

    def ready(self) -> str | None:
        """What is wrong, where recommendations are not kept up to date; or would not be, were it this one's turn."""
        if self._rounds is not None:
            return self._rounds.ready()
        trouble = "; ".join(one for one in (self._leadership.trouble, self._objects.trouble(), self._fault) if one)
        if not trouble and self._leadership.held_seconds() > 0:
            return "the history is not open yet"
        return trouble or None

    async def _lead(self, stop: asyncio.Event, stopping: asyncio.Task[bool]) -> None:
        term = asyncio.create_task(self._term(stop), name="term")
        lost = asyncio.create_task(self._leadership.lost())
        try:
            await asyncio.wait({term, lost, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self._ending_since = time.monotonic()
            if not lost.done() and self._rounds is not None:
                # A signal: the round ends, and what waits is written.
                await asyncio.wait({term, lost}, return_when=asyncio.FIRST_COMPLETED)
            term.cancel()
            await asyncio.wait({term})
            if not term.cancelled():
                term.result()
        except HistoryError as error:
            if not self._leadership.shared:
                raise
            self._fault = str(error)
            logger.error("%s; others may lead for %g s, then it is tried again", error, _AWAY_SECONDS)
            self._leadership.resign(_AWAY_SECONDS)
        finally:
            lost.cancel()
            self._ending_since = None
            self._telemetry.stand_by()
            if not stop.is_set():
                self._leadership.cleared()

    async def _term(self, stop: asyncio.Event) -> None:
        try:
            async with self._objects.writing(), self._work(self._waits) as rounds:
                self._rounds, self._fault = rounds, None
                await rounds.run(stop)
        finally:
            self._rounds = None

    def _waits(self, why: str) -> None:
        if why != self._fault:
            logger.warning("%s", why)
        self._fault = why
