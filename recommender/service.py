"""The long-running recommender: `vllm-rightsizer recommender`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recommender.api.listening import bound_socket
from recommender.api.logs import log_to_stderr
from recommender.api.object_store import FileObjectStore
from recommender.history import History
from recommender.probes import ProbeServer, probes
from recommender.recommending import SHORTEST_PERIOD_SECONDS, Recommender
from recommender.scraping import DEADLINE_SECONDS, Scraper
from recommender.telemetry import Telemetry

logger = logging.getLogger(__name__)

_ROUNDS_MISSED = 5
"""So many rounds late, the service calls itself unhealthy."""


@dataclass(frozen=True)
class RecommenderSettings:
    """`objects`: folder of the object store; `history`: file of the embedded store; where to answer probes."""

    objects: Path
    history: Path
    host: str = "127.0.0.1"
    port: int = 9416


def serve(settings: RecommenderSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises `HistoryError` or `ListenError` where it cannot start."""
    log_to_stderr()
    asyncio.run(_until_signal(settings))


async def run(settings: RecommenderSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. What is counted is stored before it returns."""
    listening = bound_socket(settings.host, settings.port)
    with contextlib.closing(listening), History.open(settings.history) as history:
        telemetry = Telemetry()
        async with Scraper() as scraper:
            service = _Service(settings, history, scraper, telemetry)
            server = ProbeServer(probes(telemetry.registry, service.alive, service.ready))
            answering = asyncio.create_task(server.serve(sockets=[listening]))
            logger.info(
                "recommender: objects %s, history %s, probes on %s:%d",
                settings.objects,
                settings.history,
                settings.host,
                listening.getsockname()[1],
            )
            stopping = asyncio.create_task(stop.wait())
            try:
                await service.rounds({stopping, answering})
            finally:
                service.recommender.stop()
                stopping.cancel()
                server.should_exit = True
                await answering
    logger.info("recommender: stopped")


class _Service:
    """Rounds in time, and whether they are."""

    def __init__(self, settings: RecommenderSettings, history: History, scraper: Scraper, telemetry: Telemetry) -> None:
        self._store = FileObjectStore(settings.objects)
        self._history = settings.history
        self._telemetry = telemetry
        self._ended = time.monotonic()
        self._rounds = 0
        self._fault: str | None = None
        self.recommender = Recommender(self._store, history, scraper, telemetry)

    async def rounds(self, until: set[asyncio.Task[Any]]) -> None:
        """One round after the other, until one of the tasks is done."""
        while not any(task.done() for task in until):
            began = time.monotonic()
            try:
                await self.recommender.round()
                self._rounds += 1
                self._fault = self.recommender.fault
            except Exception as error:
                # A round may fail, the next one is tried all the same: a supervisor's restart could do no more.
                self._fault = f"{type(error).__name__}: {error}"
                logger.exception("a round failed")
            self._ended = time.monotonic()
            self._telemetry.history_bytes.set(_size(self._history))
            # Spread a little, so that recommenders and pods do not fall into step.
            await self._rest(until, began + self.recommender.period * random.uniform(0.9, 1.1))

    def alive(self) -> str | None:
        """What is wrong, where rounds no longer end."""
        since = time.monotonic() - self._ended
        if since > _ROUNDS_MISSED * (self.recommender.period + DEADLINE_SECONDS):
            return f"no round of scrapes ended in the last {since:.0f} s"
        return None

    def ready(self) -> str | None:
        """What is wrong, where recommendations are not kept up to date."""
        return self.alive() or self._fault or (None if self._rounds else "the first round is not over")

    async def _rest(self, until: set[asyncio.Task[Any]], next_round: float) -> None:
        """Wait for the next round; a pod that comes, or a policy that changes, does not wait."""
        revision = self._store.revision()
        while (left := next_round - time.monotonic()) > 0:
            pause = min(left, SHORTEST_PERIOD_SECONDS)
            done, _ = await asyncio.wait(until, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if done or self._store.revision() != revision:
                return


async def _until_signal(settings: RecommenderSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)


def _size(history: Path) -> int:
    total = 0
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            total += Path(f"{history}{suffix}").stat().st_size
    return total
