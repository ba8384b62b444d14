"""What stands on a policy about itself."""

from __future__ import annotations

from typing import Any

import pytest
from synthetic import policy_object

from recommender.api.policies import PolicySpec, VLLMPolicy
from recommender.policy_conditions import judged, verdict_on_automation, verdict_on_policy
from recommender.resolution import ResolvedPolicy

FAULT = "VLLMPolicy default: spec.observationWindow: 'two days' is no duration"
GOOD = ResolvedPolicy("default", PolicySpec())


def said(raw: dict[str, Any]) -> dict[str, Any]:
    [condition] = raw["status"]["conditions"]
    return dict(condition)


@pytest.mark.parametrize(
    ("policy", "status", "reason"),
    [
        (GOOD, "True", "Understood"),
        (ResolvedPolicy("default", PolicySpec(), FAULT), "False", "LastValidGoesOn"),
        (ResolvedPolicy("default", None, FAULT), "False", "Invalid"),
    ],
)
def test_what_is_said(policy: ResolvedPolicy, status: str, reason: str) -> None:
    raw = policy_object()
    raw["metadata"]["generation"] = 3
    found = judged(raw, verdict_on_policy(policy), 1000.0)
    assert found is not None
    condition = said(found)
    assert (condition["status"], condition["reason"], condition["observedGeneration"]) == (status, reason, 3)
    assert (policy.fault or "sized by it") in condition["message"]
    assert judged(found, verdict_on_policy(policy), 2000.0) is None
    assert found["spec"] == raw["spec"]


def test_since_when() -> None:
    first = judged(policy_object(), verdict_on_policy(GOOD), 1000.0)
    assert first is not None
    bad = judged(first, verdict_on_policy(ResolvedPolicy("default", None, FAULT)), 2000.0)
    assert bad is not None
    assert said(bad)["lastTransitionTime"] == "1970-01-01T00:33:20Z"
    worse = judged(bad, verdict_on_policy(ResolvedPolicy("default", None, FAULT + "!")), 3000.0)
    assert worse is not None
    assert said(worse)["lastTransitionTime"] == "1970-01-01T00:33:20Z"


def test_a_condition_that_cannot_be_read_is_written_anew() -> None:
    raw = {**policy_object(), "status": {"conditions": [{"type": "Valid"}], "unheardOf": 1}}
    found = judged(raw, verdict_on_policy(GOOD), 1000.0)
    assert found is not None
    assert said(found)["status"] == "True"


def test_what_stands_in_the_status_spoils_no_policy() -> None:
    """A newer release may have written there."""
    raw = {**policy_object(percentile=95), "status": {"unheardOf": 1}}
    assert VLLMPolicy.from_json(raw).spec.percentile == 95


@pytest.mark.parametrize(
    ("fault", "goes_on", "reason", "message"),
    [
        (None, True, "Understood", "it is followed"),
        ("spec.emitter: no", True, "LastValidGoesOn", "what it said before goes on: spec.emitter: no"),
        ("spec.emitter: no", False, "Invalid", "it counts as absent: spec.emitter: no"),
    ],
)
def test_what_is_said_of_automation(fault: str | None, goes_on: bool, reason: str, message: str) -> None:
    verdict = verdict_on_automation(fault, goes_on)
    assert (verdict.status, verdict.reason, verdict.message) == (str(fault is None), reason, message)
