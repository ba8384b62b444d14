"""All knees side by side are those that one curve after the other would give, to the last bit."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import KEY, facts

from recommender import knees
from recommender.histograms import BUCKETS, pack
from recommender.intervals import Interval, Series
from recommender.keys import SeriesKey
from recommender.knees import WorstKnees, worst_knees
from recommender.windows import Window
from vllm_plugin.names import REUSE_BUCKET_BOUNDS

SLOT = 60.0
W = 96 * SLOT


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """A few pods that come and go, with distances around a place that is drawn, spikes, gaps and quiet hours."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    center, width = draw(st.floats(0, 150)), draw(st.floats(0.3, 40))
    busy = draw(st.sampled_from([3, 1_000, 10_000_000]))
    series = []
    for pod in range(draw(st.integers(1, 4))):
        first = chance.choice((0, 0, chance.randrange(96)))
        own = center + chance.uniform(-6, 6)
        intervals = [
            _interval(chance, place * SLOT, own, width, busy) for place in range(first, 96) if chance.random() < 0.9
        ]
        series.append(Series(SeriesKey(KEY, "f", f"pod-{pod}", "", "0"), facts(), tuple(intervals)))
    return Window.of(series, W + draw(st.sampled_from([0.0, 0.4 * SLOT, 7 * SLOT])), W)


def _interval(chance: random.Random, start: float, center: float, width: float, busy: int) -> Interval:
    counts = [int(busy * chance.random() * 2 ** (-(((bucket - center) / width) ** 2))) for bucket in range(BUCKETS)]
    if chance.random() < 0.1:
        counts[chance.randrange(BUCKETS)] += 10 * busy
    if chance.random() < 0.1:
        counts = [0] * BUCKETS
    return Interval(
        start=start,
        seconds=SLOT,
        covered_seconds=chance.choice((SLOT, SLOT / 2, SLOT / 4)),
        samples=2,
        capacity_bytes=1,
        active_peak_bytes=0,
        demand_peak_bytes=0,
        lookup_tokens=16 * sum(counts) + chance.randrange(3),
        reuse=pack(list(accumulate(counts))),
    )


@given(
    window=windows(),
    allowed=st.sampled_from([0.0, 1e-6, 0.001, 0.01, 0.2]),
    today=st.one_of(st.sampled_from(REUSE_BUCKET_BOUNDS), st.floats(1e5, 4e11)),
    coverage=st.sampled_from([5.0, 50.0, 75.0, 100.0]),
    percentile=st.sampled_from([100, 99, 90, 80]),
)
@settings(max_examples=40, deadline=None)
def test_all_knees_at_once_are_the_knees_one_by_one(
    window: Window, allowed: float, today: float, coverage: float, percentile: int
) -> None:
    if not len(window.columns):
        return
    asked = (window, allowed, today, coverage, percentile)
    assert knees._is_regular(window)
    assert worst_knees(*asked) == knees._one_by_one(*asked)


@pytest.mark.parametrize("oddity", ["twice", "longer"])
def test_a_history_out_of_the_ordinary_is_looked_at_curve_by_curve(oddity: str) -> None:
    """A recommender that restarted within an interval stores it in two pieces; a policy's window may have changed."""
    chance = random.Random(1)
    regular = [_interval(chance, place * SLOT, 60.0, 9.0, 1000) for place in range(96)]
    half = Interval(**{**vars(regular[40]), "seconds": SLOT if oddity == "twice" else 2 * SLOT})
    odd = (
        [*regular[:40], regular[40], half, *regular[41:]] if oddity == "twice" else [*regular[:40], half, *regular[41:]]
    )
    window = Window.of([Series(SeriesKey(KEY, "f", "pod", "", "0"), facts(), tuple(odd))], W, W)
    assert not knees._is_regular(window)
    found = worst_knees(window, 0.01, 8e9, 50, 99)
    assert found == knees._one_by_one(window, 0.01, 8e9, 50, 99)
    assert isinstance(found, WorstKnees)
    assert 30 <= found.parts <= 41
