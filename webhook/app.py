"""The webhook's HTTP side: reviews in, answers out, and how it is."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from webhook.admission import decide
from webhook.knowledge import Knowledge
from webhook.metrics import Metrics
from webhook.reviews import NoReviewError, answer, parse_review, uid_of
from webhook.settings import InjectionSettings

logger = logging.getLogger(__name__)

BODY_LIMIT = 3 * 1024 * 1024
"""Bytes. The API server's own limit on objects."""


class _TooLongError(Exception):
    """The body is longer than any object that the API server takes."""


def create_app(
    knowledge: Callable[[], Knowledge | None],
    injecting: InjectionSettings,
    *,
    age_seconds: Callable[[], float] = lambda: math.nan,
    certificate_expires: Callable[[], float] = lambda: math.nan,
) -> FastAPI:
    """The application. `knowledge` gives the latest snapshot, None before the first."""
    app = FastAPI(title="vllm-rightsizer webhook", docs_url=None, redoc_url=None, openapi_url=None)
    metrics = Metrics(age_seconds, certificate_expires)

    @app.post("/mutate")
    async def mutate(request: Request) -> Response:
        # The body is taken as it is: validating a pod would cost more than all the rest, and lose unknown fields.
        try:
            body = await _body(request)
            begun = time.perf_counter()
            review = parse_review(body)
        except (NoReviewError, _TooLongError) as error:
            metrics.malformed()
            logger.warning("a request held no admission review: %s", error)
            return _json({"error": str(error)}, 413 if isinstance(error, _TooLongError) else 400)
        outcome = decide(review, knowledge(), injecting)
        content = _json(answer(review, outcome), 200)
        seconds = time.perf_counter() - begun
        metrics.admitted(outcome.reason, seconds)
        asked = review.get("request")
        logger.info(
            "%s",
            outcome.message,
            extra={
                "uid": uid_of(review),
                "namespace": asked.get("namespace") if isinstance(asked, dict) else None,
                "outcome": outcome.reason.value,
                "operations": len(outcome.patch),
                "milliseconds": round(seconds * 1000, 3),
            },
        )
        return content

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        if knowledge() is None:
            return Response("the objects have not been read yet\n", 503, media_type="text/plain")
        return Response("ok\n", media_type="text/plain")

    @app.get("/metrics")
    async def page() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _body(request: Request) -> bytes:
    """The request's body, given up as soon as it is too long."""
    parts: list[bytes] = []
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > BODY_LIMIT:
            raise _TooLongError(f"the body is longer than {BODY_LIMIT} bytes; no Kubernetes object is")
        parts.append(part)
    return b"".join(parts)


def _json(value: object, status: int) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), status, media_type="application/json")
