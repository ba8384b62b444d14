"""A pod that is short of KV cache: never given less, given more at once, and said to be short where that is all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from evaluated import HOUR, NOW, OBSERVED, OWN, W, pod, recommend, shown, state, target_of, traffic
from synthetic import BLOCK_BYTES, GiB, facts, series

from recommender.api.recommendations import RECOMMENDED
from recommender.evaluation import evaluate
from recommender.events import happenings
from recommender.intervals import Series
from recommender.standings import Standing
from recommender.workload_states import PodReport

SMALL = facts(blocks=1000)


def saturated(hours_ago: float, intervals: int = 96, **trouble: int) -> tuple[Series, ...]:
    """Of a pod with a small pool: the last interval until then holds the trouble, a calm rest follows."""
    calm = round(hours_ago * 2)
    before = series(traffic(intervals - calm), W, NOW - hours_ago * HOUR, engine=SMALL, demand_blocks=900, **trouble)
    if not calm:
        return (before,)
    after = series(traffic(calm, deepest=100), W, NOW, engine=SMALL, demand_blocks=20)
    return (replace(before, intervals=(*before.intervals, *after.intervals)),)


@pytest.mark.parametrize("trouble", [{"preemptions": 3}, {"blocked": 40}])
@pytest.mark.parametrize("hours_ago", [0, 2, 20])
@pytest.mark.parametrize("intervals", [96, 44])
@pytest.mark.parametrize("stood_blocks", [None, 300])
def test_never_less_than_it_has(
    trouble: dict[str, int], hours_ago: float, intervals: int, stood_blocks: int | None
) -> None:
    """With a whole window or half of one; in a recommender that knows nothing of before (it lost its history, or has
    just been restarted), and in one that once recommended less."""
    standing = Standing() if stood_blocks is None else Standing(own_bytes=4 * GiB, recommended_bytes=stood_blocks << 21)
    of = state(PodReport(pod(applied=True, age=2 * W), (SMALL,)))
    observed = saturated(hours_ago, intervals, **trouble)
    found = evaluate(of, observed, (300 * BLOCK_BYTES,), NOW, standing).recommendation.status.target
    assert found is None or found.kv_blocks >= 1000
    # More, at once, while it is short.
    if not hours_ago:
        assert found is not None
        assert found.kv_blocks >= 1100


def test_a_restart_of_the_recommender_forgets_nothing_of_it() -> None:
    """The size that it grew to stands in the status and in the history; each alone keeps it."""
    of = state(PodReport(pod(applied=True, age=2 * W), (SMALL,)))
    evaluation = evaluate(of, saturated(0, preemptions=3), (), NOW)
    grown = target_of(evaluation.recommendation).kv_blocks
    assert grown >= 1100
    standing = Standing(SMALL.capacity_bytes, grown * BLOCK_BYTES, of.policy.digest)
    with_status = replace(of, previous=evaluation.recommendation)
    later = saturated(2, preemptions=3)
    for known, remembered in ((with_status, Standing()), (of, standing), (with_status, standing)):
        found = evaluate(known, later, (), NOW + 2 * HOUR, remembered).recommendation
        assert target_of(found).kv_blocks == grown


def test_what_it_grew_to_stays_where_little_else_is_asked_for() -> None:
    """Also before any pod was started with it, and where the window would do with less by itself."""
    of = state(PodReport(pod(applied=True, age=2 * W), (SMALL,)), percentile=80, demandMarginPercent=0)
    calm = traffic(92, deepest=100)
    short = series(calm, W, NOW - 2 * HOUR, engine=SMALL, demand_blocks=300, preemptions=3)
    after = series(traffic(4, deepest=100), W, NOW, engine=SMALL, demand_blocks=20)
    observed = (replace(short, intervals=(*short.intervals, *after.intervals)),)
    standing = Standing(SMALL.capacity_bytes, 1100 * BLOCK_BYTES, of.policy.digest)
    found = evaluate(of, observed, (400 * BLOCK_BYTES,), NOW, standing)
    assert found.assessment.sizing is not None
    assert found.assessment.sizing.candidate_bytes is not None
    assert found.assessment.sizing.candidate_bytes < 500 * BLOCK_BYTES
    assert target_of(found.recommendation).kv_blocks == 1100


@pytest.mark.parametrize("blocks", [1100, 4096])
def test_what_a_smaller_pool_lacked_is_no_reason_for_more_than_there_is_now(blocks: int) -> None:
    """It has grown and was started anew within the hour, or the other pods still have more."""
    small = series(traffic(95, deepest=300), W, NOW - HOUR / 2, engine=SMALL, preemptions=3)
    larger = facts(blocks=blocks)
    new = series(traffic(1, deepest=100), W, NOW, engine=larger, pod="llama-1", demand_blocks=20)
    of = state(PodReport(pod(applied=True, age=2 * W), (SMALL,)), PodReport(pod("llama-1", age=HOUR / 2), (larger,)))
    found = evaluate(of, (small, new), (300 * BLOCK_BYTES,), NOW, Standing(larger.capacity_bytes, 1000 * BLOCK_BYTES))
    assert target_of(found.recommendation).kv_blocks == blocks
    still = replace(new, intervals=tuple(replace(one, preemptions=1) for one in new.intervals))
    found = evaluate(of, (small, still), (300 * BLOCK_BYTES,), NOW, Standing(larger.capacity_bytes))
    assert target_of(found.recommendation).kv_blocks > 1.09 * blocks


def test_other_arguments_begin_anew_and_grow_by_themselves() -> None:
    """A new fingerprint knows nothing of the size of the old one, and is not held at it."""
    first = recommend(state())
    report = PodReport(pod("llama-2", fingerprint="0" * 16, age=HOUR), (SMALL,))
    calm = series(traffic(2), W, NOW, engine=SMALL, pod="llama-2", demand_blocks=900)
    assert evaluate(state(report, previous=first), (calm,), (), NOW).recommendation.status.target is None
    short = series(traffic(2), W, NOW, engine=SMALL, pod="llama-2", demand_blocks=900, preemptions=2)
    assert target_of(evaluate(state(report, previous=first), (short,), (), NOW).recommendation).kv_blocks >= 1100


@pytest.mark.parametrize(("spec", "total_bytes"), [({"maxKV": "1Gi"}, 80 * GiB), ({}, 21 * GiB)])
def test_what_it_may_not_have_is_said(spec: dict[str, Any], total_bytes: int) -> None:
    """Not by the policy, or not by the GPU: the condition has how much is short, and an event warns."""
    engine = replace(OWN, ranks=(replace(OWN.ranks[0], total_bytes=total_bytes),)) if not spec else OWN
    of = state(PodReport(pod(), (engine,)), **spec)
    before = recommend(of, (series(traffic(), W, NOW, engine=engine),))
    short = (series(traffic(), W, NOW, engine=engine, demand_blocks=5000, preemptions=9),)
    found = recommend(replace(of, previous=before), short)
    assert shown(found, RECOMMENDED) == ("True", "ShortOfKVCache")
    condition = found.condition(RECOMMENDED)
    assert condition is not None
    assert "short by 2.74 GiB" in condition.message
    growth = next(bound for bound in found.status.bounds if bound.name == "growth")
    assert growth.message in condition.message
    told = happenings(before.status.to_json(), found.status.to_json())
    assert any("short by" in one.note for one in told)
    again = happenings(recommend(state(), OBSERVED).status.to_json(), found.status.to_json())
    assert any("short by" in one.note for one in again)
