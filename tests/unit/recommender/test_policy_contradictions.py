"""Policies that the schema allows and that contradict themselves: each is said on the policy, and harms nothing."""

from __future__ import annotations

from typing import Any

import pytest
from evaluated import OBSERVED, OWN, recommend, shown, state
from synthetic import policy_object

from recommender.api.policies import PolicySpec, VLLMPolicy
from recommender.api.recommendations import RECOMMENDED
from recommender.events import happenings
from recommender.policy_conditions import judged, verdict_on_policy
from recommender.policy_contradictions import contradictions
from recommender.resolution import ResolvedPolicy

ODD: list[tuple[dict[str, Any], str]] = [
    ({"observationWindow": "90s"}, "observationWindow 90s"),
    ({"windowCoverage": 100}, "windowCoverage 100"),
    ({"caution": "High", "percentile": 80}, "caution High"),
    ({"hitRateLoss": {"points": 100, "missRatioPercent": 100}}, "lose every hit"),
    ({"hitRateLoss": {"points": 0.01}}, "hitRateLoss.points 0.01"),
    ({"minKV": "2Gi", "maxKV": "1024Mi"}, "maxKV wins"),
    ({"lossBudget": 1.5}, "lossBudget 1.5"),
    ({"strategy": "Ongoing", "mode": "DryRun"}, "in mode DryRun"),
    ({"strategy": "Ongoing", "restart": {"maxPerDay": 0}}, "restart.maxPerDay 0"),
    ({"strategy": "Ongoing", "restart": {"gapPercent": 100}}, "restart.gapPercent 100"),
    ({"restart": {"timeZone": "Europe/Berlin"}}, "restart.timeZone Europe/Berlin"),
    ({"observationWindow": "1h", "verify": {"settle": "61m"}}, "verify.settle 61m"),
    ({"verify": {"readyTimeout": "5s"}}, "verify.readyTimeout 5s"),
]
GOOD: list[dict[str, Any]] = [
    {},
    {"observationWindow": "96s", "verify": {"settle": "10s"}},
    {"observationWindow": "4w", "windowCoverage": 99.9},
    {"caution": "High", "percentile": 99, "lossBudget": 1},
    {"minKV": "1Gi", "maxKV": "1024Mi"},
    {"strategy": "Ongoing", "restart": {"window": "22:00-04:00", "timeZone": "Europe/Berlin"}},
    {"restart": {"maxPerDay": 0, "gapPercent": 100}},
    {"minRequests": 10**9, "demandMarginPercent": 500},
]


@pytest.mark.parametrize(("spec", "part"), ODD)
def test_what_does_not_go_together_is_said(spec: dict[str, Any], part: str) -> None:
    policy = PolicySpec.model_validate(spec)
    [sentence] = contradictions(policy)
    assert part in sentence
    said = judged(policy_object(**spec), verdict_on_policy(ResolvedPolicy("default", policy)), 1000.0)
    assert said is not None
    [condition] = said["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("True", "Contradictory")
    assert sentence in condition["message"]
    [told] = happenings({}, said["status"])
    assert (told.type, told.reason) == ("Warning", "Contradictory")


@pytest.mark.parametrize("spec", GOOD)
def test_what_goes_together_is_not(spec: dict[str, Any]) -> None:
    assert contradictions(PolicySpec.model_validate(spec)) == ()


@pytest.mark.parametrize("spec", [*(spec for spec, _ in ODD), *GOOD])
def test_none_of_them_gives_a_wrong_number(spec: dict[str, Any]) -> None:
    """A size that vLLM starts with and that the GPU has room for, or none and why."""
    assert VLLMPolicy.from_json(policy_object(**spec)).spec == PolicySpec.model_validate(spec)
    found = recommend(state(**spec), OBSERVED)
    target = found.status.target
    assert shown(found, RECOMMENDED)[0] == ("False" if target is None else "True")
    if target is not None:
        assert OWN.floor_bytes <= target.kv_bytes <= OWN.capacity_bytes


def test_requests_that_never_come_are_waited_for() -> None:
    found = recommend(state(minRequests=10**9), OBSERVED)
    condition = found.condition(RECOMMENDED)
    assert found.status.target is None
    assert condition is not None
    assert "1000000000 are asked for" in condition.message
