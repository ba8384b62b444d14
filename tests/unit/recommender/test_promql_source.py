"""From series to intervals: the same as the Recorder makes of the same scrapes, whatever happens to pods."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from scraped_series import Scraped, page_of
from synthetic import KEY, SyntheticEngine, facts

from recommender.discovery import Pod
from recommender.exposition import PageSample, sample_of
from recommender.history import History
from recommender.intervals import ClosedInterval, Interval
from recommender.keys import SeriesKey
from recommender.promql.asking import Asking
from recommender.promql.client import PromqlTelemetry
from recommender.promql.directory import POD_LABELS, KnownPod, labels_of
from recommender.promql.memories import Memories
from recommender.promql.queries import POD_INFO
from recommender.promql.settings import PrometheusSettings
from recommender.promql.source import PrometheusSource
from recommender.recording import Recorder
from recommender.samples import Counters, RefusedSampleError
from vllm_plugin import names

SECONDS, PERIOD, INTERVALS = 80.0, 10.0, 4
W = 96 * SECONDS
SCRAPES = round(SECONDS / PERIOD)
SETTINGS = PrometheusSettings("http://prometheus:9090")
FINGERPRINT = "f" * 16


def pod(name: str, uid: str) -> Pod:
    return Pod(KEY, name, uid, FINGERPRINT, ("127.0.0.1", 1), 0.0, True, False, None, {})


def target(name: str, **more: str) -> dict[str, str]:
    return {"namespace": KEY.namespace, "pod": name, "container": KEY.container, "instance": f"{name}:9415"} | more


@dataclass
class Twice:
    """The same scrapes go to the Recorder and into series; what both make of them."""

    scraped: Scraped
    recorder: Recorder = field(default_factory=lambda: Recorder(lambda _: None))
    recorded: list[ClosedInterval] = field(default_factory=list)

    def scrape(self, at: float, page: Sequence[PageSample], of: Pod, labels: dict[str, str] | None = None) -> None:
        self.scraped.scrape(at, page, labels or target(of.name))
        self.recorded += self.recorder.closed(at)
        try:
            sample = sample_of(page, of.uid)
        except RefusedSampleError:
            return
        for engine in sample.engines:
            key = SeriesKey(of.key, of.fingerprint, of.name, of.uid, engine.engine)
            self.recorder.take(key, engine, at, W, PERIOD)

    def all_recorded(self) -> list[ClosedInterval]:
        return self.recorded + self.recorder.closed(math.inf)


END = 14_000_000 * SECONDS
"""Of the last interval."""
BEGIN = END - INTERVALS * SECONDS
INFO = {"max_model_len": "4096", "override": names.OVERRIDE_RAISED, "sliding_window_groups": "1"}
NOW = END + 90.0
"""So late that nothing is waited for any more."""


async def asked(scraped: Scraped, living: Sequence[Pod], history: History, window: float = W) -> list[ClosedInterval]:
    """All intervals that a source makes of series; `history` is its cache, in which it does not write."""
    source = source_of(scraped, history)
    running = asyncio.create_task(source.run())
    found: list[ClosedInterval] = []
    try:
        for _ in range(10_000):
            source.tell(living, {KEY: window}, NOW)
            source.recalled()
            found += source.taken()
            if source.slot(window) is not None:
                return found
            assert not running.done(), running.result()
            await asyncio.sleep(0)
        raise AssertionError(source.fault)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def source_of(scraped: Scraped, history: History, clock: Callable[[], float] = lambda: NOW) -> PrometheusSource:
    asking, telemetry = Asking(scraped, SETTINGS), PromqlTelemetry(CollectorRegistry())
    return PrometheusSource(asking, telemetry, Memories(), history, clock)


def by_place(found: Sequence[ClosedInterval]) -> dict[tuple[SeriesKey, float], ClosedInterval]:
    assert len({(one.key, one.interval.start) for one in found}) == len(found)
    return {(one.key, one.interval.start): one for one in found}


def live(engine: SyntheticEngine, chance: random.Random) -> None:
    """Some traffic between two scrapes."""
    engine.active_blocks = chance.randrange(engine.blocks // 2)
    engine.demand_blocks = engine.active_blocks + chance.choice((0, 0, 9000))
    if chance.random() < 0.7:
        engine.look_up([chance.choice((None, 3, 500, 5000)) for _ in range(chance.randrange(20))], chance.randrange(4))
    engine.preemptions += chance.random() < 0.1
    engine.admissions_blocked += chance.random() < 0.1


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.promql.source._LONGEST_REST_SECONDS", 0.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A cache that ends where the tests' series begin."""
    with History.open(tmp_path_factory.mktemp("cache") / "history.db") as history:
        key = SeriesKey(KEY, FINGERPRINT, "another", "u", "0")
        before = Interval(BEGIN - SECONDS, SECONDS, SECONDS, 8, 1 << 30, 0, 0)
        history.append([ClosedInterval(key, facts(), before, Counters(0, 0, 0, 0, 0), BEGIN - 1, END + 2 * W)])
        yield history


@pytest.mark.parametrize("native", [False, True], ids=["classic", "native"])
@pytest.mark.parametrize("seed", range(3))
def test_series_tell_what_scrapes_would_have(seed: int, native: bool, cache: History) -> None:
    """Pods begin, end, are started anew, are replaced under the same name, and are not scraped for a while."""
    chance = random.Random(seed)
    twice = Twice(Scraped(native))
    alive: list[Pod] = []
    for number in range(chance.randrange(1, 4)):
        name = f"llama-{number}"
        begin = chance.randrange(-SCRAPES, 3 * SCRAPES)
        end = chance.choice((INTERVALS * SCRAPES, chance.randrange(3 * SCRAPES, INTERVALS * SCRAPES)))
        restart = chance.choice((-99, chance.randrange(begin, end)))
        successor = chance.choice((-99, chance.randrange(begin, end)))
        gap = chance.choice((range(0), range(start := chance.randrange(begin, end), start + chance.choice((2, 5, 30)))))
        engine, uid = SyntheticEngine(requests=7, lookup_tokens=900, reserved_bytes=1 << 30, info=INFO), f"{name}-a"
        offset = chance.uniform(0, PERIOD)
        for step in range(begin, end):
            if step == restart:
                engine = SyntheticEngine(reserved_bytes=1 << 29, info=INFO | {"max_model_len": "2048"})
            if step == successor:
                engine, uid = SyntheticEngine(), f"{name}-b"
            live(engine, chance)
            if step not in gap:
                of = pod(name, uid)
                at = round(BEGIN + offset + step * PERIOD, 3)
                twice.scrape(at, page_of(engine, uid), of, target(name, instance=uid))
                alive = [one for one in alive if one.name != name] + [of]
        # Who is gone is known from what was said of him.
        for uid in (f"{name}-a", f"{name}-b"):
            known = dict(zip(POD_LABELS, labels_of(KnownPod.of(pod(name, uid))), strict=True))
            said = {"__name__": POD_INFO, "job": "vllm-rightsizer-recommender", **known}
            for step in range(-SCRAPES, INTERVALS * SCRAPES):
                twice.scraped.add(BEGIN + step * PERIOD, said, 1.0)

    expected = {place: one for place, one in by_place(twice.all_recorded()).items() if place[1] >= BEGIN}
    found = by_place(asyncio.run(asked(twice.scraped, alive, cache)))
    assert found.keys() == expected.keys()
    for place, one in expected.items():
        # With all facts of the engine.
        assert without_coverage(found[place]) == without_coverage(one)
        # How far apart scrapes are is seen by the scrapes: of a few, with a gap between, it is not known as well.
        few = one.interval.samples < SCRAPES // 2
        covered = found[place].interval.covered_seconds
        assert covered == pytest.approx(one.interval.covered_seconds, abs=2 * PERIOD if few else 1e-6)


def without_coverage(closed: ClosedInterval) -> ClosedInterval:
    return replace(closed, interval=replace(closed.interval, covered_seconds=0.0))


def quiet_life(twice: Twice, of: Pod, *targets: dict[str, str], last: str = "") -> None:
    """A pod that lives from before the first interval to the end, seen as each of `targets`; `last`: a metric that is
    nonsense on its last page."""
    engine, chance = SyntheticEngine(), random.Random(of.uid)
    for step in range(-SCRAPES, INTERVALS * SCRAPES):
        live(engine, chance)
        page = page_of(engine, of.uid)
        if last and step == INTERVALS * SCRAPES - 1:
            page = [(name, labels, -1.0 if name == last else value) for name, labels, value in page]
        # Some of them just when an interval ends and the next one begins.
        at = BEGIN + step * PERIOD
        twice.scrape(at, page, of, targets[0] if targets else None)
        for number, other in enumerate(targets[1:], 1):
            twice.scraped.scrape(at + number, page, other)


def expected_of(twice: Twice) -> list[ClosedInterval]:
    return [one for one in twice.all_recorded() if one.interval.start >= BEGIN]


POD = pod("llama-0", "a")


@pytest.mark.parametrize(
    "others",
    [
        [{"prometheus_replica": "2"}],
        [{"job": "vllm", "instance": "llama-0:8000"}, {"job": "vllm", "instance": "llama-0:8000", "replica": "2"}],
    ],
    ids=["two servers", "its own port too"],
)
def test_an_engine_that_is_scraped_twice_counts_once(others: list[dict[str, str]], cache: History) -> None:
    twice = Twice(Scraped())
    quiet_life(twice, POD, target("llama-0"), *(target("llama-0", **other) for other in others))
    found, expected = asyncio.run(asked(twice.scraped, [POD], cache)), expected_of(twice)
    assert [one.interval.samples for one in found] == [SCRAPES] * INTERVALS
    for one, other in zip(found, expected, strict=True):
        assert one.counters == other.counters
        assert one.interval.reuse == other.interval.reuse
        assert one.interval.covered_seconds == SECONDS


def test_native_and_classic_histograms_are_never_added(cache: History) -> None:
    native, classic = Twice(Scraped(native=True)), Twice(Scraped())
    quiet_life(native, POD)
    quiet_life(classic, POD)
    both = Scraped(series=classic.scraped.series | native.scraped.series)
    found = asyncio.run(asked(both, [POD], cache))
    assert found == asyncio.run(asked(classic.scraped, [POD], cache)) == expected_of(native)
    assert not any("_bucket" in expression for expression in both.asked)
    # Where every sample is looked at, both are there.
    scraped = [twice.scraped for twice in (native, classic)]
    for one in scraped:
        engine = SyntheticEngine()
        for step in range(3):
            engine.look_up([4, 5, None])
            one.scrape(END - 50 + step * PERIOD, page_of(engine, "b"), target("llama-1"))
    both = Scraped(series=classic.scraped.series | native.scraped.series)
    later = asyncio.run(asked(both, [pod("llama-1", "b")], cache))
    assert [one.interval.requests for one in later] == [2]
    assert any("_bucket" in expression for expression in both.asked)


def test_an_engine_that_is_soon_busier_than_before_was_started_anew_all_the_same(cache: History) -> None:
    """Where the interval ends, each of its counters is above what it was where it began."""
    twice, engine = Twice(Scraped()), SyntheticEngine()
    for step in range(-2, SCRAPES):
        engine = SyntheticEngine() if step == 2 else engine
        engine.look_up([4, 500, None], requests=5 if step > 3 else 1)
        twice.scrape(BEGIN + 1 + step * PERIOD, page_of(engine, POD.uid), POD)
    found = asyncio.run(asked(twice.scraped, [POD], cache))
    assert found == expected_of(twice)
    assert found[0].interval.requests == 1 + 1 + 1 + 1 + 5 * (SCRAPES - 4)


@pytest.mark.parametrize("metric", [names.KV_CACHE_ACTIVE_BYTES, names.REQUESTS, names.HOOKS_ACTIVE])
def test_what_came_before_a_page_that_is_refused_counts(metric: str, cache: History) -> None:
    twice = Twice(Scraped())
    quiet_life(twice, POD, last=metric)
    assert asyncio.run(asked(twice.scraped, [POD], cache)) == expected_of(twice)


def test_a_pod_that_shows_anothers_page_does_not_count(cache: History) -> None:
    """With hostNetwork, whoever has the port answers for all."""
    twice = Twice(Scraped())
    quiet_life(twice, POD, target("llama-1"))
    assert not asyncio.run(asked(twice.scraped, [POD, pod("llama-1", "b")], cache))
    # Nor does one that nobody knows.
    assert not asyncio.run(asked(twice.scraped, [POD], cache))


def test_who_was_who_is_asked_of_the_recommender_alone(cache: History) -> None:
    twice = Twice(Scraped())
    quiet_life(twice, POD)
    forged = dict(zip(POD_LABELS, labels_of(KnownPod.of(POD)), strict=True))
    another = pod("another", "u")
    for job, counts in (("somebody", False), ("vllm-rightsizer-recommender", True)):
        for step in range(-1, INTERVALS):
            twice.scraped.add(BEGIN + step * SECONDS, {"__name__": POD_INFO, "job": job, **forged}, 1.0)
        assert asyncio.run(asked(twice.scraped, [another], cache)) == (expected_of(twice) if counts else [])


def test_what_is_stored_is_not_counted_again(tmp_path: Path) -> None:
    twice = Twice(Scraped())
    quiet_life(twice, POD)
    with History.open(tmp_path / "history.db") as history:
        found = asyncio.run(asked(twice.scraped, [POD], history))
        history.append(found[:-2])
        # An older pod of the workload has nothing lately: all are asked for again from there.
        again = asyncio.run(asked(twice.scraped, [POD], history))
    assert again == found[-2:]


def test_as_many_queries_for_a_thousand_pods_as_for_ten() -> None:
    asked_of = {}
    for count in (10, 1000):
        scraped = Scraped(native=True)
        page = page_of(SyntheticEngine())
        for number in range(count):
            scraped.scrape(END - 5, page, target(f"llama-{number}"))
        asking = Asking(scraped, SETTINGS)  # type: ignore[arg-type]  # it asks as the client does
        answers = asyncio.run(asking.interval(END, SECONDS))
        assert len(list(answers.evidence.pages)) == count
        asked_of[count] = scraped.asked
    assert asked_of[10] == asked_of[1000]
    assert len(asked_of[10]) == 7


async def test_partial_answers_are_waited_for_and_asked_for_again(cache: History) -> None:
    twice = Twice(Scraped())
    quiet_life(twice, POD)
    now = [NOW]
    source = source_of(twice.scraped, cache, lambda: now[0])
    twice.scraped.warnings = ("a shard does not answer",)
    running = asyncio.create_task(source.run())

    async def found(rounds: int = 200) -> list[ClosedInterval]:
        taken: list[ClosedInterval] = []
        for _ in range(rounds):
            source.tell([POD], {KEY: W}, now[0])
            source.recalled()
            taken += source.taken()
            await asyncio.sleep(0)
        return taken

    assert not await found()
    assert source.slot(W) is None
    now[0] += SECONDS
    # The patience is over: what is there is taken.
    partial = await found()
    assert partial == expected_of(twice)
    # Whole again: from the first one on, and nothing is counted twice.
    twice.scraped.warnings = ()
    first_asked = len(twice.scraped.asked)
    now[0] += SECONDS
    assert not await found()
    assert len(twice.scraped.asked) - first_asked > 2 * 7
    running.cancel()


async def test_no_answer_is_said_and_asked_for_again(cache: History) -> None:
    twice = Twice(Scraped())
    quiet_life(twice, POD)
    now = [NOW]
    twice.scraped.faults = ["no answer from http://prometheus:9090", "no answer"]
    source = source_of(twice.scraped, cache, lambda: now[0])
    running = asyncio.create_task(source.run())
    faults, taken = set(), []
    async with asyncio.timeout(60):
        while source.slot(W) is None:
            source.tell([POD], {KEY: W}, now[0])
            source.recalled()
            taken += source.taken()
            faults.add(source.fault)
            now[0] += 0.1
            await asyncio.sleep(0)
    running.cancel()
    assert "no answer" in faults
    assert taken == expected_of(twice)
    assert source.fault is None
