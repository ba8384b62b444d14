"""The background thread of each vLLM process that measures something, and the one HTTP port of them all."""

from __future__ import annotations

import fcntl
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Callable

from vllm_plugin.formats import Format, chosen
from vllm_plugin.guard import hook, logger, shown, warn
from vllm_plugin.names import ENV_DIR, ENV_PORT, VERSION
from vllm_plugin.page import families
from vllm_plugin.snapshots import SnapshotFolder, default_folder, port_of

_PERIOD_SECONDS = 1.0
_WORKER_PATIENCE_SECONDS = 10.0
_MAX_CONNECTIONS = 8
_REQUEST_SECONDS = 10.0
_PAUSE_SECONDS = 0.5
_ANSWER_SECONDS = 5.0
"""Whoever has the port is asked who it is once; where vLLM starts, it may be slow to answer."""
_MOST_MESSAGES = 100


class Exporter:
    """Writes this process's snapshot every second, and serves everybody's if no better process does.

    Engines lead, since their figures change; the workers' do not. A worker leads where it is alone (the other pods
    of a multi-node engine), and hands over as soon as an engine shows up.
    """

    def __init__(self, report: Callable[[], dict[str, Any]], folder: SnapshotFolder | None = None) -> None:
        """`report` gives this process's snapshot as it is now; `folder`: where it has written one already."""
        self._report = report
        self._port = port_of(os.environ.get(ENV_PORT))
        self._folder = folder
        self._lock: int | None = None
        self._server: _Server | None = None
        self._ready_since: float | None = None
        self._said: set[str] = set()

    def start(self) -> None:
        """Run in a daemon thread from now on."""
        threading.Thread(target=self._run, name="vllm-rightsizer", daemon=True).start()
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def _run(self) -> None:
        while True:
            try:
                self.tick()
            except Exception as error:
                hook("exporter").count(error)
                self._say(f"vllm-rightsizer's exporter: {shown(error)}")
            time.sleep(_PERIOD_SECONDS)

    def tick(self) -> None:
        """What is to be done once a second."""
        report = self._report()
        with _counted():
            self._export(report)

    def _export(self, report: dict[str, Any]) -> None:
        self._write(report)
        if not report["engines"] and not report["workers"]:
            return
        if self._ready_since is None:
            self._ready_since = time.monotonic()
        if report["engines"]:
            self._lead()
        elif self._engine_elsewhere():
            self._step_down()
        elif time.monotonic() - self._ready_since > _WORKER_PATIENCE_SECONDS:
            self._lead()

    def snapshots(self) -> list[dict[str, Any]]:
        """This process's, with its figures of this moment, and all others'."""
        own, folder = self._report(), self._folder
        return [own] if folder is None else [folder.complete(own), *folder.others()]

    def page(self, form: Format) -> bytes:
        """The page as the reader likes it."""
        snapshots = self.snapshots()
        with _counted():
            return form.write(families(snapshots))

    def _write(self, report: dict[str, Any]) -> None:
        try:
            if self._folder is None:
                self._folder = SnapshotFolder(default_folder(os.environ, self._port))
            self._folder.write(report)
        except OSError as error:
            # Without a folder each process can still show its own figures. One that somebody removed is made anew.
            if self._folder is not None and not self._folder.path.is_dir():
                self._folder.close()
                self._folder = None
            hook("snapshots").count(error)
            self._say(f"vllm-rightsizer cannot write its snapshots: {error}")

    def _engine_elsewhere(self) -> bool:
        return self._folder is not None and any(other["engines"] for other in self._folder.others())

    def _lead(self) -> None:
        if self._server is not None or not self._take_lock():
            return
        try:
            self._server = _Server(self._port, self.page)
        except OSError as error:
            hook("exporter").count(error)
            self._say_taken(error)
            self._drop_lock()
            return
        threading.Thread(target=self._server.serve_forever, name="vllm-rightsizer-http", daemon=True).start()
        logger.info("vllm-rightsizer serves its metrics on port %d", self._port)

    def _step_down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            self._drop_lock()

    def _take_lock(self) -> bool:
        if self._folder is None or self._lock is not None:
            return True
        try:
            lock = os.open(self._folder.path / "leader.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # In such a folder nobody can lead: who has the port first serves, at least its own figures.
            hook("snapshots").count(error)
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _leave_to_parent(self) -> None:
        """In a forked child: copies of the lock and of the socket would outlive the parent."""
        if self._server is not None:
            self._server.socket.close()
            self._server = None
        self._drop_lock()

    def _say_taken(self, error: OSError) -> None:
        message = f"vllm-rightsizer cannot serve metrics on port {self._port}: {error}. It keeps trying."
        if message in self._said:
            return
        self._say(message)
        if _is_ours(self._port):
            self._say(
                f"On port {self._port} another vLLM's vllm-rightsizer serves, which does not know of this one. Give "
                f"each container or pod its own {ENV_PORT}, or containers of one pod one {ENV_DIR} on a shared volume."
            )

    def _say(self, message: str) -> None:
        """Log each message once, and not all of those that differ each time."""
        if message not in self._said and len(self._said) < _MOST_MESSAGES:
            self._said.add(message)
            warn("%s", message)


@contextmanager
def _counted() -> Iterator[None]:
    """Add what the exporter's threads take from vLLM's to the hooks' seconds: the processor's time, not the wait."""
    began = time.thread_time()
    try:
        yield
    finally:
        hook("exporter").seconds += time.thread_time() - began


def _is_ours(port: int) -> bool:
    """Does a vllm-rightsizer answer on that port of this host?"""
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=_ANSWER_SECONDS) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return _Handler.server_version.partition("/")[0].encode() in client.recv(1024)
    return False


class _Handler(BaseHTTPRequestHandler):
    """GET /metrics and /healthz, one request a connection: HTTP/1.0."""

    server: _Server
    timeout = _REQUEST_SECONDS
    server_version = f"vllm-rightsizer/{VERSION}"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one request; the method's name is http.server's."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            try:
                form = chosen(", ".join(self.headers.get_all("Accept", ())))
                self._answer(200, form.content_type, self.server.page(form))
            except Exception as error:
                hook("exporter").count(error)
                self._answer(500, "text/plain", f"the page could not be made: {shown(error)}\n".encode())
        elif path == "/healthz":
            self._answer(200, "text/plain", b"ok\n")
        else:
            self._answer(404, "text/plain", b"metrics are at /metrics\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing: a scrape is no news in vLLM's log."""


class _Server(socketserver.ThreadingMixIn, HTTPServer):
    """Both address families on one socket where the host has IPv6.

    It shares vLLM's process, so connections are few and short whatever clients do.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 4 * _MAX_CONNECTIONS

    def __init__(self, port: int, page: Callable[[Format], bytes]) -> None:
        self.page = page
        self._open: dict[socket.socket, float] = {}
        """Since when each connection is open."""
        try:
            self.address_family = socket.AF_INET6
            super().__init__(("::", port), _Handler)
        except OSError:
            self.address_family = socket.AF_INET
            super().__init__(("0.0.0.0", port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which can take long in a pod."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "vllm-rightsizer", self.server_address[1]

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection. One that cannot be had, for want of files, stays in the queue: do not ask at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE_SECONDS)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 (socketserver gives it)
        """Called for each connection, in the thread that accepts: False closes it."""
        if len(self._open) >= _MAX_CONNECTIONS:
            return False
        self._open[request] = time.monotonic()
        return True

    def service_actions(self) -> None:
        """Called about twice a second and after each connection: end those that take too long."""
        latest = time.monotonic() - _REQUEST_SECONDS
        for request, since in list(self._open.items()):
            if since < latest:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Called at the end of each connection, however it ends."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that went away is no news in vLLM's log."""
