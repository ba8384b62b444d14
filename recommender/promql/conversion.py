"""From what PromQL tells of one interval to what the Recorder would have made of the same scrapes. Pure.

Of most engines three things are enough: their last page, the moments of their scrapes, and their highest peaks. Where
counters went down, a pod began, or a page cannot be believed, something between may matter: of these few pods every
page is asked for, and the Recorder itself counts them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from recommender.exposition import sample_of
from recommender.intervals import ClosedInterval, Interval, expiry, interval_seconds
from recommender.keys import SeriesKey, WorkloadKey
from recommender.promql.directory import Directory, KnownPod
from recommender.promql.pages import Page, Target
from recommender.recording import Baseline, Recorder
from recommender.samples import LARGEST_BYTES, Counters, EngineSample, PodSample, RefusedSampleError
from vllm_plugin import names

PodName = tuple[str, str]
"""Namespace and name."""

Moments = Sequence[tuple[float, float]]
"""When an engine was scraped, and the tokens that it had looked up by then."""


class UnclearError(Exception):
    """The end of the interval alone does not tell what happened in it; the message says why."""


@dataclass
class Evidence:
    """What the answers about one interval say, by target and engine. `pages` may be looked at once."""

    pages: Iterable[Page] = ()
    moments: dict[Target, dict[str, Moments]] = field(default_factory=dict)
    peaks: dict[tuple[str, Target, str], float] = field(default_factory=dict)


@dataclass
class Found:
    """What became of an interval: of these pods all pages are needed, of those nothing counts."""

    closed: list[ClosedInterval] = field(default_factory=list)
    unclear: dict[PodName, str] = field(default_factory=dict)
    refused: dict[PodName, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """An interval of the workloads whose window is so long, and who belongs to them."""

    start: float
    window_seconds: float
    belongs: Callable[[WorkloadKey], bool]
    baseline_of: Callable[[SeriesKey], Baseline | None]

    @property
    def seconds(self) -> float:
        return interval_seconds(self.window_seconds)

    @property
    def end(self) -> float:
        return self.start + self.seconds

    def holds(self, at: float) -> bool:
        return self.start <= at < self.end

    def baseline(self, key: SeriesKey, at: float) -> Baseline | None:
        """Where counting went on at `at`, as the Recorder has it."""
        known = self.baseline_of(key)
        return known if known is not None and at - known.seen_at <= self.window_seconds else None


def scrape_seconds(moments: Iterable[float], otherwise: float) -> float:
    """How far apart an engine's scrapes are as a rule; `otherwise` where so few do not tell."""
    steps = [later - earlier for earlier, later in itertools.pairwise(sorted(set(moments)))]
    return statistics.median(steps) if len(steps) > 1 else otherwise


def baselines(evidence: Evidence, directory: Directory, span: Span) -> dict[SeriesKey, Baseline]:
    """Where the engines stood when the interval ended, to count from there."""
    found: dict[SeriesKey, Baseline] = {}
    for page in evidence.pages:
        for key, engine in _engines(page, directory, span):
            moments = evidence.moments.get(page.target, {}).get(engine.engine, ())
            if moments and (key not in found or found[key].seen_at < moments[-1][0]):
                found[key] = Baseline(engine.counters, moments[-1][0])
    return found


def converting(found: Found, evidence: Evidence, directory: Directory, span: Span, period: float) -> Iterator[None]:
    """Put into `found` what becomes of the interval, one pod at a time. `period`: seconds between two scrapes, for
    engines that were scraped too seldom to tell."""
    for place, pages in itertools.groupby(evidence.pages, lambda page: page.target[:2]):
        of_pod = list(pages)
        try:
            found.closed += _of_pod(of_pod, evidence, directory, span, period)
        except RefusedSampleError as error:
            found.refused[place] = str(error)
        except UnclearError as error:
            found.unclear[place] = str(error)
        yield


def recount(pages: Iterable[Page], directory: Directory, span: Span, period: float) -> Found:
    """The same of all pages of an interval, one by one."""
    found = Found()
    recorder = Recorder(span.baseline_of)
    taken: dict[SeriesKey, tuple[float, Target]] = {}
    in_time = sorted(
        ((page.at, page) for page in pages if page.at is not None and span.holds(page.at)), key=lambda one: one[0]
    )
    times: dict[Target, list[float]] = {}
    for at, page in in_time:
        times.setdefault(page.target, []).append(at)
    every = {target: scrape_seconds(of_target, period) for target, of_target in times.items()}
    for at, page in in_time:
        try:
            engines = _engines(page, directory, span, strict=True)
        except RefusedSampleError as error:
            found.refused[page.target[:2]] = str(error)
            continue
        for key, engine in engines:
            before = taken.get(key)
            if before is None:
                known = span.baseline(key, at)
                if known is not None and at <= known.seen_at:
                    continue
            # Two servers may scrape one pod: what the other one saw just now is known.
            elif page.target != before[1] and at - before[0] < every[page.target] / 2:
                continue
            taken[key] = (at, page.target)
            recorder.take(key, engine, at, span.window_seconds, every[page.target])
    found.closed = recorder.closed(math.inf)
    return found


def _uids(page: Page) -> set[str]:
    return {
        labels[names.LABEL_POD_UID]
        for name, labels, _ in page.samples
        if name == names.BUILD_INFO and labels.get(names.LABEL_POD_UID)
    }


def _pod_of(page: Page, directory: Directory, span: Span) -> KnownPod | None:
    """Whose page it is; None where it is none of those that this is about.

    Raises `UnclearError`, `RefusedSampleError`.
    """
    uids = _uids(page)
    if len(uids) > 1:
        raise UnclearError("one pod followed another under the same name")
    pod = directory.find(page.target, next(iter(uids), ""), span.end)
    return pod if pod is not None and span.belongs(pod.key) else None


def _sample(page: Page, pod: KnownPod) -> PodSample:
    if page.fault is not None:
        raise RefusedSampleError(page.fault)
    return sample_of(page.samples, pod.uid)


def _engines(
    page: Page, directory: Directory, span: Span, strict: bool = False
) -> list[tuple[SeriesKey, EngineSample]]:
    """The engines on a page; with `strict` raises `RefusedSampleError`, else there are none on one that is refused."""
    try:
        pod = _pod_of(page, directory, span)
        sample = _sample(page, pod) if pod is not None else None
    except UnclearError as error:
        if strict:
            raise RefusedSampleError(str(error)) from error
        return []
    except RefusedSampleError:
        if strict:
            raise
        return []
    if pod is None or sample is None:
        return []
    return [(_key(pod, engine), engine) for engine in sample.engines]


def _key(pod: KnownPod, engine: EngineSample) -> SeriesKey:
    return SeriesKey(pod.key, pod.fingerprint, pod.name, pod.uid, engine.engine)


def _of_pod(
    pages: Sequence[Page], evidence: Evidence, directory: Directory, span: Span, period: float
) -> list[ClosedInterval]:
    """The intervals of all containers of one pod, whose targets' last pages are `pages`."""
    of_container: dict[KnownPod, list[Page]] = {}
    for page in pages:
        pod = _pod_of(page, directory, span)
        if pod is not None:
            of_container.setdefault(pod, []).append(page)
    uids = {(pod.key.container, pod.uid) for pod in of_container}
    if len(uids) > len({container for container, _ in uids}):
        raise UnclearError("one pod followed another under the same name")
    found = []
    for pod, shown in of_container.items():
        looks = [
            (moments[-1][0], len(moments), page)
            for page in shown
            for moments in evidence.moments.get(page.target, {}).values()
            if moments
        ]
        if not looks:
            continue
        # Of several targets that show the same pod, the one that was seen last.
        _, _, last = max(looks, key=lambda look: look[:2])
        try:
            sample = _sample(last, pod)
        except RefusedSampleError as error:
            raise UnclearError(str(error)) from error
        targets = [page.target for page in shown]
        for engine in sample.engines:
            closed = _of_engine(_key(pod, engine), engine, last.target, targets, evidence, span, period)
            if closed is not None:
                found.append(closed)
    return found


def _of_engine(
    key: SeriesKey,
    engine: EngineSample,
    shown: Target,
    targets: Sequence[Target],
    evidence: Evidence,
    span: Span,
    period: float,
) -> ClosedInterval | None:
    of_each = {target: evidence.moments.get(target, {}).get(engine.engine, ()) for target in targets}
    own = [(at, tokens) for at, tokens in of_each[shown] if span.holds(at)]
    every = scrape_seconds((at for at, _ in own), period)
    times = _joined(of_each, shown, every, span)
    if not own or not times:
        return None
    baseline = span.baseline(key, times[0])
    if baseline is not None:
        times = [at for at in times if at > baseline.seen_at]
        if not times:
            # An interval that is asked for again.
            return None
        baseline = span.baseline(key, times[0])
    if baseline is None and len(times) > 1:
        raise UnclearError("the engine was not seen before")
    tokens = [float(baseline.counters.lookup_tokens)] if baseline is not None else []
    tokens += [count for at, count in own if baseline is None or at > baseline.seen_at]
    if any(later < earlier for earlier, later in itertools.pairwise(tokens)):
        raise UnclearError("the engine was started anew")
    total = Counters(0, 0, 0, 0, 0)
    if baseline is not None:
        total = engine.counters.since(baseline.counters)
        if total is engine.counters:
            raise UnclearError("the engine was started anew")
    interval = Interval(
        start=span.start,
        seconds=span.seconds,
        covered_seconds=_covered(times, baseline, every, span.seconds),
        samples=len(times),
        capacity_bytes=engine.facts.capacity_bytes,
        active_peak_bytes=max(
            engine.active_bytes,
            engine.active_peak_bytes,
            _peak(names.KV_CACHE_ACTIVE_BYTES, engine, targets, evidence, engine.facts.capacity_bytes),
            _peak(names.KV_CACHE_ACTIVE_PEAK_BYTES, engine, targets, evidence, engine.facts.capacity_bytes),
        ),
        demand_peak_bytes=max(
            engine.demand_peak_bytes,
            engine.active_peak_bytes,
            _peak(names.KV_CACHE_ACTIVE_PEAK_BYTES, engine, targets, evidence, engine.facts.capacity_bytes),
            _peak(names.KV_DEMAND_PEAK_BYTES, engine, targets, evidence, LARGEST_BYTES),
        ),
        **vars(total),
    )
    return ClosedInterval(
        key=key,
        facts=engine.facts,
        interval=interval,
        counters=engine.counters,
        seen_at=own[-1][0],
        expires=expiry(span.start, span.window_seconds),
    )


def _joined(of_each: dict[Target, Moments], shown: Target, every: float, span: Span) -> list[float]:
    """When an engine was scraped, by whichever target: one that looked right after another adds nothing."""
    joined = sorted(at for at, _ in of_each[shown] if span.holds(at))
    for target, moments in of_each.items():
        if target == shown:
            continue
        for at, _ in moments:
            if span.holds(at) and all(abs(at - other) >= every / 2 for other in joined):
                joined.append(at)
    return sorted(joined)


def _covered(times: Sequence[float], baseline: Baseline | None, every: float, most: float) -> float:
    """Seconds that were looked at, as the Recorder counts them."""
    covered, last = 0.0, baseline.seen_at if baseline is not None else None
    for at in times:
        covered += every if last is None else min(max(at - last, 0.0), 2 * every)
        covered = min(covered, most)
        last = at
    return covered


def _peak(metric: str, engine: EngineSample, targets: Sequence[Target], evidence: Evidence, most: int) -> int:
    found = 0.0
    for target in targets:
        value = evidence.peaks.get((metric, target, engine.engine), 0.0)
        if not 0 <= value <= most:
            raise UnclearError(f"{metric} was {value:g} once")
        found = max(found, value)
    return round(found)
