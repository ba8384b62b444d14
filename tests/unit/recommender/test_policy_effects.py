"""Settings that a policy may hold and that are not built yet: whoever sets one is told on the policy itself."""

from __future__ import annotations

from typing import Any

import pytest
from synthetic import policy_object

from recommender.api.crds import definitions
from recommender.api.policies import PolicySpec, VLLMPolicy
from recommender.events import happenings
from recommender.policy_conditions import judged, verdict_on_policy
from recommender.policy_effects import not_followed
from recommender.resolution import ResolvedPolicy

IDLE: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "Ongoing"}, "strategy Ongoing: no running pod is replaced yet"),
    ({"restart": {"cooldown": "1h"}}, "restart has no effect"),
    ({"restart": {"window": "22:00-04:00"}}, "restart has no effect"),
    ({"lossBudget": 0.75}, "lossBudget lets sizes grow during a day"),
    ({"verify": {"ttftPercent": 20}}, "verify.ttftPercent has no effect"),
]


def as_stored(**spec: Any) -> dict[str, Any]:
    """As an API server gives it back, with every default written out."""
    return policy_object(**PolicySpec.model_validate(spec).to_json())


def said_on(raw: dict[str, Any]) -> dict[str, Any]:
    policy = ResolvedPolicy("default", VLLMPolicy.from_json(raw).spec)
    found = judged(raw, verdict_on_policy(policy), 1000.0)
    assert found is not None
    status: dict[str, Any] = found["status"]
    return status


@pytest.mark.parametrize(("spec", "part"), IDLE)
def test_what_is_not_built_is_said(spec: dict[str, Any], part: str) -> None:
    status = said_on(as_stored(**spec))
    [condition] = status["conditions"]
    assert (condition["status"], condition["reason"]) == ("True", "PartlyFollowed")
    assert part in condition["message"]
    [told] = happenings({}, status)
    assert (told.type, told.reason) == ("Warning", "PartlyFollowed")


@pytest.mark.parametrize("spec", [{}, {"observationWindow": "10m"}, {"verify": {"settle": "1h", "readyTimeout": "1h"}}])
def test_defaults_that_an_api_server_wrote_are_nobodys_wish(spec: dict[str, Any]) -> None:
    status = said_on(as_stored(**spec))
    [condition] = status["conditions"]
    assert (condition["status"], condition["reason"]) == ("True", "Understood")
    assert happenings({}, status) == []


def test_beside_a_contradiction_both_are_said() -> None:
    [condition] = said_on(as_stored(strategy="Ongoing", mode="DryRun"))["conditions"]
    assert condition["reason"] == "Contradictory"
    assert "in mode DryRun" in condition["message"]
    assert "no running pod is replaced yet" in condition["message"]


def test_the_definition_says_it_of_each_field() -> None:
    """`kubectl explain` shows these sentences."""
    [policies] = [made for made in definitions() if made["spec"]["names"]["kind"] == VLLMPolicy.KIND]
    whole = policies["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = whole["properties"]["spec"]["properties"]
    assert "not built yet" in fields["strategy"]["description"]
    assert "without effect yet" in fields["restart"]["description"]
    assert "without effect yet" in fields["verify"]["properties"]["ttftPercent"]["description"]
    assert "started anew" in fields["lossBudget"]["description"]


def test_none_of_several_is_left_out() -> None:
    spec = PolicySpec.model_validate({key: value for idle, _ in IDLE[:1] + IDLE[2:] for key, value in idle.items()})
    assert len(not_followed(spec)) == 4
