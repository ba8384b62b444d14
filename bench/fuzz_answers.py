"""What the webhook may answer to whatever is sent to it."""

from __future__ import annotations

import json
from typing import Any

import httpx


def review_in(body: bytes) -> dict[str, Any] | None:
    """The AdmissionReview in `body`; None where there is none."""
    try:
        review = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(review, dict) and (review.get("kind") == "AdmissionReview" or "request" in review):
        return review
    return None


def fault_in(answer: httpx.Response, review: dict[str, Any] | None) -> str | None:
    """What is wrong with the answer to `review`: only what is no review at all may be refused."""
    if review is None:
        return None if answer.status_code == 400 else f"{answer.status_code} for what is no review"
    if answer.status_code != 200:
        return f"status {answer.status_code} for a review"
    request = review.get("request")
    uid = request.get("uid") if isinstance(request, dict) else None
    response = answer.json()["response"]
    if response["allowed"] is not True or response["uid"] != (uid if isinstance(uid, str) else ""):
        return f"allowed {response['allowed']}, uid {response['uid']!r}"
    return None
