"""The recommender's own port: `/metrics`, `/healthz`, `/readyz`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class PortInUseError(Exception):
    """The port cannot be listened on; the message says which, and what to do."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `PortInUseError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise PortInUseError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; free it, or choose another with --port"
        ) from error
    return listening


def probes(registry: CollectorRegistry, alive: Callable[[], str | None], ready: Callable[[], str | None]) -> FastAPI:
    """The application. `alive` and `ready` return None, or what is wrong."""
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @application.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def answer(fault: str | None) -> Response:
        return Response(fault or "ok", status_code=503 if fault else 200, media_type="text/plain")

    @application.get("/healthz")
    async def healthz() -> Response:
        return answer(alive())

    @application.get("/readyz")
    async def readyz() -> Response:
        return answer(ready())

    return application


class ProbeServer(uvicorn.Server):
    """uvicorn beside other tasks: signals are the service's business."""

    def __init__(self, application: FastAPI) -> None:
        super().__init__(uvicorn.Config(application, log_config=None, access_log=False, lifespan="off"))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
