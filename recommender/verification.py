"""Did the pods that started with a recommendation turn out as promised? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recommender.api.policies import PolicySpec
from recommender.api.units import parse_duration
from recommender.bounds import Knees
from recommender.intervals import Series, interval_seconds
from recommender.windows import Window
from recommender.workload_states import PodReport
from vllm_plugin.names import ANNOTATION_EMITTED

START_FAILED, NOT_READY, PREEMPTED, HIT_RATE_LOST = "StartFailed", "NotReady", "Preempted", "HitRateLost"
STARTING, SETTLING, KEPT = "Starting", "Settling", "AsPredicted"
NOTHING_OBSERVED, FORGOTTEN = "NothingObserved", "SettledLongAgo"


@dataclass(frozen=True)
class Verification:
    """Of one pod: as promised, not, or too early to say."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def verify(
    report: PodReport, series: Sequence[Series], policy: PolicySpec, allowed_loss: float | None, now: float
) -> Verification:
    """Judge one pod by what it did while it settled: later trouble is the traffic's, and sizing answers it.

    The hit rate is held against the curve of the pod's own lookups at the size it runs with, so that a quiet or busy
    hour is no fault of the recommendation. For the same reason a pod that was seen at work and is not ready now proves
    nothing: it is drained, replaced, or busy. Time counts from the start of its container: no size keeps a pod waiting
    for a node, a GPU, or an image, unless an emitter asked for the GPU in its words.
    """
    pod = report.pod
    own = tuple(one for one in series if (one.key.pod, one.key.uid) == (pod.name, pod.uid))
    if not own and pod.failure is not None:
        return Verification("False", START_FAILED, f"pod {pod.name} does not start with it: {pod.failure}")
    age = now - pod.began
    if not pod.ready and not own:
        # A sidecar may run in a pod that does not yet.
        waits = pod.address is None and pod.started_at is None
        if waits and not pod.annotations.get(ANNOTATION_EMITTED):
            return Verification("Unknown", STARTING, f"pod {pod.name} does not run yet")
        if age > parse_duration(policy.verify.ready_timeout) and not report.reporting:
            timeout = policy.verify.ready_timeout
            return Verification("False", NOT_READY, f"pod {pod.name} is not ready after {timeout}")
        return Verification("Unknown", STARTING, f"pod {pod.name} is starting")
    # At least one interval, however long the policy's window makes them.
    settle = max(parse_duration(policy.verify.settle), interval_seconds(policy.observation_window_seconds))
    if age - settle > policy.observation_window_seconds:
        message = f"pod {pod.name} settled longer ago than the window goes back"
        return Verification("Unknown", FORGOTTEN, message)
    settling = Window.of(own, pod.began + settle, settle)
    if settling.preemptions:
        message = f"pod {pod.name} preempted requests {settling.preemptions} times while it settled"
        return Verification("False", PREEMPTED, message)
    if age < settle:
        message = f"pod {pod.name} is observed for {policy.verify.settle} before it is judged"
        return Verification("Unknown", SETTLING, message)
    measured = settling.hit_rate
    if measured is None:
        return Verification("Unknown", NOTHING_OBSERVED, f"nothing was observed of pod {pod.name} while it settled")
    if allowed_loss is not None:
        predicted = settling.curve().hit_rate(own[0].facts.capacity_bytes)
        if measured < predicted - allowed_loss:
            return Verification(
                "False",
                HIT_RATE_LOST,
                f"pod {pod.name} hit {measured:.2%} of its tokens where {predicted:.2%} were predicted",
            )
    return Verification("True", KEPT, f"pod {pod.name} does as predicted")


def worst(verifications: Sequence[Verification]) -> Verification | None:
    """The one that decides for the workload: a failure before a doubt, a doubt before a success."""
    order = ("False", "Unknown", "True")
    return min(verifications, key=lambda one: order.index(one.status), default=None)


def tolerance(knees: Knees | None, policy: PolicySpec) -> float:
    """How far the hit rate may stay below the predicted one: the allowed loss, where known, else the points."""
    return knees.allowed_loss if knees is not None else policy.hit_rate_loss.points / 100
