"""The webhook's HTTP side: reviews in, answers out, and how it is."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from webhook.admission import decide
from webhook.knowledge import Knowledge
from webhook.metrics import Metrics
from webhook.patches import Raw
from webhook.reviews import (
    REVIEW_SCHEMA,
    NoReviewError,
    Outcome,
    Reason,
    answer,
    parse_review,
    review_of_start,
    uid_of,
)
from webhook.settings import InjectionSettings

logger = logging.getLogger(__name__)

BODY_LIMIT = 3 * 1024 * 1024
"""Bytes. The API server's own limit on objects."""
MOST_WAITING = 256
"""Requests at a time. At one or two milliseconds each, the last of them is still answered well within the API server's
two seconds; more would make all of them late."""
_LONGEST_READ = 10 * BODY_LIMIT
"""A client that is still writing does not hear an answer: so much is read and dropped first."""
_START = 64 * 1024
_BODY_SECONDS = 5.0

_DESCRIPTION = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": REVIEW_SCHEMA}}},
    "responses": {
        "200": {"description": "An AdmissionReview with the answer: the pod is allowed, whatever came."},
        "400": {"description": "The body is no AdmissionReview."},
        "413": {"description": "The body is longer than any review, and does not begin as one."},
    },
}


class _TooSlowError(Exception):
    """The body did not come in time; whoever sends it has given up."""


@dataclass(frozen=True)
class Surroundings:
    """What the application is told by the server around it."""

    trouble: Callable[[], str | None] = lambda: None
    """Why reviews should go to another replica, in a sentence."""
    ages: Callable[[], Mapping[str, float]] = dict
    """Seconds since the objects were last known to be so, by kind."""
    certificate_begins: Callable[[], float] = lambda: math.nan
    """Unix time."""
    certificate_expires: Callable[[], float] = lambda: math.nan
    """Unix time."""
    waiting: Callable[[], int] = lambda: 0
    """Requests that have come and are not answered yet."""
    draining: Callable[[], bool] = lambda: False
    """The server ends soon: clients are to connect anew, and so to another replica."""


def create_app(
    knowledge: Callable[[], Knowledge | None], injecting: InjectionSettings, around: Surroundings | None = None
) -> FastAPI:
    """The application. `knowledge` gives what is known at the moment, None before all of it was read."""
    around = around or Surroundings()
    app = FastAPI(title="vllm-rightsizer webhook", docs_url=None, redoc_url=None, openapi_url=None)

    def trouble() -> str | None:
        if around.draining():
            return "the server is ending"
        return around.trouble() or ("the objects have not been read yet" if knowledge() is None else None)

    metrics = Metrics(
        around.ages, around.certificate_begins, around.certificate_expires, lambda: trouble() is None, around.waiting
    )

    @app.post("/mutate", openapi_extra=_DESCRIPTION)
    async def mutate(request: Request) -> Response:
        # The body is taken as it is: validating a pod would cost more than all the rest, and lose unknown fields.
        overloaded = around.waiting() > MOST_WAITING
        whole = True
        try:
            body, whole = await _body(request)
            begun = time.perf_counter()
            review = parse_review(body) if whole and not overloaded else _unread(body)
        except (NoReviewError, _TooSlowError, ClientDisconnect) as error:
            metrics.malformed()
            logger.warning("a request held no admission review: %s", error or "its sender is gone")
            return _json({"error": str(error)}, 400 if whole else 413)
        if not whole:
            outcome = _left_alone(Reason.TOO_LONG, f"the review is longer than {BODY_LIMIT} bytes; no pod is")
        elif overloaded:
            outcome = _left_alone(Reason.OVERLOADED, "more pods are being created than the webhook can look at")
        else:
            outcome = decide(review, knowledge(), injecting)
        answered = answer(review, outcome)
        content = _json(answered, 200)
        if around.draining():
            content.headers["connection"] = "close"
        seconds = time.perf_counter() - begun
        patch_bytes = len(answered["response"].get("patch", "")) * 3 // 4
        metrics.admitted(outcome.reason, seconds, patch_bytes)
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
        return _text("ok\n")

    @app.get("/readyz")
    async def readyz() -> Response:
        sentence = trouble()
        return _text("ok\n") if sentence is None else _text(f"{sentence}\n", 503)

    @app.get("/metrics")
    async def page(request: Request) -> Response:
        made = metrics.page(request.headers.get("accept"), request.headers.get("accept-encoding"))
        return Response(made.body, headers=made.headers)

    return app


async def _body(request: Request) -> tuple[bytes, bool]:
    """The request's body, and True; of one that is too long its start, and False. Raises `_TooSlowError`."""
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                if length <= BODY_LIMIT:
                    parts.append(part)
                length += len(part)
                if length > _LONGEST_READ:
                    break
    except TimeoutError as error:
        raise _TooSlowError(f"the body did not come within {_BODY_SECONDS:.0f} s") from error
    body = b"".join(parts)
    return (body, True) if length <= BODY_LIMIT else (body[:_START], False)


def _unread(start: bytes) -> Raw:
    """The review of a body that is not read. Raises `NoReviewError` where nobody could be answered."""
    review = review_of_start(start)
    if review is None:
        raise NoReviewError("the body's start holds no uid of a request; send an AdmissionReview")
    return review


def _left_alone(reason: Reason, why: str) -> Outcome:
    message = f"{why}; the pod is left as it is"
    return Outcome(reason, message, warnings=(message,))


def _text(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="text/plain")


def _json(value: object, status: int) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), status, media_type="application/json")
