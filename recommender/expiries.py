"""How long a recommendation stays that nothing owns: a bare pod's, or that of a group of the user's own. Pure.

What has an owner goes with it, as Kubernetes' garbage collector sees to; what is scaled to nothing waits for its pods.
"""

from __future__ import annotations

from recommender.api.recommendations import PLUGIN_REPORTING
from recommender.workload_states import WorkloadState


def is_over(state: WorkloadState, owner_is_known: bool, window_seconds: float, now: float) -> bool:
    """Whether nothing of the workload has been seen for a whole window: its history holds nothing any more, either.

    One that somebody has paused stays: that is said nowhere else.
    """
    stands = state.previous
    if stands is None or state.reports or owner_is_known or stands.spec.paused:
        return False
    gone = stands.condition(PLUGIN_REPORTING)
    if gone is None or gone.reason != "NoPods":
        return False
    seen = [gone.last_transition_time.timestamp()]
    if stands.status.coverage is not None and stands.status.coverage.last_sample is not None:
        seen.append(stands.status.coverage.last_sample.timestamp())
    return now - max(seen) > window_seconds
