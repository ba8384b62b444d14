"""All knees side by side are those that one curve after the other would give, to the last bit."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import KEY, facts

from recommender.curves import HitRateCurve
from recommender.histograms import BUCKETS, pack
from recommender.intervals import Interval, Series
from recommender.keys import SeriesKey
from recommender.knees import WorstKnees, worst_knees
from recommender.windows import Window, nearest_rank
from vllm_plugin.names import REUSE_BUCKET_BOUNDS

SLOT = 60.0
W = 96 * SLOT


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """A few pods that come and go, with distances around a place that is drawn, spikes, gaps and quiet hours.

    What upset the order of their intervals: a recommender that restarted and stored one in two pieces, a policy whose
    window was another, a clock that was set back."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    center, width = draw(st.floats(0, 150)), draw(st.floats(0.3, 40))
    busy = draw(st.sampled_from([3, 1_000, 10_000_000]))
    changed, set_back = draw(st.sampled_from([0, 0, 50])), draw(st.sampled_from([0, 0, 30]))
    series = []
    for pod in range(draw(st.integers(1, 4))):
        first = chance.choice((0, 0, chance.randrange(96)))
        own = center + chance.uniform(-6, 6)
        intervals = [
            _interval(chance, place * SLOT, own, width, busy)
            for place in range(first, 96)
            for _ in range(chance.choices((0, 1, 2), (10, 85, 5))[0])
        ]
        del intervals[20 : 20 + chance.choice((0, 0, 25))]
        of_double_length = [replace(one, seconds=2 * SLOT) for one in intervals[:changed]]
        again = [replace(one, start=one.start - 20 * SLOT) for one in intervals[60 : 60 + set_back]]
        known = replace(facts(), block_tokens=chance.choice((16, 16, 32)))
        every = (*of_double_length, *intervals[changed:60], *again, *intervals[60 + set_back :])
        series.append(Series(SeriesKey(KEY, "f", f"pod-{pod}", "", "0"), known, every))
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
@settings(max_examples=15, deadline=None)
def test_all_knees_at_once_are_the_knees_one_by_one(
    window: Window, allowed: float, today: float, coverage: float, percentile: int
) -> None:
    if not len(window.columns):
        return
    asked = (window, allowed, today, coverage, percentile)
    assert worst_knees(*asked) == one_by_one(*asked)


def test_a_pool_beyond_the_last_bound_in_which_nothing_was_found() -> None:
    quiet = [replace(_interval(random.Random(1), place * SLOT, 50, 5, 0), reuse=0) for place in range(96)]
    window = Window.of([Series(SeriesKey(KEY, "f", "pod", "", "0"), facts(), tuple(quiet))], W, W)
    assert worst_knees(window, 0.01, 4e11, 50.0, 99) == one_by_one(window, 0.01, 4e11, 50.0, 99)


def one_by_one(window: Window, allowed: float, today: float, coverage: float, percentile: float) -> WorstKnees:
    """What `worst_knees` is to find, by a curve each."""

    def span(alone: Window) -> float:
        return alone.columns[-1].end - alone.columns[0].start

    def worst(part: Window) -> float:
        alone = [Window.of([one], part.end, part.seconds) for one in part.series]
        curves = [one.curve() for one in alone if 100 * min(span(one), one.seconds) / one.seconds >= coverage]
        together = HitRateCurve(part.columns.cumulative(), window.block_tokens, part.lookup_tokens)
        return max(curve.knee(allowed, today) for curve in (together, *curves))

    rolling = [worst(part) for part in window.rolling(coverage)]
    return WorstKnees(worst(window), nearest_rank(rolling, percentile) if rolling else None, len(rolling))
