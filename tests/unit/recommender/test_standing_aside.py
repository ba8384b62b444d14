"""Pods whose plugin answers that there is nothing to size: what is said of them, and what becomes of their size."""

from __future__ import annotations

import pytest
from evaluated import NOW, OBSERVED, OWN, W, pod, recommend, shown, state, target_of, traffic
from synthetic import series

from recommender.api.recommendations import PLUGIN_REPORTING, RECOMMENDED
from recommender.estimates import Estimate
from recommender.samples import ASLEEP, KVCACHED, NO_KV_CACHE
from recommender.workload_states import PodReport

SENTENCES = {ASLEEP: "vLLM sleeps", KVCACHED: "kvcached manages it", NO_KV_CACHE: "the model keeps no KV cache"}
GUESS = Estimate(4096, 16, 10, 4096, 0.5, None, 0, 3, NOW - 60)


def aside(reason: str) -> PodReport:
    return PodReport(pod(), fault=SENTENCES[reason], estimate=GUESS, aside=reason)


@pytest.mark.parametrize("reason", [ASLEEP, KVCACHED, NO_KV_CACHE])
def test_it_is_said_and_nothing_is_guessed(reason: str) -> None:
    found = recommend(state(aside(reason)), ())
    assert shown(found, PLUGIN_REPORTING) == ("True", reason)
    assert shown(found, RECOMMENDED) == ("False", reason)
    for type_ in (PLUGIN_REPORTING, RECOMMENDED):
        condition = found.condition(type_)
        assert condition is not None
        assert SENTENCES[reason] in condition.message
    assert found.status.estimated is None
    assert found.status.target is None


@pytest.mark.parametrize("reason", [KVCACHED, NO_KV_CACHE])
def test_a_size_from_before_is_withdrawn(reason: str) -> None:
    first = recommend(state())
    found = recommend(state(aside(reason), previous=first))
    assert found.status.target is None
    assert found.status.savings is None
    assert shown(found, RECOMMENDED) == ("False", reason)


def test_pods_that_sleep_wake_up_to_their_size() -> None:
    first = recommend(state())
    found = recommend(state(aside(ASLEEP), previous=first), candidates=(target_of(first).kv_bytes,))
    assert target_of(found) == target_of(first)
    assert shown(found, PLUGIN_REPORTING) == ("True", ASLEEP)


@pytest.mark.parametrize("hours_awake", [10, 30])
def test_a_long_sleep_shrinks_nothing(hours_awake: int) -> None:
    """While it slept nothing was observed: the window is sized by what it did while awake, or not at all."""
    first = recommend(state())
    awake = series(traffic(2 * hours_awake), W, NOW - W + hours_awake * 3600)
    asked = (target_of(first).kv_bytes,)
    found = recommend(state(aside(ASLEEP), previous=first), (awake,), asked)
    assert target_of(found).kv_blocks >= 0.95 * target_of(first).kv_blocks


def test_one_that_sleeps_beside_one_that_works_is_only_mentioned() -> None:
    reports = (PodReport(pod(), (OWN,)), PodReport(pod("b"), fault=SENTENCES[ASLEEP], aside=ASLEEP))
    found = recommend(state(*reports), OBSERVED)
    assert shown(found, PLUGIN_REPORTING) == ("True", "Reporting")
    condition = found.condition(PLUGIN_REPORTING)
    assert condition is not None
    assert SENTENCES[ASLEEP] in condition.message
    assert found.status.target is not None
