"""The recommender's own port: `/metrics`, `/healthz`, `/readyz`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


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
