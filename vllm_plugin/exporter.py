"""The background thread of each vLLM process that measures something, and the one HTTP port of them all."""

from __future__ import annotations

import fcntl
import os
import socket
import socketserver
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Callable

from vllm_plugin import page
from vllm_plugin.guard import logger
from vllm_plugin.names import DEFAULT_PORT, ENV_PORT
from vllm_plugin.snapshots import SnapshotFolder, default_folder

_PERIOD_SECONDS = 1.0
_WORKER_PATIENCE_SECONDS = 10.0
_MAX_CONNECTIONS = 8
_REQUEST_SECONDS = 10.0


def port_of(text: str | None) -> int:
    """The port to serve on; the default for anything that is not one."""
    if text and text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    if text:
        logger.warning("vllm-rightsizer: %s=%r is not a port, using %d", ENV_PORT, text, DEFAULT_PORT)
    return DEFAULT_PORT


class Exporter:
    """Writes this process's snapshot every second, and serves everybody's if no better process does.

    Engines lead, since their figures change; the workers' do not. A worker leads where it is alone (the other pods
    of a multi-node engine), and hands over as soon as an engine shows up.
    """

    def __init__(self, report: Callable[[], dict[str, Any]]) -> None:
        """`report` gives this process's snapshot as it is now."""
        self._report = report
        self._port = port_of(os.environ.get(ENV_PORT))
        self._folder: SnapshotFolder | None = None
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
                self._say(f"vllm-rightsizer's exporter: {error!r}")
            time.sleep(_PERIOD_SECONDS)

    def tick(self) -> None:
        """What is to be done once a second."""
        report = self._report()
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

    def collect(self) -> str:
        """The page, with this process's figures of this moment."""
        own = self._report()
        own["started"] = 0
        return page.render([own, *(self._folder.others() if self._folder is not None else ())])

    def _write(self, report: dict[str, Any]) -> None:
        try:
            if self._folder is None:
                self._folder = SnapshotFolder(default_folder(os.environ, self._port))
            self._folder.write(report)
        except OSError as error:
            # Without a folder each process can still show its own figures.
            self._say(f"vllm-rightsizer cannot write its snapshots: {error}")

    def _engine_elsewhere(self) -> bool:
        return self._folder is not None and any(other["engines"] for other in self._folder.others())

    def _lead(self) -> None:
        if self._server is not None or not self._take_lock():
            return
        try:
            self._server = _Server(self._port, self.collect)
        except OSError as error:
            self._say(f"vllm-rightsizer cannot serve metrics on port {self._port}: {error}. It keeps trying.")
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
        lock = os.open(self._folder.path / "leader.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def _say(self, message: str) -> None:
        """Log each message once."""
        if message not in self._said:
            self._said.add(message)
            logger.warning("%s", message)


class _Handler(BaseHTTPRequestHandler):
    """GET /metrics and /healthz, one request a connection: HTTP/1.0."""

    server: _Server
    timeout = _REQUEST_SECONDS

    def do_GET(self) -> None:
        """Answer one request; the method's name is http.server's."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            try:
                self._answer(200, page.CONTENT_TYPE, self.server.collect())
            except Exception as error:
                self._answer(500, "text/plain", f"the page could not be made: {error!r}\n")
        elif path == "/healthz":
            self._answer(200, "text/plain", "ok\n")
        else:
            self._answer(404, "text/plain", "metrics are at /metrics\n")

    def _answer(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
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

    def __init__(self, port: int, collect: Callable[[], str]) -> None:
        self.collect = collect
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

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
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
