"""Distances scale with a pod's traffic: what becomes of a size where the number of replicas, or routing, changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from evaluated import NOW, OWN, W, recommend, state, target_of, traffic
from synthetic import series

from recommender.api.recommendations import VLLMRecommendation
from recommender.intervals import Series

CALM, BUSY = 600, 1200
"""Blocks after which a pod's blocks come back, with its share of the traffic and with twice as much."""


def pods(*deepest: int, names: Sequence[str] = ("llama-0",)) -> tuple[Series, ...]:
    """Each pod's sixteenths of the window, by how deep its lookups go in each."""
    intervals = [interval for depth in deepest for interval in traffic(6, deepest=depth)]
    return tuple(series(intervals, W, NOW, engine=OWN, pod=name) for name in names)


def again(before: VLLMRecommendation, observed: tuple[Series, ...], asked: tuple[int, ...]) -> int:
    return target_of(recommend(state(previous=before), observed, asked)).kv_blocks


def test_half_the_replicas_are_answered_while_it_is_new() -> None:
    """An eighth of the window is enough: the busiest rolling parts decide, and a size rises at once."""
    before = recommend(state(), pods(*[CALM] * 16))
    grown = again(before, pods(*[CALM] * 14, BUSY, BUSY), (target_of(before).kv_bytes,))
    settled = target_of(recommend(state(), pods(*[BUSY] * 16))).kv_blocks
    assert target_of(before).kv_blocks < 0.6 * settled
    assert grown > 1.3 * target_of(before).kv_blocks


@pytest.mark.parametrize("sixteenths", [1, 4, 12])
def test_twice_the_replicas_make_nothing_smaller_until_the_window_has_forgotten(sixteenths: int) -> None:
    before = recommend(state(), pods(*[BUSY] * 16))
    observed = pods(*[BUSY] * (16 - sixteenths), *[CALM] * sixteenths)
    kept = again(before, observed, (target_of(before).kv_bytes,) * 3)
    assert kept >= 0.9 * target_of(before).kv_blocks


def test_then_it_sinks_to_what_was_asked_for_lately() -> None:
    before = recommend(state(), pods(*[BUSY] * 16))
    calm = target_of(recommend(state(), pods(*[CALM] * 16)))
    almost = calm.kv_bytes * 5 // 4
    assert again(before, pods(*[CALM] * 16), (almost, calm.kv_bytes)) == pytest.approx(calm.kv_blocks * 5 / 4, abs=1)
    assert again(before, pods(*[CALM] * 16), (calm.kv_bytes,) * 3) == calm.kv_blocks


def test_new_replicas_with_little_traffic_hide_no_busy_one() -> None:
    """Routing that is not even: the curve of the pod that is there for long and busy decides."""
    alone = target_of(recommend(state(), pods(*[BUSY] * 16))).kv_blocks
    (busy,) = pods(*[BUSY] * 16)
    observed = (busy, *pods(*[100] * 16, names=("calm-1", "calm-2", "calm-3")))
    assert target_of(recommend(state(), observed)).kv_blocks >= 0.99 * alone
