"""Pods whose plugin says nothing: what their vLLM shows of itself, kept in memory from round to round.

Not in the history: that holds measurements, from which sizes follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recommender.api.policies import PolicySpec
from recommender.discovery import Identity, Pod
from recommender.estimates import Estimate, Sightings, worst
from recommender.keys import WorkloadKey
from recommender.scraping import VLLMScrape


class Fallback:
    """Estimates by pod."""

    def __init__(self) -> None:
        self._engines: dict[Identity, dict[str, Sightings]] = {}

    def knows(self, pod: Pod) -> bool:
        """Did its vLLM ever answer?"""
        return pod.identity in self._engines

    def observe(
        self, looks: Iterable[VLLMScrape], policies: Mapping[WorkloadKey, PolicySpec], silent: Iterable[Pod]
    ) -> dict[Identity, Estimate]:
        """Count a round of looks; the estimates of `silent`, all pods without figures of the plugin. Others are
        forgotten."""
        for look in looks:
            before, engines = self._engines.get(look.pod.identity, {}), dict[str, Sightings]()
            window = policies[look.pod.key].observation_window_seconds
            for sample in look.engines:
                sightings = engines[sample.engine] = before.get(sample.engine) or Sightings(window)
                sightings.take(sample, look.at)
            # No others: a page may name them anew each time.
            self._engines[look.pod.identity] = engines
        known = {pod.identity: pod for pod in silent if pod.identity in self._engines}
        self._engines = {identity: self._engines[identity] for identity in known}
        found: dict[Identity, Estimate] = {}
        for identity, pod in known.items():
            tolerated = policies[pod.key].hit_rate_loss
            each = [sightings.estimate(tolerated) for sightings in self._engines[identity].values()]
            estimate = worst(one for one in each if one is not None)
            if estimate is not None:
                found[identity] = estimate
        return found
