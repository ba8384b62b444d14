"""What an evaluation starts from: the workload's pods and what they last said, its settings, its recommendation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from recommender.api.automation import Automation
from recommender.api.object_store import Raw
from recommender.api.recommendations import VLLMRecommendation
from recommender.autoscaling import Autoscaler
from recommender.discovery import Pod
from recommender.estimates import Estimate, worst
from recommender.keys import WorkloadKey
from recommender.resolution import ResolvedPolicy
from recommender.samples import EngineFacts


@dataclass(frozen=True)
class PodReport:
    """A pod and the outcome of its last scrape: the engines on its page, or the fault, and where vLLM's own page
    answers, what follows from that."""

    pod: Pod
    engines: tuple[EngineFacts, ...] = ()
    fault: str | None = None
    estimate: Estimate | None = None
    aside: str | None = None
    """The reason, in a word, where its page is as it should be and there is nothing to size; `fault` says it all."""

    @property
    def reporting(self) -> bool:
        return bool(self.engines) and self.fault is None


def newest_of(reports: Iterable[PodReport]) -> PodReport | None:
    """That of the newest pod; of several made in the same second always the same one."""
    return max(reports, key=lambda report: (report.pod.created_at, report.pod.name), default=None)


@dataclass(frozen=True)
class WorkloadState:
    """All of one workload at one moment. `owner` is its object, where the store holds it; `autoscalers` are its ones
    that a change of the pool misleads."""

    key: WorkloadKey
    reports: tuple[PodReport, ...]
    automation: Automation
    policy: ResolvedPolicy
    previous: VLLMRecommendation | None
    owner: Raw | None
    autoscalers: tuple[Autoscaler, ...] = ()

    @property
    def autoscaler_conflicts(self) -> tuple[Autoscaler, ...]:
        """Those that a recommendation would mislead: none where automation is off."""
        return self.autoscalers if self.automation.enabled else ()

    @property
    def gpus(self) -> int:
        """Those of its pods, with those of other pods on which an engine's ranks are seen to run. Who asks for none, or
        for a part of one, counts as one."""
        return sum(
            max(report.pod.launch.gpus, sum(len(engine.ranks) for engine in report.engines), 1)
            for report in self.reports
        )

    @cached_property
    def fingerprint(self) -> str | None:
        """That of the newest pod: what the next one will most likely be made from."""
        newest = newest_of(self.reports)
        if newest is not None:
            return newest.pod.fingerprint
        return self.previous.status.fingerprint if self.previous else None

    @cached_property
    def current(self) -> tuple[PodReport, ...]:
        """The pods of the newest fingerprint."""
        return tuple(report for report in self.reports if report.pod.fingerprint == self.fingerprint)

    @property
    def aside(self) -> PodReport | None:
        """A pod with nothing to size, where no other of the newest fingerprint reports."""
        if any(report.reporting for report in self.current):
            return None
        return next((report for report in self.current if report.aside), None)

    @property
    def estimate(self) -> Estimate | None:
        """What is known of the newest fingerprint where none of its pods reports; None where one does, or where the
        plugin itself says that there is nothing to size."""
        if self.aside is not None or any(report.reporting for report in self.current):
            return None
        return worst(report.estimate for report in self.current if report.estimate is not None)

    @property
    def same_before(self) -> VLLMRecommendation | None:
        """The recommendation that stands, where it was made for the same fingerprint."""
        if self.previous is None or self.previous.status.fingerprint != self.fingerprint:
            return None
        return self.previous
