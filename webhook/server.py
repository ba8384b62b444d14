"""The webhook as a program: uvicorn over TLS, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator
from types import FrameType

import uvicorn

from recommender.api.apiserver.connection import ApiServer
from recommender.api.listening import ListenError, bound_socket
from recommender.api.logs import log_to_stderr
from recommender.api.object_store import FileObjectStore
from webhook.app import Surroundings, create_app
from webhook.cluster_watch import ClusterWatch
from webhook.folder_certificates import MountedFolder, OwnFolder
from webhook.pairs import LIFETIMES, Lifetimes
from webhook.publishing import Publication
from webhook.secret_certificates import SecretCertificates
from webhook.serving import Certificates
from webhook.settings import WebhookSettings
from webhook.watching import FolderWatch, Watch

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5
"""For requests that are under way at the end. The API server waits 2 s for an answer."""
_KEEP_ALIVE_SECONDS = 120
"""Longer than the 90 s for which the API server keeps an idle connection: were it ours that closes first, a review sent
at that moment would be lost, and the pod would start unmodified."""
_WHILE_READING = (20_000, 50, 20)
"""Cyclic garbage is looked for this seldom while thousands of objects are read: what they are read from is freed
without, and the search took a third of the time."""
_LOOK_SECONDS = 0.1
_COLLECT_SECONDS = 5.0
_ANY_ADDRESS = ("0.0.0.0", "::")
_LOCAL = ("localhost", "127.0.0.1")


def serve(settings: WebhookSettings, lifetimes: Lifetimes = LIFETIMES) -> None:
    """Answer admission reviews until SIGTERM or SIGINT; requests under way are finished first.

    In a cluster it goes on for `drain_seconds` after the signal, not ready: until then reviews still come.
    Raises `ListenError` where the address cannot be had, or no certificate for it, and `CredentialsError`.
    """
    with contextlib.closing(bound_socket(settings.host, settings.port)) as listening:
        certificates = _own_folder(settings)
        log_to_stderr()
        asyncio.run(_serve_on(listening, settings, lifetimes, certificates))
    logger.info("stopped")


async def _serve_on(
    listening: socket.socket, settings: WebhookSettings, lifetimes: Lifetimes, own: OwnFolder | None
) -> None:
    async with _parts(settings, lifetimes, own) as (watch, certificates):
        around = Surroundings(
            trouble=lambda: watch.trouble if watch.knowledge is None else certificates.trouble,
            ages=watch.ages,
            certificate_begins=lambda: certificates.served.begins,
            certificate_expires=lambda: certificates.served.expires,
            waiting=lambda: len(server.server_state.tasks),
            draining=lambda: server.draining,
        )
        config = uvicorn.Config(
            create_app(lambda: watch.knowledge, settings.injecting, around),
            ssl_context_factory=lambda _config, _default: certificates.served.context,
            # A review costs a fifth less than with h11.
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = _Server(config, settings.cluster.drain_seconds if settings.objects is None else 0.0)
        async with collecting(watch), watch.running(), certificates.running():
            host, port = listening.getsockname()[:2]
            logger.info("serving https://%s:%d/mutate", f"[{host}]" if ":" in host else host, port)
            await server.serve(sockets=[listening])


@contextlib.asynccontextmanager
async def _parts(
    settings: WebhookSettings, lifetimes: Lifetimes, own: OwnFolder | None
) -> AsyncIterator[tuple[Watch, Certificates]]:
    """Where knowledge and certificates come from: a folder each, or the API server."""
    if settings.objects is not None and own is not None:
        yield FolderWatch(FileObjectStore(settings.objects)), own
        return
    cluster = settings.cluster
    api = await ApiServer.connect(cluster.kubeconfig)
    try:
        certificates: Certificates
        if settings.tls_dir is not None:
            publication = Publication(api, cluster.configuration)
            certificates = MountedFolder(settings.tls_dir, publication, lifetimes.skew)
        else:
            hosts = (f"{cluster.service}.{cluster.namespace}.svc", *_hosts(settings), *_LOCAL)
            certificates = SecretCertificates(
                api, cluster.namespace, cluster.tls_secret, cluster.configuration, hosts, lifetimes
            )
        yield ClusterWatch(api), certificates
    finally:
        await api.close()


@contextlib.asynccontextmanager
async def collecting(watch: Watch) -> AsyncIterator[None]:
    """Cyclic garbage is looked for seldom until all is read. What there is then stays, and is searched no more, so that
    from then on a search is cheap: by default, and every five seconds for all. Handshakes that fail, and connections
    that end before theirs (scanners, load balancers), leave 300 kB each, a part of which the default would not find
    before there are thousands.
    """
    default = gc.get_threshold()
    gc.set_threshold(*_WHILE_READING)

    async def collect() -> None:
        while watch.knowledge is None:
            await asyncio.sleep(_LOOK_SECONDS)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*default)
        while True:
            await asyncio.sleep(_COLLECT_SECONDS)
            gc.collect()

    task = asyncio.create_task(collect(), name="garbage")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.set_threshold(*default)


def _own_folder(settings: WebhookSettings) -> OwnFolder | None:
    if settings.objects is None or settings.tls_dir is None:
        return None
    try:
        return OwnFolder(settings.tls_dir, _hosts(settings))
    except OSError as error:
        raise ListenError(
            f"certificates cannot be kept in {settings.tls_dir} ({error.strerror}): give a folder that this user can "
            "write to with --tls-dir"
        ) from error


def _hosts(settings: WebhookSettings) -> tuple[str, ...]:
    return () if settings.host in (*_ANY_ADDRESS, *_LOCAL) else (settings.host,)


class _Server(uvicorn.Server):
    """Goes on for a while after the first signal: the API server learns late that this replica goes, and what it sends
    until then has to be answered. A second signal ends that.
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._drained_at: float | None = None

    @property
    def draining(self) -> bool:
        return self.should_exit or self._drained_at is not None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """uvicorn's own raises the signal once more at the end; here the program simply goes on to return."""
        if self.should_exit:
            self.force_exit = sig == signal.SIGINT
        elif self._drained_at is None and self._drain_seconds > 0:
            self._drained_at = time.monotonic() + self._drain_seconds
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._drained_at is not None and time.monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)
