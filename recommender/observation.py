"""What the scrapes of a round become: intervals in the store, and a report of each pod for the evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from recommender.discovery import Pod
from recommender.estimates import Estimate
from recommender.history import History
from recommender.history_files import HistoryError, UnreadableHistoryError
from recommender.intervals import ClosedInterval
from recommender.keys import SeriesKey, WorkloadKey
from recommender.recording import Baseline, Recorder
from recommender.scraping import Scrape
from recommender.telemetry import Telemetry
from recommender.workload_states import PodReport

logger = logging.getLogger(__name__)

_MOST_UNWRITTEN = 200_000
"""Intervals that wait in memory while the store cannot be written; some 200 MB."""


class Observer:
    """Records samples, and keeps intervals until the store has taken them."""

    def __init__(self, history: History, telemetry: Telemetry) -> None:
        self._history = history
        self._telemetry = telemetry
        self._recorder = Recorder(self._baseline)
        self._unwritten: list[ClosedInterval] = []
        self._faults: dict[tuple[str, str, str], str] = {}
        self.fault: str | None = None
        """Why the store took nothing last time; None where it did."""

    def observe(
        self, scrapes: Iterable[Scrape], windows: Mapping[WorkloadKey, float], now: float, period: float
    ) -> dict[tuple[str, str, str], PodReport]:
        """Count a round of scrapes; what each pod reported, by its identity. `windows`: W of each workload."""
        self._store(self._recorder.closed(now), now)
        reports: dict[tuple[str, str, str], PodReport] = {}
        for scrape in scrapes:
            pod, sample = scrape.pod, scrape.sample
            self._telemetry.scrapes.labels("ok" if sample else "failed").inc()
            self._telemetry.scrape_seconds.observe(scrape.seconds)
            if sample is None:
                reports[pod.identity] = PodReport(pod, fault=scrape.fault)
                continue
            reports[pod.identity] = PodReport(pod, tuple(engine.facts for engine in sample.engines))
            for engine in sample.engines:
                key = SeriesKey(pod.key, pod.fingerprint, pod.name, pod.uid, engine.engine)
                self._recorder.take(key, engine, scrape.at, windows[pod.key], period)
        self._log_changes(reports)
        return reports

    def flush(self, now: float) -> None:
        """Store what is counted, over or not: the recommender stops."""
        self._store(self._recorder.closed(math.inf), now)

    def _baseline(self, key: SeriesKey) -> Baseline | None:
        # What waits to be written is newer than what the store has.
        for closed in reversed(self._unwritten):
            if closed.key == key:
                return Baseline(closed.counters, closed.seen_at)
        return self._history.baseline(key)

    def stored(self, action: Callable[[], None]) -> bool:
        """Do `action` on the store; False, with one line in the log, where it cannot be written.

        An unreadable store is another matter: the error goes on to those who can begin a new one.
        """
        try:
            action()
        except UnreadableHistoryError:
            raise
        except HistoryError as error:
            self._telemetry.history_failures.inc()
            if self.fault is None:
                logger.error("%s; what is observed waits in memory", error)
            self.fault = str(error)
            return False
        self.fault = None
        return True

    def _store(self, closed: Sequence[ClosedInterval], now: float) -> None:
        self._unwritten += closed
        if self._unwritten and self.stored(lambda: self._history.append(self._unwritten)):
            self._unwritten = []
            self.stored(lambda: self._history.prune(now))
        if len(self._unwritten) > _MOST_UNWRITTEN:
            lost = len(self._unwritten) - _MOST_UNWRITTEN
            logger.error("%d intervals are lost: the store could not be written for too long", lost)
            self._unwritten = self._unwritten[lost:]

    def _log_changes(self, reports: Mapping[tuple[str, str, str], PodReport]) -> None:
        """One line when a pod's fault appears, changes or goes, not one a round."""
        faults = {identity: report.fault for identity, report in reports.items() if report.fault is not None}
        for identity, fault in faults.items():
            if self._faults.get(identity) != fault:
                logger.warning("pod %s/%s does not count: %s", identity[0], identity[1], fault)
        for identity in self._faults.keys() - faults.keys():
            if identity in reports:
                logger.info("pod %s/%s reports again", identity[0], identity[1])
        self._faults = faults


def reports_of(
    pods: Sequence[Pod],
    scraped: Mapping[tuple[str, str, str], PodReport],
    estimates: Mapping[tuple[str, str, str], Estimate] = MappingProxyType({}),
) -> dict[WorkloadKey, tuple[PodReport, ...]]:
    """The reports of each workload's pods, those that were not scraped included."""
    found: dict[WorkloadKey, list[PodReport]] = {}
    for pod in pods:
        report = scraped.get(pod.identity) or PodReport(pod, fault=_why_not_scraped(pod))
        found.setdefault(pod.key, []).append(replace(report, estimate=estimates.get(pod.identity)))
    return {key: tuple(reports) for key, reports in found.items()}


def _why_not_scraped(pod: Pod) -> str:
    if pod.vllm_address is not None and pod.address is None:
        return "the pod runs without the plugin: a new one gets it"
    return "the pod does not run yet"
