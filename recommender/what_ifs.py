"""What another policy would recommend: the history sized again, and each size held against the window it came from.

Read from the object store and the history beside a running recommender; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recommender.api.object_store import ObjectReader
from recommender.api.objects import InvalidObjectError
from recommender.api.policies import DEFAULT_POLICY, PolicySpec
from recommender.api.recommendations import RecommendationStatus, Target, VLLMRecommendation
from recommender.bounds import Pools, allowed_loss
from recommender.evaluation import assess
from recommender.history import HistoryReader
from recommender.intervals import interval_seconds
from recommender.keys import WorkloadKey
from recommender.policy_changes import PolicyChange
from recommender.resolution import Resolver
from recommender.standings import Standing
from recommender.targets import target_of, why_no_target
from recommender.windows import Window


@dataclass(frozen=True)
class Outcome:
    """A size, and how the window would have gone with it.

    `lost_points` of hit rate against the pool of the workload's own arguments. `parts_over`: of the window's rolling
    parts, those that would have lost more than the policy allows; `intervals_over`: intervals whose demand would not
    have fitted.
    """

    kv_bytes: int
    allocation_bytes: int
    bound_by: str
    hit_rate: float
    lost_points: float
    parts_over: int
    intervals_over: int

    def to_json(self) -> dict[str, Any]:
        """camelCase, as in the API."""
        return {
            "kvBytes": self.kv_bytes,
            "allocationBytes": self.allocation_bytes,
            "boundBy": self.bound_by,
            "hitRate": self.hit_rate,
            "lostPoints": self.lost_points,
            "partsOver": self.parts_over,
            "intervalsOver": self.intervals_over,
        }


@dataclass(frozen=True)
class Comparison:
    """One workload under the policy that it has, and under the other one. None: nothing would be recommended, and
    `reason` says why not under the other one."""

    key: WorkloadKey
    own_bytes: int
    parts: int
    intervals: int
    now: Outcome | None
    then: Outcome | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """camelCase, as in the API."""
        return {
            "namespace": self.key.namespace,
            "kind": self.key.workload.kind,
            "name": self.key.workload.name,
            "container": self.key.container,
            "ownBytes": self.own_bytes,
            "parts": self.parts,
            "intervals": self.intervals,
            "now": self.now.to_json() if self.now else None,
            "then": self.then.to_json() if self.then else None,
            "reason": self.reason,
        }


def what_if(
    store: ObjectReader,
    history_path: Path,
    change: PolicyChange,
    namespace: str | None = None,
    workload: str | None = None,
) -> Iterator[Comparison]:
    """Compare all workloads, those of a namespace, or those of one name, which may be the recommendation's. `change`:
    from each one's policy to the other.

    Raises `HistoryError` where the history cannot be read.
    """
    with HistoryReader.open(history_path) as history:
        yield from comparisons(store, history, change, namespace, workload)


def comparisons(
    store: ObjectReader,
    history: HistoryReader,
    change: PolicyChange,
    namespace: str | None = None,
    workload: str | None = None,
) -> Iterator[Comparison]:
    """The same by a history that is open."""
    resolver = Resolver(store, history.policies())
    for raw in store.list(VLLMRecommendation.KIND, namespace):
        try:
            recommendation = VLLMRecommendation.from_json(raw)
        except InvalidObjectError:
            continue
        reference = recommendation.spec.target_ref
        key = WorkloadKey(recommendation.metadata.namespace or "", reference.workload, reference.container)
        if workload in (None, reference.name, recommendation.metadata.name):
            resolved = recommendation.status.policy
            policy = resolver.policy(resolved.value if resolved else DEFAULT_POLICY).spec or PolicySpec()
            yield _compare(history, key, recommendation.status, policy, change(policy))


def _compare(
    history: HistoryReader, key: WorkloadKey, status: RecommendationStatus, policy: PolicySpec, other: PolicySpec
) -> Comparison:
    fingerprint = status.fingerprint or ""
    end = history.last_interval_end(key, fingerprint)
    if end is None:
        return Comparison(key, 0, 0, 0, None, None, "the history holds nothing of this workload under these arguments")
    seconds = other.observation_window_seconds
    series = history.series(key, fingerprint, end - seconds - interval_seconds(seconds))
    own = Standing(own_bytes=history.standing(key, fingerprint).own_bytes)
    # Without what stood before: a smaller size would wait for W/6, and that is not what is asked here.
    bare = RecommendationStatus(bounds=status.bounds)
    found = assess(other, series, (), bare, (), end, own)
    window, pools, sizing = found.window, found.pools, found.sizing
    if window is None or pools is None or sizing is None:
        return Comparison(key, 0, 0, 0, None, None, "the window holds no data")
    rolling = list(window.rolling(other.window_coverage))
    target = target_of(sizing, pools, found.engines, window.facts)
    return Comparison(
        key=key,
        own_bytes=pools.own_bytes,
        parts=len(rolling),
        intervals=len(window.demand_peaks()),
        now=_outcome(status.target, window, rolling, pools, policy),
        then=_outcome(target, window, rolling, pools, other),
        reason="" if target else why_no_target(sizing),
    )


def _outcome(
    target: Target | None, window: Window, rolling: list[Window], pools: Pools, policy: PolicySpec
) -> Outcome | None:
    if target is None:
        return None
    size = target.kv_blocks * pools.block_bytes
    curve = window.curve()
    allowed = allowed_loss(curve, pools.own_bytes, policy.hit_rate_loss)
    return Outcome(
        kv_bytes=target.kv_bytes,
        allocation_bytes=target.allocation_bytes,
        bound_by=target.bound_by,
        hit_rate=round(curve.hit_rate(size), 6),
        lost_points=round(100 * curve.loss(size, pools.own_bytes), 4),
        parts_over=sum(part.curve().loss(size, pools.own_bytes) > allowed for part in rolling),
        intervals_over=sum(peak + pools.block_bytes > size for peak in window.demand_peaks()),
    )
