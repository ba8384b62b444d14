"""A stretch of a workload's history, and the questions that sizing asks of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from recommender.curves import HitRateCurve
from recommender.histograms import EMPTY
from recommender.intervals import Interval, Series

ROLLING_PARTS = 6
"""The rolling part of a window W is W/6: eight hours of 48 (docs/sizing.md)."""

STRIDES = 48
"""It moves by W/48: an hour of 48."""


def nearest_rank(values: Sequence[float], percentile: float) -> float:
    """The smallest of `values` that `percentile` percent of them do not exceed; 100 is the largest."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(math.ceil(percentile / 100 * len(ordered)), 1) - 1]


@dataclass(frozen=True)
class Window:
    """What was seen of a workload in the `seconds` before `end`: each engine of each pod is a series."""

    end: float
    seconds: float
    series: tuple[Series, ...]

    @classmethod
    def of(cls, series: Sequence[Series], end: float, seconds: float) -> Window:
        """The window over those intervals of `series` of which the larger part lies in it."""
        begin = end - seconds
        kept = tuple(
            replace(one, intervals=tuple(it for it in one.intervals if begin < it.middle <= end)) for one in series
        )
        return cls(end, seconds, tuple(one for one in kept if one.intervals))

    @property
    def intervals(self) -> Iterator[Interval]:
        return (interval for one in self.series for interval in one.intervals)

    @property
    def covered_seconds(self) -> float:
        """How much of the window holds data of at least one pod."""
        covered: dict[float, float] = {}
        for one in self.series:
            of_engine: dict[float, float] = {}
            for interval in one.intervals:
                seen = of_engine.get(interval.start, 0.0) + interval.covered_seconds
                of_engine[interval.start] = min(seen, interval.seconds)
            for start, seconds in of_engine.items():
                covered[start] = max(covered.get(start, 0.0), seconds)
        return min(sum(covered.values()), self.seconds)

    @property
    def coverage_percent(self) -> float:
        return 100 * self.covered_seconds / self.seconds

    @property
    def samples(self) -> int:
        return sum(interval.samples for interval in self.intervals)

    @property
    def first(self) -> float | None:
        """When the first interval of the window begins."""
        return min((interval.start for interval in self.intervals), default=None)

    @property
    def last(self) -> float | None:
        """When the last interval of the window ends."""
        return max((interval.end for interval in self.intervals), default=None)

    @property
    def requests(self) -> int:
        return sum(interval.requests for interval in self.intervals)

    @property
    def lookup_tokens(self) -> int:
        return sum(interval.lookup_tokens for interval in self.intervals)

    @property
    def hit_tokens(self) -> int:
        return sum(interval.hit_tokens for interval in self.intervals)

    @property
    def preemptions(self) -> int:
        return sum(interval.preemptions for interval in self.intervals)

    @property
    def admissions_blocked(self) -> int:
        return sum(interval.admissions_blocked for interval in self.intervals)

    @property
    def hit_rate(self) -> float | None:
        """vLLM's own hit rate over the window; None where nothing was looked up."""
        return self.hit_tokens / self.lookup_tokens if self.lookup_tokens else None

    @property
    def blocked_share(self) -> float:
        """Of the pod that waited most: its blocked admissions ÷ its requests."""
        return max((_blocked_share(one.intervals) for one in self.series), default=0.0)

    def curve(self) -> HitRateCurve:
        """The curve of all pods together: the hit rate that the workload as a whole would have had."""
        reuse = sum((interval.reuse for interval in self.intervals), EMPTY)
        return HitRateCurve.of(reuse, self._block_tokens, self.lookup_tokens)

    def curves(self, coverage_percent: float) -> Iterator[HitRateCurve]:
        """The curve of all pods together, and of each that was there for `coverage_percent` of the window.

        Distances scale with a pod's own traffic, so that the sum alone would hide a pod that is busier than the rest.
        """
        yield self.curve()
        if len(self.series) > 1:
            for one in self.series:
                alone = replace(self, series=(one,))
                if alone.coverage_percent >= coverage_percent:
                    yield alone.curve()

    def demand_peaks(self) -> list[float]:
        """The highest demand of any pod, for each interval."""
        return self._worst_of_each_interval(lambda interval: interval.demand_peak_bytes)

    def active_peaks(self) -> list[float]:
        """The most that running requests of any pod held, for each interval."""
        return self._worst_of_each_interval(lambda interval: interval.active_peak_bytes)

    def latest(self, seconds: float) -> Window:
        """The last `seconds` of the window."""
        return Window.of(self.series, self.end, seconds)

    def rolling(self, coverage_percent: float) -> Iterator[Window]:
        """Every part of W/6, by strides of W/48, that is covered as the policy asks of the whole."""
        part, stride = self.seconds / ROLLING_PARTS, self.seconds / STRIDES
        for step in range(STRIDES - STRIDES // ROLLING_PARTS + 1):
            window = Window.of(self.series, self.end - step * stride, part)
            if window.coverage_percent >= coverage_percent and window.lookup_tokens:
                yield window

    @property
    def _block_tokens(self) -> int:
        return self.series[0].facts.block_tokens if self.series else 1

    def _worst_of_each_interval(self, peak: Callable[[Interval], int]) -> list[float]:
        worst: dict[float, float] = {}
        for interval in self.intervals:
            worst[interval.start] = max(worst.get(interval.start, 0.0), peak(interval))
        return list(worst.values())


def _blocked_share(intervals: Sequence[Interval]) -> float:
    blocked = sum(interval.admissions_blocked for interval in intervals)
    # An admission that still waits may belong to a request that is counted later.
    return blocked / max(sum(interval.requests for interval in intervals), blocked) if blocked else 0.0
