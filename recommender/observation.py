"""What the scrapes of a round become: intervals in the store, and a report of each pod for the evaluation."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from recommender.discovery import Identity, Pod
from recommender.estimates import Estimate
from recommender.history import History
from recommender.history_files import HistoryError, UnreadableHistoryError
from recommender.horizons import Horizon
from recommender.intervals import ClosedInterval, interval_seconds
from recommender.keys import SeriesKey, WorkloadKey
from recommender.recording import Baseline, Recorder
from recommender.samples import Counters, EngineFacts
from recommender.scraping import Scrape
from recommender.standings import Memory
from recommender.telemetry import Telemetry
from recommender.trends import Point, slot_of
from recommender.workload_states import PodReport

logger = logging.getLogger(__name__)

_MOST_UNWRITTEN = 100_000
"""Intervals that wait in memory while the store cannot be written: some 200 MB, five hours of 10,000 pods."""

_SUPERSEDED = Counters(0, 0, 0, 0, 0)
"""Stands where a later interval of the same engine waits, too: the store keeps the last counters only."""


class IntervalSource(Protocol):
    """Where intervals come from instead of the rounds' own scrapes, and where what is remembered is kept beside the
    store: both can be had again when the store is lost."""

    @property
    def fault(self) -> str | None: ...
    def tell(self, pods: Iterable[Pod], windows: Mapping[WorkloadKey, float], now: float) -> None: ...
    def taken(self) -> list[ClosedInterval]: ...
    def slot(self, window_seconds: float) -> int | None: ...
    def recalled(self) -> tuple[list[Memory], dict[str, str]]: ...
    def remember(self, memory: Memory) -> None: ...
    def note_policies(self, policies: Mapping[str, str]) -> None: ...
    def begin_anew(self) -> None: ...


class Observer:
    """Records samples, and keeps intervals until the store has taken them."""

    def __init__(self, history: History, telemetry: Telemetry, source: IntervalSource | None = None) -> None:
        """With a `source`, what is scraped here tells how pods are now, and no interval comes from it."""
        self._history = history
        self._telemetry = telemetry
        self._source = source
        self._facts: dict[SeriesKey, EngineFacts] = {}
        """What engines say of themselves, put right where they see a part of their device."""
        self._recorder = Recorder(self._baseline)
        self._horizon = Horizon(history.forgotten_at())
        self._unwritten: list[ClosedInterval] = []
        self._newest: dict[SeriesKey, ClosedInterval] = {}
        """The last of each engine among them."""
        self._memories: list[Memory] = []
        self._kept: dict[str, float] = {}
        self._faults: dict[Identity, str] = {}
        self._store_fault: str | None = None
        """Why the store took nothing last time; None where it did."""

    @property
    def fault(self) -> str | None:
        """What keeps observations from being stored, or from being had; None where nothing does."""
        return self._store_fault or (self._source.fault if self._source is not None else None)

    def observe(
        self, scrapes: Iterable[Scrape], windows: Mapping[WorkloadKey, float], now: float, period: float
    ) -> dict[Identity, PodReport]:
        """Count a round of scrapes; what each pod reported, by its identity. `windows`: W of each workload."""
        scrapes = list(scrapes)
        if self._source is None:
            self._store(self._recorder.closed(now), now)
        else:
            self._source.tell((scrape.pod for scrape in scrapes), windows, now)
            self._take(self._source, now)
        facts: dict[SeriesKey, EngineFacts] = {}
        reports: dict[Identity, PodReport] = {}
        self._telemetry.scraped(scrapes)
        for scrape in scrapes:
            pod, sample = scrape.pod, scrape.sample
            self._telemetry.scrape_seconds.observe(scrape.seconds)
            if sample is None:
                reports[pod.identity] = PodReport(pod, fault=scrape.fault, aside=scrape.aside)
                continue
            reports[pod.identity] = PodReport(pod, tuple(engine.facts for engine in sample.engines))
            for engine in sample.engines:
                key = SeriesKey(pod.key, pod.fingerprint, pod.name, pod.uid, engine.engine)
                if self._source is None:
                    self._recorder.take(key, engine, scrape.at, windows[pod.key], period)
                else:
                    facts[key] = engine.facts
        self._facts = facts
        self._log_changes(reports)
        return reports

    def slot(self, window_seconds: float, now: float) -> int | None:
        """Of workloads with such a window, the number of the interval that is not over; None while so little is known
        of those before that nothing follows from it."""
        if self._source is None:
            return math.floor(now / interval_seconds(window_seconds))
        return self._source.slot(window_seconds)

    def flush(self, now: float) -> None:
        """Store what is counted, over or not: the recommender stops."""
        self._store(self._recorder.closed(math.inf) if self._source is None else self._source.taken(), now)

    def begin_anew(self) -> None:
        """The store has begun anew."""
        if self._source is not None:
            self._source.begin_anew()

    def recalled(self, policies: Mapping[str, str]) -> dict[str, str]:
        """Specs of policies that were remembered elsewhere, by name; `policies` are those that are known."""
        if self._source is None:
            return {}
        self._source.note_policies(policies)
        memories, specs = self._source.recalled()
        self._memories += memories
        self.store_memories()
        return specs

    def _take(self, source: IntervalSource, now: float) -> None:
        found = source.taken()
        # Of engines that run, what the round's own look says of their device is put right already.
        self._store([replace(one, facts=self._facts.get(one.key, one.facts)) for one in found], now)

    def _baseline(self, key: SeriesKey) -> Baseline | None:
        # What waits to be written is newer than what the store has.
        closed = self._newest.get(key)
        if closed is not None:
            return Baseline(closed.counters, closed.seen_at)
        # One that was set aside and could not be begun anew yet knows nothing.
        return None if self._history.is_closed else self._history.baseline(key)

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
            if self._store_fault is None:
                logger.error("%s; what is observed waits in memory", error)
            self._store_fault = str(error)
            return False
        self._store_fault = None
        return True

    def remember(self, memory: Memory) -> None:
        """Keep what an evaluation leaves behind; with `store_memories`, a round's together."""
        self._memories.append(memory)
        if self._source is not None:
            self._source.remember(memory)

    def store_memories(self) -> None:
        """Store what was remembered since the last time; what the store does not take waits."""
        if self._memories and self.stored(lambda: self._history.remember(self._memories)):
            self._memories = []
        self._memories = self._memories[-_MOST_UNWRITTEN:]

    def keep_point(self, subject: str, at: float, point: Point) -> None:
        """Store a point of `subject` for the dashboard, the first one of each half hour."""
        slot = slot_of(at)
        if self._kept.get(subject) != slot and self.stored(lambda: self._history.keep_point(subject, at, point)):
            self._kept[subject] = slot

    def _store(self, closed: Sequence[ClosedInterval], now: float) -> None:
        self._unwritten += closed
        self._newest.update((one.key, one) for one in closed)
        if self._unwritten and self.stored(lambda: self._history.append(self._unwritten)):
            self._unwritten, self._newest = [], {}
            believed = self._horizon.at(now, time.monotonic())
            self.stored(lambda: self._history.prune(believed, max(believed, now)))
        else:
            self._unwritten = _thinned(self._unwritten, self._newest)
        if len(self._unwritten) > _MOST_UNWRITTEN:
            lost = len(self._unwritten) - _MOST_UNWRITTEN
            logger.error("%d intervals are lost: the store could not be written for too long", lost)
            self._unwritten = self._unwritten[lost:]

    def _log_changes(self, reports: Mapping[Identity, PodReport]) -> None:
        """One line when a pod's fault appears, changes or goes, not one a round."""
        faults = {identity: report.fault for identity, report in reports.items() if report.fault is not None}
        for identity, fault in faults.items():
            if self._faults.get(identity) != fault:
                logger.warning("pod %s/%s does not count: %s", identity[0], identity[1], fault)
        for identity in self._faults.keys() - faults.keys():
            if identity in reports:
                logger.info("pod %s/%s reports again", identity[0], identity[1])
        self._faults = faults


def _thinned(waiting: Sequence[ClosedInterval], newest: Mapping[SeriesKey, ClosedInterval]) -> list[ClosedInterval]:
    """Without the counters of all but the `newest` interval of each engine: they are half of it all."""
    return [
        closed
        if closed is newest[closed.key] or closed.counters is _SUPERSEDED
        else replace(closed, counters=_SUPERSEDED)
        for closed in waiting
    ]


def reports_of(
    pods: Sequence[Pod],
    scraped: Mapping[Identity, PodReport],
    estimates: Mapping[Identity, Estimate] = MappingProxyType({}),
) -> dict[WorkloadKey, tuple[PodReport, ...]]:
    """The reports of each workload's pods, those that were not scraped included."""
    found: dict[WorkloadKey, list[PodReport]] = {}
    for pod in pods:
        report = scraped.get(pod.identity) or PodReport(pod, fault=_why_not_scraped(pod))
        estimate = estimates.get(pod.identity)
        found.setdefault(pod.key, []).append(report if estimate is None else replace(report, estimate=estimate))
    return {key: tuple(reports) for key, reports in found.items()}


def _why_not_scraped(pod: Pod) -> str:
    return "the pod does not run yet" if pod.missing is None else pod.missing.message
