"""Pods that were started with a recommendation, and whether they do as promised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from evaluated import (
    HOUR,
    NOW,
    OBSERVED,
    W,
    after_restart,
    applied_engine,
    pod,
    recommend,
    shown,
    state,
    target_of,
    traffic,
)
from synthetic import series

from recommender.api.recommendations import (
    DEGRADED,
    RECOMMENDED,
    VERIFIED,
    VLLMRecommendation,
)
from recommender.intervals import Series
from recommender.resolution import ResolvedPolicy
from recommender.workload_states import PodReport
from vllm_plugin.names import ANNOTATION_EMITTED


def judged(
    report: PodReport, observed: tuple[Series, ...], first: VLLMRecommendation, **spec: Any
) -> VLLMRecommendation:
    return recommend(state(report, previous=first, **spec), observed, (target_of(first).kv_bytes,))


def test_a_pod_settles_before_it_is_judged() -> None:
    first = recommend(state())
    small = applied_engine(first)
    report = PodReport(pod("llama-1", applied=True, age=600), (small,))
    found = judged(report, (*OBSERVED, series(traffic(1), W, NOW, engine=small, pod="llama-1")), first)
    assert shown(found, VERIFIED) == ("Unknown", "Settling")
    starting = replace(report, pod=replace(report.pod, ready=False))
    assert shown(judged(starting, OBSERVED, first), VERIFIED) == ("Unknown", "Starting")


def test_a_pod_that_never_starts_withdraws_the_recommendation() -> None:
    first = recommend(state())
    failed = PodReport(
        pod("llama-1", applied=True, ready=False, age=60, failure="exit code 1: no room"), fault="refused"
    )
    found = judged(failed, OBSERVED, first)
    assert shown(found, VERIFIED) == ("False", "StartFailed")
    assert shown(found, DEGRADED) == ("True", "StartFailed")
    assert shown(found, RECOMMENDED) == ("False", "Withdrawn")
    assert found.status.target is None
    # The pod is gone; for a sixth of the window nothing is tried again.
    sooner = recommend(state(previous=found), now=NOW + W / 6 - 60)
    assert sooner.status.target is None
    later = recommend(state(previous=sooner), (series(traffic(), W, NOW + W / 6),), now=NOW + W / 6 + 60)
    assert shown(later, DEGRADED) == ("False", "NoFailure")
    assert later.status.target is not None


def test_a_pod_that_is_not_ready_in_time() -> None:
    first = recommend(state())
    late = PodReport(pod("llama-1", applied=True, ready=False, age=1900), fault="refused")
    assert shown(judged(late, OBSERVED, first), VERIFIED) == ("False", "NotReady")


def test_a_pod_that_waits_for_its_node_or_image_withdraws_nothing() -> None:
    """An autoscaler without a free GPU, a node that comes up: the size is not to blame, nor for the time it took."""
    first = recommend(state())
    waiting = replace(pod("llama-1", applied=True, ready=False, age=2 * HOUR), address=None)
    found = judged(PodReport(waiting, fault="not running"), OBSERVED, first)
    assert (shown(found, VERIFIED), shown(found, DEGRADED)[0]) == (("Unknown", "Starting"), "False")
    assert found.status.target is not None
    begun = replace(waiting, address=("127.0.0.1", 1), started_at=NOW - 60)
    found = judged(PodReport(begun, fault="refused"), OBSERVED, first)
    assert (shown(found, VERIFIED), shown(found, DEGRADED)[0]) == (("Unknown", "Starting"), "False")
    late = replace(begun, started_at=NOW - 1900)
    assert shown(judged(PodReport(late, fault="refused"), OBSERVED, first), VERIFIED) == ("False", "NotReady")


def test_a_sidecar_that_is_not_ready_in_time() -> None:
    """Its pod stays Pending, and has no address for us, until the startup probe of the sidecar has passed."""
    first = recommend(state())
    sidecar = replace(pod("llama-1", applied=True, ready=False, age=2 * HOUR), address=None)
    begun = PodReport(replace(sidecar, started_at=NOW - 60), fault="not running")
    assert shown(judged(begun, OBSERVED, first), VERIFIED) == ("Unknown", "Starting")
    late = PodReport(replace(sidecar, started_at=NOW - 1900), fault="not running")
    found = judged(late, OBSERVED, first)
    assert (shown(found, VERIFIED), shown(found, DEGRADED)[0]) == (("False", "NotReady"), "True")
    assert found.status.target is None


def test_a_pod_that_waits_for_what_an_emitter_asked_for() -> None:
    """No scheduler may take these words: without them the next pod starts."""
    first = recommend(state())
    waiting = pod("llama-1", applied=True, ready=False, age=1900)
    asked = replace(waiting, address=None, annotations={ANNOTATION_EMITTED: "{}"})
    assert shown(judged(PodReport(asked, fault="not running"), OBSERVED, first), DEGRADED) == ("True", "NotReady")


def test_a_pod_settles_from_its_start_on() -> None:
    """However long it waited for a node: before that nothing could be seen of it."""
    first = recommend(state())
    small = applied_engine(first)
    waited = PodReport(replace(pod("llama-1", applied=True, age=W), started_at=NOW - 3600), (small,))
    observed = (*OBSERVED, series(traffic(2), W, NOW, engine=small, pod="llama-1"))
    assert shown(judged(waited, observed, first), VERIFIED) == ("True", "AsPredicted")


def test_preemptions_while_it_settles() -> None:
    first = recommend(state())
    small = applied_engine(first)
    report = PodReport(pod("llama-1", applied=True, age=1500), (small,))
    observed = (*OBSERVED, series(traffic(1), W, NOW, engine=small, pod="llama-1", preemptions=2))
    assert shown(judged(report, observed, first), VERIFIED) == ("False", "Preempted")


def test_a_hit_rate_below_the_predicted_one() -> None:
    first = recommend(state())
    small = applied_engine(first)
    report = PodReport(pod("llama-1", applied=True, age=3600), (small,))
    seen = series(traffic(2), W, NOW, engine=small, pod="llama-1")
    worse = replace(seen, intervals=tuple(replace(one, hit_tokens=one.hit_tokens // 2) for one in seen.intervals))
    assert shown(judged(report, (*OBSERVED, seen), first), VERIFIED) == ("True", "AsPredicted")
    found = judged(report, (*OBSERVED, worse), first)
    assert shown(found, VERIFIED) == ("False", "HitRateLost")
    assert found.status.target is None


def test_a_pod_that_served_and_is_unready_now_withdraws_nothing() -> None:
    """A rolling restart, a drain, a readiness probe that fails once: the size is not to blame."""
    first = recommend(state())
    small = applied_engine(first)
    gone = PodReport(pod("llama-1", applied=True, ready=False, age=3600), fault="no page")
    observed = (*OBSERVED, series(traffic(2), W, NOW, engine=small, pod="llama-1"))
    found = judged(gone, observed, first)
    assert shown(found, VERIFIED) == ("True", "AsPredicted")
    assert found.status.target is not None


def test_a_pod_whose_engine_runs_is_no_failed_start() -> None:
    """Its first interval is not over; a model that takes longer to load than the time allowed."""
    first = recommend(state())
    slow = PodReport(pod("llama-1", applied=True, ready=False, age=1900), (applied_engine(first),))
    assert shown(judged(slow, OBSERVED, first), VERIFIED) == ("Unknown", "Starting")


@pytest.mark.parametrize("seen", ["nothing", "no lookups"])
def test_nothing_observed_is_nothing_verified(seen: str) -> None:
    first = recommend(state())
    small = applied_engine(first)
    own = series([[], []], W, NOW, engine=small, pod="llama-1")
    if seen == "nothing":
        own = replace(own, intervals=())
    report = PodReport(pod("llama-1", applied=True, age=3600), (small,))
    assert shown(judged(report, (*OBSERVED, own), first), VERIFIED) == ("Unknown", "NothingObserved")


def test_what_was_verified_stays_so_when_the_window_has_forgotten_it() -> None:
    first = recommend(state())
    later, observed = after_restart(first)
    verified = recommend(later, observed, (target_of(first).kv_bytes,))
    assert shown(verified, VERIFIED)[0] == "True"
    small = applied_engine(first)
    old = PodReport(pod("llama-1", applied=True, age=2 * W), (small,))
    observed = (series(traffic(), W, NOW, engine=small, pod="llama-1"),)
    assert shown(judged(old, observed, verified), VERIFIED)[0] == "True"
    assert shown(judged(old, observed, first), VERIFIED)[0] == "Unknown"


def test_intervals_longer_than_the_settling_time() -> None:
    """A window of a fortnight: one interval is 3.5 hours, and still the pod is judged."""
    first = recommend(state())
    small = applied_engine(first)
    report = PodReport(pod("llama-1", applied=True, age=20 * HOUR), (small,))
    own = series(traffic(10), 7 * W, NOW, engine=small, pod="llama-1")
    found = recommend(state(report, previous=first, observationWindow="336h"), (own,))
    assert shown(found, VERIFIED) == ("True", "AsPredicted")


def test_degraded_does_not_stay_for_as_long_as_a_clock_was_ahead() -> None:
    first = recommend(state())
    late = PodReport(pod("llama-1", applied=True, ready=False, age=1900), fault="refused")
    found = judged(late, OBSERVED, first)
    assert shown(recommend(state(previous=found), now=NOW - 60), DEGRADED) == ("True", "NotReady")
    assert shown(recommend(state(previous=found), now=NOW - W), DEGRADED) == ("False", "NoFailure")


def test_degraded_stays_while_the_policy_is_away() -> None:
    first = recommend(state())
    late = PodReport(pod("llama-1", applied=True, ready=False, age=1900), fault="refused")
    found = judged(late, OBSERVED, first)
    away = recommend(state(previous=found, policy=ResolvedPolicy("gone", None, "gone", True)), now=NOW + 60)
    assert shown(away, DEGRADED) == ("True", "NotReady")
    back = recommend(state(previous=away), now=NOW + 120)
    assert shown(back, DEGRADED) == ("True", "NotReady")
    assert back.status.target is None
