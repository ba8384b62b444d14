"""When to ask: after each interval, for as long as nobody answers, and at the start for the whole window.

Intervals are asked for in order of time, since counting goes on from one to the next. Rounds do not wait: they take
what has been found since the last one. What was counted once is not counted again, however often an interval is asked
for.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from recommender.discovery import Pod
from recommender.history import History
from recommender.intervals import ClosedInterval, interval_seconds
from recommender.keys import SeriesKey, WorkloadKey
from recommender.promql.asking import Answers, Asking
from recommender.promql.client import PromqlTelemetry, QueryError
from recommender.promql.conversion import Found, PodName, Span, baselines, converting, recount, scrape_seconds
from recommender.promql.directory import Directory, KnownPod
from recommender.promql.memories import Memories, Recalled, Recollection
from recommender.promql.progress import Progress
from recommender.recording import Baseline
from recommender.standings import Memory, Standing
from recommender.windows import ROLLING_PARTS

logger = logging.getLogger(__name__)

_MOST_WAITING = 50_000
"""Intervals that wait to be taken by a round: they are as many objects."""
_LATE_SCRAPES = 3
"""An engine of which the last so many scrapes are not there yet is late."""
_PODS_AT_A_TIME = 8
"""Between so many pods others have their turn."""
_ENGINES_ASKED = 200
_LONGEST_REST_SECONDS = 1.0

_Result = TypeVar("_Result")


class PrometheusSource:
    """Intervals of all workloads, as fast as they can be had: `run` finds them, `taken` hands them over.

    The round says with `tell` which pods live and how long the windows are. `history` is the cache, and only read here.
    """

    def __init__(
        self,
        asking: Asking,
        telemetry: PromqlTelemetry,
        memories: Memories,
        history: History,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._asking = asking
        self._clock = clock
        self._telemetry = telemetry
        self._memories = memories
        self._recollection = Recollection(asking)
        self._recalled: Recalled | None = None
        """None until it was asked for."""
        self._history = history
        self._living: tuple[KnownPod, ...] = ()
        self._gone: dict[KnownPod, float] = {}
        """Pods that lived while this process ran, and when they did last."""
        self._windows: dict[WorkloadKey, float] = {}
        self._told = asyncio.Event()
        self._waiting: list[ClosedInterval] = []
        self._taken = asyncio.Event()
        self._lines: dict[float, _Line] = {}
        """One for each length of a window in use."""
        self.fault: str | None = None
        """Why nothing was found lately; None where something was."""

    def tell(self, pods: Iterable[Pod], windows: Mapping[WorkloadKey, float], now: float) -> None:
        """What a round sees of the cluster."""
        self._gone |= dict.fromkeys(self._living, now)
        self._living, self._windows = tuple(map(KnownPod.of, pods)), dict(windows)
        self._memories.show(self._living, self._windows)
        longest = max(self._windows.values(), default=0.0)
        living = set(self._living)
        self._gone = {pod: last for pod, last in self._gone.items() if pod not in living and now - last <= longest}
        self._told.set()

    def taken(self) -> list[ClosedInterval]:
        """What has been found since the last call, in order of time."""
        found, self._waiting = self._waiting, []
        self._taken.set()
        return found

    def recalled(self) -> tuple[list[Memory], dict[str, str]]:
        """What was remembered and is not in the cache, and specs of policies by name, since the last call."""
        if self._recalled is None:
            return [], {}
        found, self._recalled = self._recalled, Recalled()
        return [one for one in found.memories if not self._is_stored(one)], found.policies

    def slot(self, window_seconds: float) -> int | None:
        """Of workloads with such a window, the number of the interval that is waited for; None until all that is over
        was asked for, and taken: before, an evaluation would see too little of it."""
        line = self._lines.get(window_seconds)
        if line is None or not line.progress.filled or self._waiting:
            return None
        return line.progress.number if self._recalled is not None and not self._recalled.memories else None

    def remember(self, memory: Memory) -> None:
        """Show what an evaluation leaves behind."""
        self._memories.remember(memory)

    def note_policies(self, policies: Mapping[str, str]) -> None:
        """Show the last valid spec of each policy."""
        self._memories.note_policies(policies)

    def begin_anew(self) -> None:
        """Nothing is stored any more: ask for everything again."""
        self._lines = {}
        self._waiting = []
        self._recalled = None

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._told.wait()
        while True:
            await self._do(self._recall)
            for line in await self._do(self._lines_in_use) or ():
                if line.progress.due <= self._clock() and not await self._do(functools.partial(self._ask, line)):
                    line.progress.ask_again(self._clock())
            while len(self._waiting) > _MOST_WAITING:
                self._taken.clear()
                await self._taken.wait()
            rest = min((line.progress.due for line in self._lines.values()), default=math.inf) - self._clock()
            await asyncio.sleep(min(max(rest, 0.0), _LONGEST_REST_SECONDS))

    async def _do(self, step: Callable[[], Awaitable[_Result]]) -> _Result | None:
        """What `step` returns; None where it failed, which is said."""
        try:
            found = await step()
        except QueryError as error:
            if self.fault is None:
                logger.error("%s; what is missing is asked for again until there is an answer", error)
            self.fault = str(error)
            return None
        except Exception as error:
            # Whatever an answer may be: the next one is read all the same.
            if self.fault is None:
                logger.exception("the Prometheus API's answers cannot be used")
            self.fault = f"the Prometheus API's answers cannot be used: {type(error).__name__}: {error}"
            return None
        return found

    async def _recall(self) -> None:
        """Read back what was remembered, once."""
        if self._recalled is None and self._windows:
            self._recalled = await self._recollection.standings(self._clock(), max(self._windows.values()))
            self._answered()

    def _answered(self) -> None:
        if self.fault is not None:
            logger.info("the Prometheus API answers again")
        self.fault = None

    async def _lines_in_use(self) -> list[_Line]:
        now, lengths = self._clock(), set(self._windows.values())
        for window in lengths - self._lines.keys():
            seen = {(pod.key, pod.fingerprint) for pod in self._living if self._windows.get(pod.key) == window}
            ends = [self._stored_until(*one) for one in seen]
            # Of what one of them lacks all are asked for: nothing is counted twice.
            begin = min((end for end in ends if end is not None and end > now - window), default=now - window)
            self._lines[window] = _Line(Progress(window, begin, now))
        self._lines = {window: line for window, line in self._lines.items() if window in lengths}
        return sorted(self._lines.values(), key=lambda line: line.progress.due)

    async def _ask(self, line: _Line) -> bool:
        """Ask for the next interval of a line, and see when it goes on."""
        progress, now = line.progress, self._clock()
        if progress.skip_to(now - progress.window_seconds - progress.seconds):
            logger.error("what was before %s is lost: nobody answered for a whole window", _shown(progress.start))
        start, end, window = progress.start, progress.end, progress.window_seconds
        if not line.counting:
            # Where do the engines stand that were there before?
            answers = await self._asking.interval(start, progress.seconds)
            before = self._span(line, start - progress.seconds)
            for key, one in baselines(answers.evidence, self._directory(answers), before).items():
                stored = self._stored_baseline(key)
                line.baselines[key] = one if stored is None or stored.seen_at < one.seen_at else stored
            line.counting = True
        answers = await self._asking.interval(end, progress.seconds)
        progress.period = _period(answers, progress.period)
        found, warnings = await self._counted(line, answers)
        asked = Recalled()
        if not progress.filled and end > now - progress.window_seconds / ROLLING_PARTS:
            asked = await self._recollection.candidates(end, progress.window_seconds)
        if self._lines.get(window) is not line:
            # All begins anew.
            return True
        self._answered()
        now = self._clock()
        if warnings and not progress.bears_partial(now):
            progress.ask_again(now)
            return True
        if not warnings and progress.goes_back():
            logger.info("answers are whole again: asked for once more from %s on", _shown(progress.start))
            return True
        if now < end + progress.lag + progress.patience and self._some_are_late(line, found, end):
            progress.ask_again(now)
            return True
        if warnings:
            self._telemetry.partial_intervals.inc()
            logger.warning("the interval until %s is taken, though answers are partial: %s", _shown(end), warnings[0])
        self._log_refusals(line, found)
        self._waiting += found.closed
        if self._recalled is not None:
            self._recalled.memories += [one for one in asked.memories if self._windows.get(one.workload) == window]
        line.take(found)
        progress.go_on(bool(warnings), now)
        self._telemetry.filled.labels(f"{progress.seconds:g}").set(end)
        return True

    async def _counted(self, line: _Line, answers: Answers) -> tuple[Found, tuple[str, ...]]:
        """What became of the interval, and why it may be a part of it."""
        progress = line.progress
        span, directory = self._span(line, progress.start), self._directory(answers)
        found = Found()
        pods = converting(found, answers.evidence, directory, span, progress.period)
        for count, _ in enumerate(pods):
            if count % _PODS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        warnings = list(answers.warnings)
        again = line.to_look_at(found, answers)
        for pod in found.unclear.keys() - set(again):
            found.refused[pod] = found.unclear[pod]
        async for pages, more in self._asking.every_page(again, progress.end, progress.seconds):
            warnings += more
            recounted = recount(pages, directory, span, progress.period)
            found.closed += recounted.closed
            found.refused |= recounted.refused
        self._telemetry.recounted_pods.inc(len(again))
        return found, tuple(warnings)

    def _span(self, line: _Line, start: float) -> Span:
        window = line.progress.window_seconds

        def baseline_of(key: SeriesKey) -> Baseline | None:
            known = line.baselines.get(key)
            if known is not None and known.seen_at >= start - line.progress.seconds:
                return known
            # Another line may have counted it meanwhile: policies change, and with them windows.
            stored = self._stored_baseline(key)
            return max((one for one in (known, stored) if one is not None), key=lambda one: one.seen_at, default=None)

        return Span(start, window, lambda key: self._windows.get(key) == window, baseline_of)

    def _stored_baseline(self, key: SeriesKey) -> Baseline | None:
        return None if self._history.is_closed else self._history.baseline(key)

    def _stored_until(self, workload: WorkloadKey, fingerprint: str) -> float | None:
        return None if self._history.is_closed else self._history.last_interval_end(workload, fingerprint)

    def _is_stored(self, memory: Memory) -> bool:
        if memory.standing is not None:
            return self._history.standing(memory.workload, memory.fingerprint) != Standing()
        seconds = interval_seconds(self._windows.get(memory.workload, 0.0))
        since = memory.at - seconds
        return bool(self._history.candidates(memory.workload, memory.fingerprint, memory.policy, since))

    def _directory(self, answers: Answers) -> Directory:
        return Directory(self._living, itertools.chain(answers.gone, self._gone))

    def _some_are_late(self, line: _Line, found: Found, end: float) -> bool:
        """Whether an engine that was there until now and should be there still has not come as far."""
        period = line.progress.period
        seen = {one.key: one.seen_at for one in found.closed}
        names = {(pod.key, pod.name, pod.uid) for pod in self._living}
        return any(
            before.seen_at >= line.progress.start - _LATE_SCRAPES * period
            and seen.get(key, before.seen_at) < end - _LATE_SCRAPES * period
            for key, before in line.baselines.items()
            if (key.workload, key.pod, key.uid) in names
        )

    def _log_refusals(self, line: _Line, found: Found) -> None:
        for (namespace, name), why in found.refused.items():
            if line.refused.get((namespace, name)) != why:
                logger.warning("the series of pod %s/%s do not count: %s", namespace, name, why)
        line.refused = found.refused
        self._telemetry.refused_pods.set(sum(len(one.refused) for one in self._lines.values()))


class _Line:
    """What is known of the engines whose workloads have one length of window."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.counting = False
        """Whether it is known where engines stood before the first interval."""
        self.baselines: dict[SeriesKey, Baseline] = {}
        self.refused: dict[PodName, str] = {}

    def to_look_at(self, found: Found, answers: Answers) -> list[PodName]:
        """The pods of which all pages are needed: not those refused for the same as before that did nothing since."""
        moved = {
            target[:2]
            for target, engines in answers.evidence.moments.items()
            for moments in engines.values()
            if any(value != moments[0][1] for _, value in moments)
        }
        return sorted(pod for pod, why in found.unclear.items() if pod in moved or self.refused.get(pod) != why)

    def take(self, found: Found) -> None:
        self.baselines.update((one.key, Baseline(one.counters, one.seen_at)) for one in found.closed)
        oldest = self.progress.end - self.progress.window_seconds
        self.baselines = {key: one for key, one in self.baselines.items() if one.seen_at >= oldest}


def _period(answers: Answers, before: float) -> float:
    """Seconds between two scrapes of most engines."""
    engines = (moments for of_target in answers.evidence.moments.values() for moments in of_target.values())
    known: Sequence[float] = [
        scrape_seconds((at for at, _ in moments), 0.0) for moments in itertools.islice(engines, _ENGINES_ASKED)
    ]
    return statistics.median([one for one in known if one] or [before])


def _shown(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
