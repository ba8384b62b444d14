"""Rounds in time, and whether they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from pathlib import Path

from recommender.recommending import SHORTEST_PERIOD_SECONDS, Recommender
from recommender.scraping import DEADLINE_SECONDS
from recommender.sources import Objects
from recommender.telemetry import Telemetry

logger = logging.getLogger(__name__)

_ROUNDS_MISSED = 5
"""So many rounds late, the service calls itself unhealthy."""
_EARLY = 20
"""A round may come early so many times its length after the last one: pods come and go all the time where there are
thousands, and are met soon enough in the next round; where there are few, the first one need not wait."""
_LOOK_SECONDS = 0.1
"""Between two looks whether the objects can be read."""
_LAST_ROUND_SECONDS = 5.0
"""After a signal a round may go on for so long: what it has not come to, the first one of the next recommender does."""


class Rounds:
    """One round of `recommender` after the other; `history` is the file that it fills."""

    def __init__(self, recommender: Recommender, objects: Objects, telemetry: Telemetry, history: Path) -> None:
        self._recommender = recommender
        self._objects = objects
        self._telemetry = telemetry
        self._history = history
        self._ended = time.monotonic()
        self._count = 0
        self._fault: str | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, and a moment longer where a round is under way."""
        while not stop.is_set():
            if self._objects.waiting() is not None:
                # Nothing is wrong with this process: another one could do no more.
                self._ended = time.monotonic()
                await _passed(stop, _LOOK_SECONDS)
                continue
            # Of what changes while a round is under way the round may not know.
            began, revision = time.monotonic(), self._objects.revision()
            try:
                await self._round(stop)
                self._count += 1
                self._fault = self._recommender.fault
            except Exception as error:
                # A round may fail, the next one is tried all the same: a supervisor's restart could do no more.
                self._fault = f"{type(error).__name__}: {error}"
                logger.exception("a round failed")
            self._ended = time.monotonic()
            self._telemetry.history_bytes.set(_size(self._history))
            # Spread a little, so that recommenders and pods do not fall into step.
            next_round = began + self._recommender.period * random.uniform(0.9, 1.1)
            await self._rest(stop, next_round, self._ended + _EARLY * (self._ended - began), revision)

    def alive(self) -> str | None:
        """What is wrong, where rounds no longer end."""
        since = time.monotonic() - self._ended
        # Many pods that do not answer are no reason to start anew.
        patience = _ROUNDS_MISSED * (self._recommender.period + DEADLINE_SECONDS) + self._recommender.longest_look
        if since > patience:
            return f"no round of scrapes ended in the last {since:.0f} s"
        return None

    def ready(self) -> str | None:
        """What is wrong, where recommendations are not kept up to date."""
        fault = self.alive() or self._fault or self._objects.trouble()
        return fault or (None if self._count else "the first round is not over")

    async def _round(self, stop: asyncio.Event) -> None:
        under_way = asyncio.create_task(self._recommender.round(), name="round")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({under_way, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                await asyncio.wait({under_way}, timeout=_LAST_ROUND_SECONDS)
            if under_way.done():
                under_way.result()
            else:
                logger.warning("the last round is broken off: it took longer than %g s", _LAST_ROUND_SECONDS)
        finally:
            stopping.cancel()
            under_way.cancel()
            await asyncio.gather(under_way, stopping, return_exceptions=True)

    async def _rest(self, stop: asyncio.Event, next_round: float, earliest: float, revision: object) -> None:
        """Wait for the next round; a pod that has come, or a policy that has changed, since the objects had `revision`
        waits no longer than till `earliest`."""
        while (left := next_round - time.monotonic()) > 0:
            await _passed(stop, min(left, SHORTEST_PERIOD_SECONDS))
            if stop.is_set() or (time.monotonic() >= earliest and self._objects.revision() != revision):
                return


async def _passed(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until `stop` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _size(history: Path) -> int:
    total = 0
    for suffix in ("", "-wal"):
        # The writer says what is wrong with it.
        with contextlib.suppress(OSError):
            total += Path(f"{history}{suffix}").stat().st_size
    return total
