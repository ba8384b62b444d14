"""What is kept of an interval of W/96: increments of the counters, the highest peaks, how much of it was seen."""

from __future__ import annotations

from dataclasses import dataclass

from recommender.histograms import EMPTY
from recommender.keys import SeriesKey
from recommender.samples import Counters, EngineFacts

INTERVALS_PER_WINDOW = 96
"""An observation window W has 96 intervals: half an hour of 48 hours (docs/sizing.md)."""


def interval_seconds(window_seconds: float) -> float:
    """W/96."""
    return window_seconds / INTERVALS_PER_WINDOW


@dataclass(frozen=True)
class Interval:
    """One engine during one interval. `reuse` is the packed increment of the histogram's cumulative counts."""

    start: float
    seconds: float
    covered_seconds: float
    samples: int
    capacity_bytes: int
    active_peak_bytes: int
    demand_peak_bytes: int
    requests: int = 0
    lookup_tokens: int = 0
    hit_tokens: int = 0
    preemptions: int = 0
    admissions_blocked: int = 0
    reuse: int = EMPTY

    @property
    def end(self) -> float:
        return self.start + self.seconds

    @property
    def middle(self) -> float:
        return self.start + self.seconds / 2


@dataclass(frozen=True)
class Series:
    """The intervals of one engine in order of time, and what it last said of itself."""

    key: SeriesKey
    facts: EngineFacts
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class ClosedInterval:
    """An interval to be stored, with the counters where it ended: there the next one begins, also after a restart."""

    key: SeriesKey
    facts: EngineFacts
    interval: Interval
    counters: Counters
    seen_at: float
    expires: float
