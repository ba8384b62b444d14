"""What is remembered of a workload under one fingerprint, also while another one holds its recommendation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """A status belongs to one fingerprint: a canary takes it, and when that is undone the former one comes back.

    `own_bytes` is the pool that the workload's own arguments make, as far as it was seen; `recommended_bytes` the pool
    that was recommended last, both per engine; `policy` the digest of the one under which sizing asked last.
    """

    own_bytes: int = 0
    recommended_bytes: int | None = None
    policy: str | None = None
