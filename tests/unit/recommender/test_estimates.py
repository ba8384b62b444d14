"""How an estimate without the plugin comes about, and how wide it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluated import pod
from synthetic import KEY

from recommender.api.policies import HitRateLoss, PolicySpec
from recommender.estimates import Estimate, Sightings, worst
from recommender.fallback import Fallback
from recommender.scraping import VLLMScrape
from recommender.vllm_pages import VLLMSample

WINDOW = 6000.0
LOSS = HitRateLoss()
SAMPLE = VLLMSample(
    engine="0",
    blocks=10_001,
    block_tokens=16,
    usage=0.1,
    queries=100_000,
    hits=40_000,
    preemptions=0,
    largest_tokens=1600,
    context_tokens=(2000, 5000),
)
COLD = replace(SAMPLE, hits=900)


def seen(*samples: VLLMSample, times: int = 1, period: float = 10.0) -> Estimate:
    sightings = Sightings(WINDOW)
    for step in range(times):
        for place, sample in enumerate(samples):
            sightings.take(sample, (step * len(samples) + place) * period)
    found = sightings.estimate(LOSS)
    assert found is not None
    return found


def test_where_hits_are_at_stake_only_the_pool_is_sure() -> None:
    found = seen(SAMPLE)
    assert found.high_blocks == 10_001
    assert found.low_blocks == pytest.approx(0.1 * 10_001, rel=0.02)
    assert found.hit_rate == 0.4


def test_where_no_hit_is_at_stake_requests_alone_decide() -> None:
    """All hits together are less than the point that may be lost: the most in use, one more request, the null block."""
    found = seen(COLD, replace(COLD, usage=0.2), replace(COLD, usage=0.05))
    assert found.high_blocks == 2001 + 100 + 1
    assert seen(replace(COLD, hits=1001)).high_blocks == 10_001


def test_the_floor_is_bounded_by_the_buckets_of_tokens() -> None:
    """vLLM starts with one request of its longest context at least, which lies between 2,000 and 5,000 tokens."""
    idle = seen(replace(COLD, usage=0.0, largest_tokens=10))
    assert (idle.low_blocks, idle.high_blocks) == (2000 // 16 + 1, -(-5000 // 16) + 1)


@pytest.mark.parametrize(
    "sample",
    [
        replace(COLD, preemptions=1),
        replace(COLD, shows_hits=False),
        replace(COLD, largest_tokens=0),
        replace(COLD, queries=0, hits=0, hit_rate=0.5),
    ],
    ids=["pressure", "hits unknown", "no request yet", "V0's own rate"],
)
def test_in_doubt_it_may_be_the_whole_pool(sample: VLLMSample) -> None:
    assert seen(sample).high_blocks == 10_001


def test_a_rare_peak_is_no_lower_bound_but_an_upper_one() -> None:
    sightings = Sightings(WINDOW)
    for step in range(500):
        sightings.take(replace(COLD, usage=0.9 if step == 250 else 0.1), step * 10.0)
    found = sightings.estimate(LOSS)
    assert found is not None
    assert found.low_blocks < 0.11 * 10_001
    assert found.high_blocks > 0.9 * 10_001


def test_confidence_grows_with_the_samples() -> None:
    """As many as it takes to have met the busiest thousandth of the time."""
    assert seen(SAMPLE).confidence == pytest.approx(0.001)
    assert seen(SAMPLE, times=300, period=1).confidence == pytest.approx(1 - 0.999**300)
    assert seen(SAMPLE, times=5000, period=1).confidence == 0.95


def test_what_is_older_than_the_window_is_forgotten() -> None:
    sightings = Sightings(WINDOW)
    sightings.take(replace(COLD, usage=0.9, preemptions=5), 0.0)
    for step in range(1, 900):
        sightings.take(replace(COLD, preemptions=5), step * 10.0)
    found = sightings.estimate(LOSS)
    assert found is not None
    assert found.high_blocks < 0.2 * 10_001
    assert found.preemptions == 0
    assert WINDOW <= 8990.0 - found.since <= WINDOW * 7 / 6
    assert found.samples <= 700


def test_a_restart_counts_from_zero() -> None:
    """And is no reason to count anything twice, or below nothing."""
    found = seen(replace(SAMPLE, queries=1000, hits=500), replace(SAMPLE, queries=100, hits=10), SAMPLE)
    assert found.hit_rate == pytest.approx((500 + 40_000) / (1000 + 100_000))


def test_several_engines_take_the_largest_of_each() -> None:
    small, large = seen(COLD), seen(replace(SAMPLE, usage=0.5))
    both = worst([large, small])
    assert both is not None
    assert (both.low_blocks, both.high_blocks) == (large.low_blocks, large.high_blocks)
    assert both.confidence == small.confidence
    assert worst([]) is None


def test_a_clock_that_was_ahead_keeps_nothing_for_longer_than_the_window() -> None:
    sightings = Sightings(WINDOW)
    sightings.take(SAMPLE, 1e9)
    for step in range(800):
        sightings.take(SAMPLE, step * 10.0)
    found = sightings.estimate(LOSS)
    assert found is not None
    assert found.since == 1000.0
    assert found.samples == 700


def test_engines_that_a_page_names_anew_each_time_are_not_kept() -> None:
    fallback, of = Fallback(), pod()
    for number in range(5):
        look = VLLMScrape(of, float(number), (replace(SAMPLE, engine=str(number)),))
        found = fallback.observe([look], {KEY: PolicySpec()}, [of])
        assert found[of.identity].samples == 1
        assert len(fallback._engines[of.identity]) == 1
