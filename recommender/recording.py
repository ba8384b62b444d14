"""From samples to intervals: increments are added up in memory until their interval is over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from recommender.intervals import ClosedInterval, Interval, expiry, interval_seconds
from recommender.keys import SeriesKey
from recommender.samples import Counters, EngineFacts, EngineSample


@dataclass(frozen=True)
class Baseline:
    """Where counting goes on: the counters of an engine when it was last seen."""

    counters: Counters
    seen_at: float


@dataclass
class _Open:
    """An interval that is not over."""

    start: float
    window_seconds: float
    facts: EngineFacts
    covered_seconds: float = 0.0
    samples: int = 0
    active_peak_bytes: int = 0
    demand_peak_bytes: int = 0
    total: Counters = field(default_factory=lambda: Counters(0, 0, 0, 0, 0))

    @property
    def seconds(self) -> float:
        return interval_seconds(self.window_seconds)


@dataclass
class _Engine:
    last: Baseline | None
    open: _Open | None = None


class Recorder:
    """Adds samples up; one for all workloads. Nothing in it is older than one interval of its workload.

    `baseline_of` gives what the store remembers of an engine, so that neither a restart of the recommender nor its
    death loses a count. Without a baseline the first sample is one: what came before was not observed.
    """

    def __init__(self, baseline_of: Callable[[SeriesKey], Baseline | None]) -> None:
        self._baseline_of = baseline_of
        self._engines: dict[SeriesKey, _Engine] = {}

    def take(self, key: SeriesKey, sample: EngineSample, at: float, window_seconds: float, period: float) -> None:
        """Count one sample of `key`, made at `at` (seconds since the epoch), scraped every `period` seconds."""
        engine = self._engines.get(key)
        if engine is None:
            engine = self._engines[key] = _Engine(self._baseline_of(key))
        seconds = interval_seconds(window_seconds)
        start = math.floor(at / seconds) * seconds
        current = engine.open
        if current is None:
            current = engine.open = _Open(start, window_seconds, sample.facts)
        elif window_seconds < current.window_seconds or at < current.start:
            # Another policy holds: with intervals of its length, what is counted must not wait for the end of a longer
            # one. A longer window waits for the end of the shorter interval, which is near. Nor must it wait for a time
            # that a clock, set back since, may not reach in years.
            current.start, current.window_seconds = start, window_seconds
        last = engine.last
        if last is not None and at - last.seen_at <= window_seconds:
            current.total = _sum(current.total, sample.counters.since(last.counters))
            elapsed = min(max(at - last.seen_at, 0.0), 2 * period)
        else:
            elapsed = period
        current.covered_seconds = min(current.covered_seconds + elapsed, current.seconds)
        current.samples += 1
        current.facts = sample.facts
        current.active_peak_bytes = max(current.active_peak_bytes, sample.active_peak_bytes, sample.active_bytes)
        current.demand_peak_bytes = max(current.demand_peak_bytes, sample.demand_peak_bytes, sample.active_peak_bytes)
        engine.last = Baseline(sample.counters, at)

    def closed(self, now: float) -> list[ClosedInterval]:
        """Take out the intervals that are over at `now`; with infinity, all of them."""
        over: list[ClosedInterval] = []
        for key, engine in list(self._engines.items()):
            current, last = engine.open, engine.last
            if current is None or last is None:
                # Not seen since its last interval was taken out: what is known of it stands in the store.
                del self._engines[key]
                continue
            if current.start + current.seconds > now:
                continue
            engine.open = None
            over.append(
                ClosedInterval(
                    key=key,
                    facts=current.facts,
                    interval=_interval(current),
                    counters=last.counters,
                    seen_at=last.seen_at,
                    expires=expiry(current.start, current.window_seconds),
                )
            )
        return over


def _sum(one: Counters, other: Counters) -> Counters:
    return Counters(
        one.requests + other.requests,
        one.lookup_tokens + other.lookup_tokens,
        one.hit_tokens + other.hit_tokens,
        one.preemptions + other.preemptions,
        one.admissions_blocked + other.admissions_blocked,
        one.reuse + other.reuse,
    )


def _interval(current: _Open) -> Interval:
    total = current.total
    return Interval(
        start=current.start,
        seconds=current.seconds,
        covered_seconds=current.covered_seconds,
        samples=current.samples,
        capacity_bytes=current.facts.capacity_bytes,
        active_peak_bytes=current.active_peak_bytes,
        demand_peak_bytes=current.demand_peak_bytes,
        **vars(total),
    )
