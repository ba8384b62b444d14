"""What is remembered of a workload under one fingerprint, also while another one holds its recommendation."""

from __future__ import annotations

from dataclasses import dataclass

from recommender.changes import Change
from recommender.keys import WorkloadKey
from recommender.trends import Point


@dataclass(frozen=True)
class Standing:
    """A status belongs to one fingerprint: a canary takes it, and when that is undone the former one comes back.

    `own_bytes` is the pool that the workload's own arguments make, as far as it was seen; `recommended_bytes` the pool
    that was recommended last, both per engine; `policy` the digest of the one under which sizing asked last.
    """

    own_bytes: int = 0
    recommended_bytes: int | None = None
    policy: str | None = None


@dataclass(frozen=True)
class Memory:
    """What an evaluation leaves behind of a workload under a fingerprint. Times in seconds since the epoch."""

    workload: WorkloadKey
    fingerprint: str
    policy: str
    """Its digest."""
    at: float
    candidate_bytes: int | None
    """What sizing asked for, so that a size sinks only when it has been asked for less for a while."""
    candidate_expires: float
    standing: Standing | None
    standing_expires: float
    point: Point | None = None
    """For the dashboard."""
    changes: tuple[Change, ...] = ()
    """What happened to the recommendation."""
