"""What the recommender's values belong to: a workload's container, and one engine of one of its pods."""

from __future__ import annotations

from dataclasses import dataclass

from recommender.api.workloads import WorkloadRef


@dataclass(frozen=True, order=True)
class WorkloadKey:
    """What gets one recommendation."""

    namespace: str
    workload: WorkloadRef
    container: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}/{self.container}"


@dataclass(frozen=True, order=True)
class SeriesKey:
    """One engine of one pod, started from one fingerprint. A pod of the same name made anew has another `uid`."""

    workload: WorkloadKey
    fingerprint: str
    pod: str
    uid: str
    engine: str
