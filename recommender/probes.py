"""The recommender's own port: `/metrics`, `/healthz`, `/readyz`, and the HTTP API where it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry

from recommender.api.metric_pages import metric_page
from recommender.http_api import ROOT, HttpApi

_PATIENCE_SECONDS = 5
"""For so long requests that have come are answered after a signal."""


def probes(
    registry: CollectorRegistry,
    alive: Callable[[], str | None],
    ready: Callable[[], str | None],
    api: HttpApi | None = None,
) -> FastAPI:
    """The application. `alive` and `ready` return None, or what is wrong."""
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @application.get("/metrics")
    async def metrics(request: Request) -> Response:
        page = metric_page(registry, request.headers.get("accept"), request.headers.get("accept-encoding"))
        return Response(page.body, headers=page.headers)

    def answer(fault: str | None) -> Response:
        return Response(fault or "ok", status_code=503 if fault else 200, media_type="text/plain")

    @application.get("/healthz")
    async def healthz() -> Response:
        return answer(alive())

    @application.get("/readyz")
    async def readyz() -> Response:
        return answer(ready())

    if api is not None:
        application.mount(ROOT, api.application)
    return application


class ProbeServer(uvicorn.Server):
    """uvicorn beside other tasks: signals are the service's business."""

    def __init__(self, application: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=_PATIENCE_SECONDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
