"""AdmissionReview: how a request is read and how it is answered."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from webhook.patches import Raw

_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")
_UID = re.compile(rb'"request"\s*:\s*\{\s*"uid"\s*:\s*"([^"\\]{1,256})"')
_VERSION = re.compile(rb'"apiVersion"\s*:\s*"([^"\\]{1,256})"')
_LONGEST_WARNING = 256
"""Bytes; the API server cuts longer ones."""

REVIEW_SCHEMA: Raw = {
    "type": "object",
    "required": ["request"],
    "properties": {
        "apiVersion": {"enum": list(_VERSIONS)},
        "kind": {"const": "AdmissionReview"},
        "request": {
            "type": "object",
            "required": ["uid", "object"],
            "properties": {
                "uid": {"type": "string"},
                "namespace": {"type": "string"},
                "operation": {"enum": ["CREATE", "UPDATE", "DELETE", "CONNECT"]},
                "dryRun": {"type": "boolean"},
                "object": {
                    "type": "object",
                    "properties": {
                        "metadata": {"type": "object"},
                        "spec": {
                            "type": "object",
                            "properties": {
                                "containers": {"type": "array", "items": {"type": "object"}},
                            },
                        },
                    },
                },
            },
        },
    },
}
"""What is asked, as JSON Schema; nothing is held to it, since whatever comes is allowed."""


class NoReviewError(ValueError):
    """What came is no AdmissionReview at all; the message says what it is instead."""


class Reason(StrEnum):
    """What became of a request, in one word, as metrics and logs count it."""

    APPLIED = "applied"
    DRY_RUN = "dry-run"
    INJECTED = "injected"
    REFUSED = "refused"
    OFF = "off"
    EXCLUDED = "excluded"
    NOT_VLLM = "not-vllm"
    UNREAD = "unread"
    NOT_A_POD = "not-a-pod"
    NOT_CREATE = "not-create"
    NO_REQUEST = "no-request"
    NOT_READY = "not-ready"
    OVERLOADED = "overloaded"
    TOO_LONG = "too-long"
    ERROR = "error"


@dataclass(frozen=True)
class Outcome:
    """What is done to a pod, and why no more."""

    reason: Reason
    message: str = ""
    patch: tuple[Raw, ...] = ()
    warnings: tuple[str, ...] = ()


def parse_review(body: bytes) -> Raw:
    """The AdmissionReview in `body`, not validated further. Raises `NoReviewError` with a sentence."""
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NoReviewError(f"the body is no JSON ({error}); send an AdmissionReview") from error
    if not isinstance(review, dict):
        raise NoReviewError(f"the body is a JSON {type(review).__name__}; send an AdmissionReview object")
    kind = review.get("kind")
    if kind != "AdmissionReview" and "request" not in review:
        raise NoReviewError(
            f"the body is an object of kind {kind!r}; send it inside an AdmissionReview, as its request"
        )
    return review


def review_of_start(start: bytes) -> Raw | None:
    """As much of a review as an answer needs, from its first bytes; None where the request's uid is not in them.

    For bodies that are not read whole. The API server writes the uid first of all.
    """
    uid = _UID.search(start)
    if uid is None:
        return None
    version = _VERSION.search(start, 0, uid.start())
    return {
        "apiVersion": version[1].decode() if version is not None else None,
        "request": {"uid": uid[1].decode(errors="replace")},
    }


def uid_of(review: object) -> str:
    """The request's uid, which the answer has to repeat; empty where there is none."""
    request = review.get("request") if isinstance(review, dict) else None
    uid = request.get("uid") if isinstance(request, dict) else None
    return uid if isinstance(uid, str) else ""


def answer(review: object, outcome: Outcome) -> Raw:
    """The AdmissionReview to send back. The pod is always allowed."""
    version = review.get("apiVersion") if isinstance(review, dict) else None
    response: dict[str, Any] = {"uid": uid_of(review), "allowed": True}
    if outcome.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(outcome.patch, separators=(",", ":")).encode()).decode()
    if outcome.warnings:
        response["warnings"] = [_short(f"vllm-rightsizer: {warning}") for warning in outcome.warnings]
    response["auditAnnotations"] = {"outcome": outcome.reason.value, "reason": outcome.message}
    return {
        "apiVersion": version if version in _VERSIONS else _VERSIONS[0],
        "kind": "AdmissionReview",
        "response": response,
    }


def _short(text: str) -> str:
    """`text` on one line, cut to what the API server lets through."""
    line = " ".join(text.split()).encode(errors="replace")
    if len(line) <= _LONGEST_WARNING:
        return line.decode()
    return line[: _LONGEST_WARNING - 3].decode(errors="ignore") + "..."
