"""The webhook as a program: uvicorn over TLS, until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn

from recommender.api.listening import ListenError, bound_socket
from recommender.api.logs import log_to_stderr
from recommender.api.object_store import FileObjectStore
from webhook.app import create_app
from webhook.certificates import CertificateFiles, ensure_certificates
from webhook.settings import WebhookSettings
from webhook.watching import KnowledgeWatch

logger = logging.getLogger(__name__)

_DRAIN_SECONDS = 5
"""The API server waits 2 s for an answer; the rest is for connections to close."""
_KEEP_ALIVE_SECONDS = 120
"""Longer than the 90 s for which the API server keeps an idle connection: were it ours that closes first, a review sent
at that moment would be lost, and the pod would start unmodified."""
_RENEWAL_SECONDS = 3600.0


def serve(settings: WebhookSettings) -> None:
    """Answer admission reviews until SIGTERM or SIGINT; requests under way are finished first.

    Raises `ListenError` where the address cannot be had, or no certificate for it.
    """
    listening = bound_socket(settings.host, settings.port)
    with contextlib.closing(listening):
        certificates = _Certificates(settings)
        log_to_stderr()
        _serve_on(listening, certificates, settings)


def _serve_on(listening: socket.socket, certificates: _Certificates, settings: WebhookSettings) -> None:
    watch = KnowledgeWatch(FileObjectStore(settings.objects))
    app = create_app(
        lambda: watch.knowledge,
        settings.injecting,
        age_seconds=lambda: watch.age_seconds,
        certificate_expires=lambda: certificates.files.expires.timestamp(),
    )
    config = uvicorn.Config(
        app,
        ssl_certfile=certificates.files.certificate,
        ssl_keyfile=certificates.files.key,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    config.load()
    server = uvicorn.Server(config)
    with _signals_handled():
        watch.start()
        certificates.keep_fresh(config.ssl)
        host, port = listening.getsockname()[:2]
        logger.info("serving https://%s:%d/mutate", host, port, extra={"ca": str(certificates.files.ca)})
        try:
            server.run(sockets=[listening])
        finally:
            certificates.stop()
            watch.stop()
    logger.info("stopped")


class _Certificates:
    """The served certificate, renewed while the server runs."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._folder = settings.tls_dir
        self._hosts = () if settings.host in ("0.0.0.0", "::") else (settings.host,)
        try:
            self.files: CertificateFiles = ensure_certificates(self._folder, self._hosts)
        except OSError as error:
            raise ListenError(
                f"certificates cannot be kept in {self._folder} ({error.strerror}): give a folder that this user can "
                "write to with --tls-dir"
            ) from error
        self._stopped = threading.Event()

    def keep_fresh(self, context: ssl.SSLContext | None) -> None:
        """Look every hour; a context serves a new certificate from the next handshake on."""
        threading.Thread(target=self._run, args=(context,), name="certificates", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self, context: ssl.SSLContext | None) -> None:
        while not self._stopped.wait(_RENEWAL_SECONDS):
            try:
                renewed = ensure_certificates(self._folder, self._hosts)
                if renewed != self.files and context is not None:
                    context.load_cert_chain(renewed.certificate, renewed.key)
                    logger.info("the certificate is renewed", extra={"expires": renewed.expires.isoformat()})
                self.files = renewed
            except Exception:
                logger.exception("the certificate in %s cannot be renewed", self._folder)


@contextlib.contextmanager
def _signals_handled() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more at its end; here the program simply goes on to return."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ignore(_number: int, _frame: FrameType | None) -> None:
        """The server has stopped already."""

    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
