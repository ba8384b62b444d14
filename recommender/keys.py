"""What the recommender's values belong to: a workload's container, and one engine of one of its pods.

Tuples, because a round looks up tens of thousands of them: Python hashes and compares these ten times faster.
"""

from __future__ import annotations

from typing import NamedTuple

from recommender.api.workloads import WorkloadRef

WORKLOAD_LABELS = ("namespace", "kind", "workload", "container")
"""What the parts of a key are called in our metrics."""


class WorkloadKey(NamedTuple):
    """What gets one recommendation."""

    namespace: str
    workload: WorkloadRef
    container: str

    @property
    def labels(self) -> tuple[str, str, str, str]:
        """Values of `WORKLOAD_LABELS`."""
        return (self.namespace, self.workload.kind, self.workload.name, self.container)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}/{self.container}"


class SeriesKey(NamedTuple):
    """One engine of one pod, started from one fingerprint. A pod of the same name made anew has another `uid`."""

    workload: WorkloadKey
    fingerprint: str
    pod: str
    uid: str
    engine: str
