"""The long-running recommender: `vllm-rightsizer recommender`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from recommender.api.listening import bound_socket
from recommender.api.logs import log_to_stderr
from recommender.api.scopes import Scope
from recommender.history import History
from recommender.history_files import HistoryInUseError, UnreadableHistoryError, VolumeError
from recommender.http_api import ApiSources, HttpApi
from recommender.leading import clock
from recommender.memory import collect_seldom, keep_freed_memory
from recommender.opencost import OpenCost, OpenCostSettings
from recommender.prices import PriceFile, Prices
from recommender.probes import ProbeServer, probes
from recommender.promql.backend import PrometheusBackend
from recommender.promql.settings import PrometheusSettings
from recommender.recommending import Recommender
from recommender.rounds import Rounds
from recommender.scraping import Scraper
from recommender.sources import Objects, in_folder, on_api_server
from recommender.telemetry import Telemetry
from recommender.terms import Terms

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 30.0
"""A former leader has so long to end, and with it its lock on the history."""
_LOCK_LOOK_SECONDS = 0.2


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
    leader_elect: bool = True
    """Whether others may run beside this one on the API server: then one of them leads, by a Lease in `namespace`."""
    namespace: str = "vllm-rightsizer"
    """That of our servers on the API server: it has the Lease, and the webhook is not asked about its pods."""
    prices: Path | None = None
    """File of the user's own prices."""
    opencost: str | None = None
    """URL of OpenCost's API, which is asked for what that file does not name."""
    api: bool = False
    """Whether the HTTP API is answered beside the probes."""
    scope: Scope = Scope.OPT_IN
    """Which namespaces' pods the webhook is asked about."""
    plugin_maps: bool = True
    """Whether the plugin's ConfigMap is kept in each namespace in scope: no other way of injecting needs it."""
    gpu_claims: bool = True
    """Whether ResourceClaimTemplates are kept for workloads whose GPUs are allocated by claims."""
    prometheus: PrometheusSettings | None = None
    """Where intervals come from: then `history` is a cache of them. None for the recommender's own scrapes."""


def serve(settings: RecommenderSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises `HistoryError`, `ListenError`, `CredentialsError` or `PricesError` where
    it cannot start."""
    log_to_stderr()
    keep_freed_memory()
    collect_seldom()
    asyncio.run(_until_signal(settings))


async def run(settings: RecommenderSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. What is counted is stored before it returns."""
    listening = bound_socket(settings.host, settings.port)
    telemetry = Telemetry()
    with contextlib.closing(listening):
        async with _priced(settings) as prices, _objects(settings, telemetry) as objects:
            backend = PrometheusBackend(settings.prometheus, telemetry.registry) if settings.prometheus else None
            terms = Terms(objects, telemetry, lambda waits: _work(settings, objects, telemetry, prices, waits, backend))
            api = HttpApi(_answers(settings, objects, prices)) if settings.api else None
            server = ProbeServer(probes(telemetry.registry, terms.alive, terms.ready, api))
            answering = asyncio.create_task(server.serve(sockets=[listening]))
            answering.add_done_callback(lambda _: stop.set())
            logger.info(
                "recommender: objects %s, history %s, probes on %s:%d",
                objects.where,
                settings.history,
                f"[{settings.host}]" if ":" in settings.host else settings.host,
                listening.getsockname()[1],
            )
            try:
                await terms.run(stop)
            finally:
                if api is not None:
                    api.close()
                server.should_exit = True
                await answering
    logger.info("recommender: stopped")


@contextlib.asynccontextmanager
async def _priced(settings: RecommenderSettings) -> AsyncIterator[Callable[[], Prices]]:
    prices = PriceFile(settings.prices) if settings.prices is not None else Prices
    if settings.opencost is None:
        yield prices
        return
    opencost = OpenCost(OpenCostSettings(settings.opencost), prices)
    async with opencost.running():
        yield opencost


def _answers(settings: RecommenderSettings, objects: Objects, prices: Callable[[], Prices]) -> ApiSources:
    """A recommender that stands by can answer as well: it reads the same objects, and the history that is there."""
    return ApiSources(objects.store, settings.history, prices, objects.look, objects.waiting)


@contextlib.asynccontextmanager
async def _objects(settings: RecommenderSettings, telemetry: Telemetry) -> AsyncIterator[Objects]:
    if settings.objects is not None:
        yield in_folder(settings.objects, settings.scope)
        return
    async with on_api_server(
        settings.kubeconfig,
        settings.context,
        settings.scope,
        settings.namespace,
        telemetry,
        leader_elect=settings.leader_elect,
        plugin_maps=settings.plugin_maps,
        gpu_claims=settings.gpu_claims,
    ) as objects:
        yield objects


@contextlib.asynccontextmanager
async def _work(
    settings: RecommenderSettings,
    objects: Objects,
    telemetry: Telemetry,
    prices: Callable[[], Prices],
    waits: Callable[[str], None],
    backend: PrometheusBackend | None,
) -> AsyncIterator[Rounds]:
    """What is done by whoever leads. Raises `HistoryError` where the history cannot be opened."""
    async with Scraper() as scraper:
        history = await _opened(settings.history, _LOCK_SECONDS if objects.leadership.shared else 0.0, waits)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.closing(history))
            source = await stack.enter_async_context(backend.source(history)) if backend is not None else None

            def made() -> Recommender:
                return Recommender(
                    objects.store,
                    history,
                    scraper,
                    telemetry,
                    prices,
                    objects.look,
                    source,
                    plugin_maps=settings.plugin_maps,
                )

            try:
                recommender = made()
            except UnreadableHistoryError as error:
                logger.error("%s; it was set aside as %s and a new history begins", error, history.start_anew())
                recommender = made()
            try:
                yield Rounds(recommender, objects, telemetry, settings.history)
            finally:
                recommender.stop()


async def _opened(path: Path, patience_seconds: float, waits: Callable[[str], None]) -> History:
    """The history, once whoever holds it has let go; for longer than `patience_seconds` that is not waited for."""
    deadline = clock() + patience_seconds
    while True:
        # In a thread: a large file is read through, and meanwhile the lease has to be renewed.
        opening = asyncio.ensure_future(asyncio.to_thread(History.open, path))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_closed)
            raise
        except HistoryInUseError as error:
            if clock() >= deadline:
                raise
            waits(f"{error}; it is waited for, at most {patience_seconds:g} s")
        except VolumeError as error:
            if patience_seconds:
                # Others have volumes of their own.
                raise
            # Another process could do no more here; somebody has to make room.
            waits(f"{error}; it is tried again")
        await asyncio.sleep(_LOCK_LOOK_SECONDS)


def _closed(opening: asyncio.Future[History]) -> None:
    """Nobody waits for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def _until_signal(settings: RecommenderSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)
