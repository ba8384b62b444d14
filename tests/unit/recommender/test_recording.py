"""From samples to increments: restarts, gaps and a clock that is set back."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import accumulate

from synthetic import KEY, SyntheticEngine

from recommender.exposition import parse_page
from recommender.histograms import BUCKETS, increase, pack, unpack
from recommender.intervals import ClosedInterval
from recommender.keys import SeriesKey
from recommender.recording import Baseline, Recorder
from recommender.samples import Counters, EngineSample

W = 96 * 60.0
"""Intervals of a minute."""
ENGINE = SeriesKey(KEY, "f" * 16, "llama-0", "u", "0")
PERIOD = 30.0


def sample(engine: SyntheticEngine) -> EngineSample:
    return parse_page(engine.page()).engines[0]


def recorder(baseline: Baseline | None = None) -> Recorder:
    return Recorder(lambda _: baseline)


def take(recorder: Recorder, engine: SyntheticEngine, at: float) -> list[ClosedInterval]:
    closed = recorder.closed(at)
    recorder.take(ENGINE, sample(engine), at, W, PERIOD)
    return closed


def test_increments_fall_into_their_intervals() -> None:
    engine, recording = SyntheticEngine(), recorder()
    take(recording, engine, 0.0)
    engine.look_up([5, 50, None])
    engine.demand_blocks = 70
    take(recording, engine, 30.0)
    engine.look_up([7])
    engine.demand_blocks = 20
    (first,) = take(recording, engine, 61.0)
    assert first.interval.requests == 1
    assert first.interval.start == 0.0
    assert first.interval.samples == 2
    assert first.interval.demand_peak_bytes == 70 * engine.block_bytes
    assert unpack(first.interval.reuse)[-1] == 3
    assert first.interval.covered_seconds == 60.0
    (second,) = recording.closed(math.inf)
    assert second.interval.requests == 1
    assert second.interval.demand_peak_bytes == 20 * engine.block_bytes
    assert second.interval.start == 60.0
    assert second.counters.requests == 2


def test_what_came_before_the_first_sample_was_not_observed() -> None:
    engine, recording = SyntheticEngine(requests=500, lookup_tokens=10_000), recorder()
    take(recording, engine, 0.0)
    (closed,) = recording.closed(math.inf)
    assert closed.interval.requests == 0


def test_counting_goes_on_from_the_store_after_a_restart_of_the_recommender() -> None:
    engine = SyntheticEngine()
    engine.look_up([1, 2, 3], requests=5)
    before = sample(engine).counters
    engine.look_up([4], requests=2)
    recording = recorder(Baseline(before, 0.0))
    take(recording, engine, 200.0)
    (closed,) = recording.closed(math.inf)
    assert closed.interval.requests == 2
    # It counts, but the time in which nobody looked is not covered.
    assert closed.interval.covered_seconds == 60.0


def test_a_baseline_older_than_the_window_is_none() -> None:
    engine = SyntheticEngine(requests=9)
    recording = recorder(Baseline(Counters(1, 0, 0, 0, 0), -2 * W))
    take(recording, engine, 0.0)
    assert recording.closed(math.inf)[0].interval.requests == 0


def test_counters_that_went_down_are_a_restart() -> None:
    engine, recording = SyntheticEngine(), recorder()
    engine.look_up([3] * 1000, requests=100)
    take(recording, engine, 0.0)
    anew = SyntheticEngine()
    anew.look_up([9] * 4, requests=4)
    take(recording, anew, 30.0)
    (closed,) = recording.closed(math.inf)
    assert closed.interval.requests == 4
    assert unpack(closed.interval.reuse)[-1] == 4


def test_one_counter_that_went_down_is_enough() -> None:
    """A restart that was busy at once: most counters are already above their former values."""
    before = Counters(10, 100, 0, 1, 0)
    after = replace(before, requests=50, lookup_tokens=900, preemptions=0)
    assert after.since(before) == after
    assert replace(before, requests=12).since(before) == Counters(2, 0, 0, 0, 0)


def test_packed_histograms_grow_as_their_counts_do() -> None:
    """Where a count went down, or a smaller bucket grew by more than a larger one, that is no growth."""
    chance = random.Random(3)
    found = []
    for _ in range(300):
        earlier = list(accumulate(chance.choices((0, 1, 1 << 50), k=BUCKETS)))
        growth = list(accumulate(chance.choices((0, 1, 1000), k=BUCKETS)))
        if chance.random() < 0.5:
            growth[chance.randrange(BUCKETS)] -= 1
        later = [max(count + more, 0) for count, more in zip(earlier, growth, strict=True)]
        growth = [after - before for before, after in zip(earlier, later, strict=True)]
        expected = pack(growth) if growth[0] >= 0 and growth == sorted(growth) else None
        found.append(increase(pack(later), pack(earlier)))
        assert found[-1] == expected
    assert 30 < found.count(None) < 150


def test_a_gap_is_not_covered() -> None:
    engine, recording = SyntheticEngine(), recorder()
    take(recording, engine, 0.0)
    engine.look_up([1], requests=3)
    (first,) = take(recording, engine, 600.0)
    (second,) = recording.closed(math.inf)
    assert (first.interval.covered_seconds, second.interval.covered_seconds) == (30.0, 60.0)
    assert second.interval.requests == 3


def test_a_clock_set_back_loses_nothing_and_covers_nothing() -> None:
    engine, recording = SyntheticEngine(), recorder()
    take(recording, engine, 1000.0)
    engine.look_up([1])
    take(recording, engine, 400.0)
    engine.look_up([1])
    over = [*take(recording, engine, 430.0), *recording.closed(math.inf)]
    assert sum(closed.interval.requests for closed in over) == 2


def test_engines_that_went_away_are_forgotten_and_remembered_by_the_store() -> None:
    engine = SyntheticEngine()
    stored: list[ClosedInterval] = []

    def remembered(key: SeriesKey) -> Baseline | None:
        return next((Baseline(one.counters, one.seen_at) for one in reversed(stored) if one.key == key), None)

    recording = Recorder(remembered)
    take(recording, engine, 0.0)
    stored += recording.closed(100.0)
    stored += recording.closed(200.0)
    engine.look_up([1], requests=6)
    take(recording, engine, 300.0)
    assert recording.closed(math.inf)[0].interval.requests == 6


def test_a_shorter_window_does_not_wait_for_the_interval_of_a_longer_one() -> None:
    """Where another policy holds from now on, as for a pod that was met before its namespace's policy was known."""
    engine, recording = SyntheticEngine(), recorder()
    recording.take(ENGINE, sample(engine), 100.0, 60 * W, PERIOD)
    engine.look_up([5], requests=3)
    recording.take(ENGINE, sample(engine), 130.0, W, PERIOD)
    (closed,) = recording.closed(180.0)
    assert (closed.interval.start, closed.interval.seconds) == (120.0, 60.0)
    assert (closed.interval.requests, closed.interval.covered_seconds) == (3, 60.0)
