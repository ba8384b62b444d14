"""Pods that run and are not measured: nothing is made smaller by what the others say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import HOUR, NOW, OWN, W, pod, recommend, shown, state, target_of, traffic
from synthetic import BLOCK_BYTES, KEY, cluster_objects, facts, policy_object, series

from recommender.api.object_store import FileObjectStore
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import COVERAGE_SUFFICIENT, RECOMMENDED, VLLMRecommendation
from recommender.discovery import Missing
from recommender.explanations import explain
from recommender.history import History
from recommender.intervals import ClosedInterval, Series
from recommender.presence import pods_guard
from recommender.samples import ASLEEP, Counters
from recommender.sizing import Before, Guard, size
from recommender.targets import pools_of
from recommender.windows import Window
from recommender.workload_states import PodReport

SLOT = W / 96
MEASURED = series(traffic(), W, NOW)
SILENT = {"fault": "no page from 10.0.0.2:9415 within 5 s"}
POOLS = pools_of([OWN], OWN.capacity_bytes)
UNSEEN = Guard("pods", False, "1 of 2 pods that are ready have no data of the last 8h: llama-1 (none since yesterday)")


def until(end: float, name: str = "llama-1", intervals: int = 48, deepest: int = 1200) -> Series:
    """A pod of which the last interval ended then."""
    return series(traffic(intervals, deepest), W, end, pod=name)


def guard(*reports: PodReport, observed: Sequence[Series] = (MEASURED,)) -> Guard:
    return pods_guard((PodReport(pod(), (OWN,)), *reports), observed, NOW, W)


# --- Who is missed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "last", "said"),
    [
        # It was measured, and is not any more.
        (PodReport(pod("llama-1"), **SILENT), W / 6, "llama-1 (none since 2027-01-15T00:00:00Z)"),
        (PodReport(pod("llama-1"), (OWN,)), W / 6, ", though it answers now)"),
        (PodReport(pod("llama-1", age=5 * W), **SILENT), 0.9 * W, "1 of 2 pods"),
        # It should have been measured, as others were.
        (PodReport(pod("llama-1", age=W / 6), **SILENT), None, "llama-1 (none since 2027-01-15T00:00:00Z)"),
        (
            PodReport(replace(pod("llama-1", age=W / 2), uid="new"), **SILENT),
            0.0,
            "llama-1 (none since 2027-01-14T08:00:00Z)",
        ),
        # It waited for its node, and has been up for long enough since.
        (
            PodReport(replace(pod("llama-1", age=9 * W), started_at=NOW - W / 6), **SILENT),
            None,
            "llama-1 (none since 2027-01-15T00:00:00Z)",
        ),
        # What answers has data, wherever they are.
        (PodReport(pod("llama-1", age=9 * W), (OWN,)), None, ", though it answers now)"),
    ],
)
def test_pods_that_are_missed(report: PodReport, last: float | None, said: str) -> None:
    observed = (MEASURED,) if last is None else (MEASURED, until(NOW - last, intervals=8))
    found = guard(report, observed=observed)
    assert not found.passed
    assert "no data of the last 8h" in found.message
    assert said in found.message


@pytest.mark.parametrize(
    ("report", "last"),
    [
        (PodReport(pod("llama-1"), (OWN,)), 0.0),
        # A size that is asked for less waits for as long anyway.
        (PodReport(pod("llama-1"), **SILENT), W / 6 - SLOT),
        # Freshly started.
        (PodReport(pod("llama-1", age=W / 6 - 1), **SILENT), None),
        # It waited for its node.
        (PodReport(replace(pod("llama-1", age=W / 2), started_at=NOW - 60), (OWN,)), None),
        # Who gets no requests, and who has nothing to size.
        (PodReport(pod("llama-1", ready=False), **SILENT), W / 3),
        (PodReport(replace(pod("llama-1"), address=None), fault="the pod does not run yet"), W / 3),
        (PodReport(pod("llama-1"), aside=ASLEEP, fault="vLLM sleeps"), W / 3),
        # It never had the plugin.
        (PodReport(replace(pod("llama-1"), missing=Missing("NotAdmitted", "it began before")), **SILENT), None),
    ],
)
def test_pods_that_are_not_missed(report: PodReport, last: float | None) -> None:
    observed = (MEASURED,) if last is None else (MEASURED, until(NOW - last))
    assert guard(report, observed=observed).passed


def test_a_pod_that_was_silent_for_a_whole_window_is_given_up_and_named() -> None:
    found = guard(PodReport(pod("llama-1", age=W), **SILENT), observed=(MEASURED, until(NOW - W, intervals=8)))
    assert found.passed
    assert found.message.endswith("not counted, as silent for the whole window of 2d: llama-1")


def test_a_pod_that_waited_for_a_whole_window_has_not_been_silent_for_as_long() -> None:
    found = guard(PodReport(replace(pod("llama-1", age=W), started_at=NOW - 60), **SILENT))
    assert found == Guard("pods", True, "all 2 pods that are ready have data of the last 8h, or began since")


def test_nobody_is_missed_before_others_were_measured_for_as_long() -> None:
    """A recommender, or a cache, that begins: pods are older than what is known of any."""
    reports = (PodReport(pod("llama-1", age=W / 2), **SILENT), PodReport(pod("llama-2", age=9 * W), (OWN,)))
    assert guard(*reports, observed=()).passed
    assert guard(*reports, observed=(series(traffic(15), W, NOW),)).passed
    assert not guard(*reports, observed=(series(traffic(16), W, NOW),)).passed


def test_of_many_a_few_are_named() -> None:
    found = guard(*(PodReport(pod(f"llama-{number}", age=W / 2), **SILENT) for number in range(1, 9)))
    assert found.message.startswith("8 of 9 pods that are ready have no data of the last 8h: llama-1 (none since ")
    assert found.message.endswith(" and 5 more")


# --- What that does ---------------------------------------------------------------------------------------------------


def sized(kv_blocks: int, unseen: Guard | None = UNSEEN, engine: int = 4096, **more: int) -> tuple[int, str]:
    """The blocks after so many, and by what; the last W/6 asked for little."""
    observed = Window.of([series(traffic(), W, NOW, engine=facts(blocks=engine), **more)], NOW, W)
    pools = pools_of([facts(blocks=engine)], OWN.capacity_bytes)
    found = size(observed, pools, PolicySpec(), Before(kv_blocks * BLOCK_BYTES, (BLOCK_BYTES,)), pods=unseen)
    assert found.kv_bytes is not None
    return found.kv_bytes // BLOCK_BYTES, found.bound_by


def test_nothing_is_made_smaller_and_growing_needs_no_guard() -> None:
    assert sized(3000, unseen=None)[0] < 1400
    assert sized(3000) == (3000, "held")
    # What the others need, at once.
    blocks, why = sized(1000)
    assert blocks > 1200
    assert why == "hitRate"
    assert sized(1000, engine=1000, preemptions=3)[0] > 1200
    # It had grown beyond its own arguments' pool, and the window has forgotten why.
    assert sized(5000, unseen=None)[0] < 1400
    assert sized(5000) == (5000, "held")


def test_without_a_size_before_none_is_found() -> None:
    window = Window.of([MEASURED], NOW, W)
    found = size(window, POOLS, PolicySpec(), pods=UNSEEN)
    assert found.kv_bytes is None
    assert found.message == UNSEEN.message


def test_when_they_are_back_a_size_sinks_as_slowly_as_after_any_pause() -> None:
    """What is remembered as asked for is what was held."""
    window, before = Window.of([MEASURED], NOW, W), Before(3000 * BLOCK_BYTES, (BLOCK_BYTES,))
    found = size(window, POOLS, PolicySpec(), before, pods=UNSEEN)
    assert found.candidate_bytes == 3000 * BLOCK_BYTES


def test_the_pod_that_needs_most_has_its_say_across_a_gap() -> None:
    """It was away for a quarter of the window; what was counted meanwhile stands where the gap ends."""
    calm = series(traffic(deepest=400, lookups=300), W, NOW, pod="calm")
    busy = series(traffic(deepest=2500, lookups=50), W, NOW, pod="busy")
    seen = [one for index, one in enumerate(busy.intervals) if not 30 <= index < 54]
    policy = PolicySpec(window_coverage=90)
    found, whole = (
        size(Window.of([calm, one], NOW, W), POOLS, policy).knees
        for one in (replace(busy, intervals=tuple(seen)), busy)
    )
    assert found is not None
    assert whole is not None
    assert found.whole_bytes == pytest.approx(whole.whole_bytes, rel=0.05)
    assert found.rolling_bytes == pytest.approx(whole.rolling_bytes, rel=0.05)


# --- What is said of it -----------------------------------------------------------------------------------------------


def away(first: VLLMRecommendation, since: float, *, still_there: bool = True) -> VLLMRecommendation:
    """The other pod asks for little, and has for W/6; the busy one is not seen any more."""
    calm = series(traffic(deepest=300, lookups=100), W, NOW, pod="calm")
    reports = [PodReport(pod("calm"), (OWN,))]
    if still_there:
        reports.append(PodReport(pod("busy"), **SILENT))
    return recommend(state(*reports, previous=first), (calm, until(NOW - since, "busy", 20)), (BLOCK_BYTES,))


def test_a_shard_that_is_away_makes_nothing_smaller() -> None:
    calm, busy = series(traffic(deepest=300, lookups=100), W, NOW, pod="calm"), until(NOW, "busy", 96, deepest=3000)
    both = [PodReport(pod(name), (OWN,)) for name in ("calm", "busy")]
    first = recommend(state(*both), (calm, busy))
    assert shown(first, COVERAGE_SUFFICIENT) == ("True", "Sufficient")

    held = away(first, W / 4)
    assert target_of(held).kv_bytes == target_of(first).kv_bytes
    assert shown(held, COVERAGE_SUFFICIENT) == ("False", "PodsWithoutData")
    assert shown(held, RECOMMENDED) == ("True", "Held")
    for condition in (held.condition(COVERAGE_SUFFICIENT), held.condition(RECOMMENDED)):
        assert condition is not None
        assert "busy (none since " in condition.message

    # Scaled down: it is not missed.
    fewer = away(first, W / 4, still_there=False)
    assert target_of(fewer).kv_bytes < target_of(first).kv_bytes
    assert shown(fewer, COVERAGE_SUFFICIENT) == ("True", "Sufficient")


def test_the_explanation_shows_it(tmp_path: Path) -> None:
    first = recommend(state(PodReport(pod("calm"), (OWN,))), (until(NOW - HOUR, "calm", 94, deepest=3000),))
    held = away(first, W / 4)
    store = FileObjectStore(tmp_path / "objects")
    for obj in (*cluster_objects(), policy_object(), held.to_json()):
        store.apply(obj)
    calm = series(traffic(deepest=300, lookups=100), W, NOW, pod="calm")
    with History.open(tmp_path / "history.db") as history:
        history.append(
            ClosedInterval(calm.key, calm.facts, one, Counters(0, 0, 0, 0, 0), one.end, one.end + W)
            for one in calm.intervals
        )
    found = explain(store, tmp_path / "history.db", KEY.namespace, "llama")
    assert [(one.name, one.passed) for one in found.guards] == [
        ("pods", False),
        ("coverage", True),
        ("requests", True),
        ("lookups", True),
    ]
    assert "busy (none since " in found.guards[0].message
    assert found.decided_by == "held"
