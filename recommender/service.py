"""The long-running recommender: `vllm-rightsizer recommender`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recommender.api.apiserver.connection import ApiServer
from recommender.api.listening import bound_socket
from recommender.api.logs import log_to_stderr
from recommender.api.object_store import FileObjectStore, ObjectStore
from recommender.cluster_objects import ClusterObjects
from recommender.discovery import Census
from recommender.history import History
from recommender.memory import keep_freed_memory
from recommender.prices import PriceFile, Prices
from recommender.probes import ProbeServer, probes
from recommender.recommending import SHORTEST_PERIOD_SECONDS, Recommender
from recommender.scraping import DEADLINE_SECONDS, Scraper
from recommender.telemetry import Telemetry

logger = logging.getLogger(__name__)

_ROUNDS_MISSED = 5
"""So many rounds late, the service calls itself unhealthy."""
_EARLY = 20
"""A round may come early so many times its length after the last one: pods come and go all the time where there are
thousands, and are met soon enough in the next round; where there are few, the first one need not wait."""
_LOOK_SECONDS = 0.1
"""Between two looks whether the objects can be read."""


@dataclass(frozen=True)
class RecommenderSettings:
    """`objects`: folder of the object store, None for the API server, which `kubeconfig` and its `context` reach, or
    the pod's service account; `history`: file of the embedded store; where to answer probes."""

    objects: Path | None
    history: Path
    host: str = "127.0.0.1"
    port: int = 9416
    kubeconfig: Path | None = None
    context: str | None = None
    prices: Path | None = None
    """File of the user's own prices."""


def serve(settings: RecommenderSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises `HistoryError`, `ListenError`, `CredentialsError` or `PricesError` where
    it cannot start."""
    log_to_stderr()
    keep_freed_memory()
    asyncio.run(_until_signal(settings))


async def run(settings: RecommenderSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. What is counted is stored before it returns."""
    listening = bound_socket(settings.host, settings.port)
    with contextlib.closing(listening), History.open(settings.history) as history:
        telemetry = Telemetry()
        async with _objects(settings, telemetry) as objects, Scraper() as scraper:
            service = _Service(settings, history, scraper, telemetry, objects)
            server = ProbeServer(probes(telemetry.registry, service.alive, service.ready))
            answering = asyncio.create_task(server.serve(sockets=[listening]))
            logger.info(
                "recommender: objects %s, history %s, probes on %s:%d",
                objects.where,
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


@dataclass(frozen=True)
class _Objects:
    """Where objects are read and written: `revision` changes with what people say in them, `waiting` is what keeps them
    from being read, and `trouble` what is not up to date."""

    where: str
    store: ObjectStore
    revision: Callable[[], object]
    look: Callable[[], Census] | None = None
    waiting: Callable[[], str | None] = lambda: None
    trouble: Callable[[], str | None] = lambda: None


@contextlib.asynccontextmanager
async def _objects(settings: RecommenderSettings, telemetry: Telemetry) -> AsyncIterator[_Objects]:
    if settings.objects is not None:
        folder = FileObjectStore(settings.objects)
        yield _Objects(str(settings.objects), folder, folder.revision)
        return
    server = await ApiServer.connect(settings.kubeconfig, settings.context)
    try:
        cluster = ClusterObjects(server, telemetry, instance=socket.gethostname())
        async with cluster.running():
            yield _Objects(
                server.url,
                cluster,
                cluster.revision,
                cluster.census,
                lambda: None if cluster.synced else cluster.trouble,
                lambda: cluster.trouble,
            )
    finally:
        await server.close()


class _Service:
    """Rounds in time, and whether they are."""

    def __init__(
        self,
        settings: RecommenderSettings,
        history: History,
        scraper: Scraper,
        telemetry: Telemetry,
        objects: _Objects,
    ) -> None:
        self._objects = objects
        self._history = settings.history
        self._telemetry = telemetry
        self._ended = time.monotonic()
        self._rounds = 0
        self._fault: str | None = None
        prices = PriceFile(settings.prices) if settings.prices is not None else Prices
        self.recommender = Recommender(objects.store, history, scraper, telemetry, prices, objects.look)

    async def rounds(self, until: set[asyncio.Task[Any]]) -> None:
        """One round after the other, until one of the tasks is done."""
        while not any(task.done() for task in until):
            if self._objects.waiting() is not None:
                # Nothing is wrong with this process: another one could do no more.
                self._ended = time.monotonic()
                await asyncio.wait(until, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                continue
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
            next_round = began + self.recommender.period * random.uniform(0.9, 1.1)
            await self._rest(until, next_round, self._ended + _EARLY * (self._ended - began))

    def alive(self) -> str | None:
        """What is wrong, where rounds no longer end."""
        since = time.monotonic() - self._ended
        # Many pods that do not answer are no reason to start anew.
        patience = _ROUNDS_MISSED * (self.recommender.period + DEADLINE_SECONDS) + self.recommender.longest_look
        if since > patience:
            return f"no round of scrapes ended in the last {since:.0f} s"
        return None

    def ready(self) -> str | None:
        """What is wrong, where recommendations are not kept up to date."""
        fault = self.alive() or self._fault or self._objects.trouble()
        return fault or (None if self._rounds else "the first round is not over")

    async def _rest(self, until: set[asyncio.Task[Any]], next_round: float, earliest: float) -> None:
        """Wait for the next round; a pod that comes, or a policy that changes, waits no longer than till `earliest`."""
        revision = self._objects.revision()
        while (left := next_round - time.monotonic()) > 0:
            pause = min(left, SHORTEST_PERIOD_SECONDS)
            done, _ = await asyncio.wait(until, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if done or (time.monotonic() >= earliest and self._objects.revision() != revision):
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
