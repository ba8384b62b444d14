"""What is told to people as Kubernetes Events, which `kubectl describe` shows. Pure.

An event that is told again within the hour for which API servers keep them is counted up, not told anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recommender.api.object_store import Raw
from recommender.api.policies import VALID
from recommender.api.recommendations import AUTOSCALER_CONFLICT, DEGRADED, PLUGIN_REPORTING, RECOMMENDED, VERIFIED
from recommender.api.units import format_bytes, format_micro_time
from recommender.conditions import CONTRADICTORY, ESTIMATED, PARTLY_FOLLOWED, SHORT
from recommender.samples import ASLEEP, KVCACHED, NO_KV_CACHE

CONTROLLER = "vllm-rightsizer.io/recommender"
KEPT_SECONDS = 3600.0
"""An API server's default; each time that an event is counted up, it begins anew."""

_LONGEST_NOTE = 1024
"""In bytes; API servers refuse longer ones."""
_LONGEST_NAME = 200
"""Of the object, in the event's name: with the digits it must be one that API servers take."""
_DIGITS = 16
_CLUSTER_NAMESPACE = "default"
"""Where events of objects live that have no namespace."""
_GOOD = {
    DEGRADED: "False",
    AUTOSCALER_CONFLICT: "False",
    VERIFIED: "True",
    PLUGIN_REPORTING: "True",
    RECOMMENDED: "True",
    VALID: "True",
}
"""Conditions whose opposite somebody should look at."""
_HARMLESS = ("NoPods", "PodsNotRunning", "InsufficientData", ESTIMATED, ASLEEP, KVCACHED, NO_KV_CACHE)
"""Reasons that a workload has at its beginning and at its end, and those of pods with nothing to size."""

_TO_BE_LOOKED_AT = ("LastValidPolicy", SHORT, CONTRADICTORY, PARTLY_FOLLOWED)
"""Reasons that somebody should know of although the condition is as it should be."""


@dataclass(frozen=True)
class Happening:
    """One thing that happened to an object: its reason in a word, and a sentence."""

    type: Literal["Normal", "Warning"]
    reason: str
    note: str


def happenings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Happening]:
    """What changed from one status to the next, both as raw JSON: the size, and each condition's status or reason.

    Of an object's first conditions only those are told that somebody should look at.
    """
    found: list[Happening] = []
    stood, stands = before.get("target") or {}, after.get("target") or {}
    conditions = {one["type"]: one for one in after.get("conditions") or ()}
    former = {one["type"]: one for one in before.get("conditions") or ()}
    recommended = conditions.get(RECOMMENDED, {})
    if stands.get("kvBytes") != stood.get("kvBytes"):
        found.append(_size_change(stood.get("kvBytes"), stands.get("kvBytes"), recommended))
    for type_, condition in conditions.items():
        then = former.get(type_, {})
        same = (then.get("status"), then.get("reason")) == (condition["status"], condition["reason"])
        told = type_ == RECOMMENDED and found
        warns = _warns(condition)
        if not same and not told and (then or warns):
            note = f"{type_} is {condition['status']}: {condition['message']}"
            found.append(Happening("Warning" if warns else "Normal", condition["reason"], note))
    return found


def _size_change(before: int | None, after: int | None, recommended: Mapping[str, Any]) -> Happening:
    why = str(recommended.get("message", ""))
    if after is None:
        # A rollout of other arguments begins anew, and nobody need look at that.
        warns = not recommended or _warns(recommended)
        note = f"no more {format_bytes(before or 0)}: {why}"
        return Happening("Warning" if warns else "Normal", "RecommendationWithdrawn", note)
    if before is None:
        return Happening("Normal", "Recommended", why)
    return Happening("Normal", "RecommendationChanged", f"from {format_bytes(before)} to {why}")


def _warns(condition: Mapping[str, Any]) -> bool:
    good = _GOOD.get(condition["type"])
    bad = good is not None and condition["status"] not in (good, "Unknown")
    return (bad and condition["reason"] not in _HARMLESS) or condition["reason"] in _TO_BE_LOOKED_AT


class Told:
    """How often each event was told lately."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, float]] = {}

    def count(self, name: str, now: float) -> int:
        """How often the event of that name was told, now included; `now` in seconds."""
        self._told = {known: told for known, told in self._told.items() if now - told[1] < KEPT_SECONDS}
        times = self._told.get(name, (0, now))[0] + 1
        self._told[name] = (times, now)
        return times


def event_namespace(regarding: Raw) -> str:
    """Where events about the object live."""
    return regarding["metadata"].get("namespace") or _CLUSTER_NAMESPACE


def event(happening: Happening, regarding: Raw, now: float, instance: str) -> Raw:
    """The event about an object, given as raw JSON with its UID. Its name follows from what it says, so that it is the
    same one again after a restart."""
    metadata = regarding["metadata"]
    said = f"{metadata.get('uid')} {happening.type} {happening.reason} {happening.note}"
    reference = {
        "apiVersion": regarding["apiVersion"],
        "kind": regarding["kind"],
        **{key: metadata[key] for key in ("name", "namespace", "uid") if metadata.get(key)},
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name'][:_LONGEST_NAME].rstrip('.-')}."
            f"{hashlib.sha256(said.encode()).hexdigest()[:_DIGITS]}",
            "namespace": event_namespace(regarding),
        },
        "eventTime": format_micro_time(now),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "action": "Evaluate",
        "reason": happening.reason,
        "note": _cut(happening.note),
        "type": happening.type,
        "regarding": reference,
    }


def told_again(times: int, now: float) -> Raw:
    """The merge patch that counts an event up; `times` at least 2."""
    return {"series": {"count": max(2, times), "lastObservedTime": format_micro_time(now)}}


def _cut(note: str) -> str:
    encoded = note.encode()
    if len(encoded) <= _LONGEST_NOTE:
        return note
    return encoded[: _LONGEST_NOTE - len("…".encode())].decode(errors="ignore") + "…"
