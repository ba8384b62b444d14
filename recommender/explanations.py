"""Where does this number come from? Every sample, guard, rule and bound behind one recommendation.

Read from the object store and the history beside a running recommender; the sizing is done again, by the same code, at
the moment for which the recommendation was made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recommender.api.object_store import ObjectReader, Raw
from recommender.api.objects import InvalidObjectError
from recommender.api.policies import DEFAULT_POLICY, PolicySpec
from recommender.api.recommendations import VLLMRecommendation
from recommender.bounds import Knees, Pools
from recommender.changes import Change, before_the_last
from recommender.conditions import pods_guard_of
from recommender.curves import HitRateCurve
from recommender.evaluation import assess
from recommender.history import HistoryReader
from recommender.intervals import interval_seconds
from recommender.keys import WorkloadKey
from recommender.resolution import ResolvedPolicy, Resolver
from recommender.sizing import Guard
from recommender.windows import ROLLING_PARTS, Window
from vllm_plugin.names import BUCKETS_PER_OCTAVE, REUSE_BUCKET_BOUNDS

CURVE_POINTS_PER_OCTAVE = 4
_OCTAVES_SHOWN = 4
"""Below the own pool; above it one more, as far as a larger pool would help."""


class NothingToExplainError(Exception):
    """There is no such recommendation; the message says what there is."""


class SeveralToExplainError(NothingToExplainError):
    """A name does not say which one is meant; the message says what could be."""


@dataclass(frozen=True)
class CurvePoint:
    """Hit rate, 0 to 1, that a pool of this size would have had; and what it loses against the own pool at most."""

    kv_bytes: int
    hit_rate: float
    loss: float


@dataclass(frozen=True)
class IntervalRow:
    """One interval of one engine of one pod. Times are RFC 3339, sizes bytes."""

    pod: str
    engine: str
    start: str
    seconds: float
    covered_seconds: float
    samples: int
    kv_capacity_bytes: int
    kv_active_peak_bytes: int
    kv_demand_peak_bytes: int
    requests: int
    lookup_tokens: int
    hit_tokens: int
    preemptions: int
    admissions_blocked: int


@dataclass(frozen=True)
class Explanation:
    """`recommendation` is the object as it stands; `bounds` and the rest are computed anew from the history at `at`.

    `decided_by` names the bound that gave the size, `decision` is its sentence. Without data, or without a valid
    policy, `guards` and what follows are empty.
    """

    recommendation: VLLMRecommendation
    at: str
    policy: PolicySpec | None
    policy_fault: str | None
    decided_by: str
    decision: str
    guards: tuple[Guard, ...]
    knees: Knees | None
    pools: Pools | None
    candidates: tuple[int, ...]
    curve: tuple[CurvePoint, ...]
    intervals: tuple[IntervalRow, ...]
    changes: tuple[Change, ...] = ()
    """What happened to it during the last 30 days, oldest first."""

    @property
    def before(self) -> Change | None:
        """What stood before the present size was recommended; None where that is not known."""
        target = self.recommendation.status.target
        return before_the_last(self.changes, target.kv_bytes if target else None)

    def to_json(self) -> dict[str, Any]:
        """Everything, camelCase as in the API, for programs."""
        status = self.recommendation.status
        return {
            "recommendation": self.recommendation.to_json(),
            "at": self.at,
            "policy": self.policy.to_json() if self.policy else None,
            "policyFault": self.policy_fault,
            "decidedBy": self.decided_by,
            "decision": self.decision,
            "guards": [dataclasses.asdict(guard) for guard in self.guards],
            "bounds": [bound.to_json() for bound in status.bounds],
            "knees": _camel(self.knees),
            "pools": _camel(self.pools),
            "candidates": list(self.candidates),
            "curve": [_camel(point) for point in self.curve],
            "intervals": [_camel(row) for row in self.intervals],
            "changes": [{**change.to_json(), "at": _moment(change.at)} for change in self.changes],
            "before": {**self.before.to_json(), "at": _moment(self.before.at)} if self.before else None,
        }


def explain(store: ObjectReader, history_path: Path, namespace: str, name: str) -> Explanation:
    """Explain the recommendation of this name, or that of the workload of this name.

    Raises `NothingToExplainError`, and `HistoryError` where the history cannot be read.
    """
    recommendation = find_recommendation(store, namespace, name)
    with HistoryReader.open(history_path) as history:
        return explanation_of(store, history, recommendation)


def explanation_of(store: ObjectReader, history: HistoryReader, recommendation: VLLMRecommendation) -> Explanation:
    """Explain `recommendation`. Raises `HistoryError` where the history cannot be read."""
    key = key_of(recommendation)
    policy = _policy(store, history.policies(), recommendation)
    fingerprint = recommendation.status.fingerprint or ""
    changes = history.changes(key)
    end = history.last_interval_end(key, fingerprint)
    window_seconds = (policy.spec or PolicySpec()).observation_window_seconds
    if end is None:
        unknown = "the history holds nothing of this workload under these arguments"
        return _without_data(recommendation, policy, "", unknown, changes)
    series = history.series(key, fingerprint, end - window_seconds - interval_seconds(window_seconds))
    candidates = history.candidates(key, fingerprint, policy.digest, end - window_seconds / ROLLING_PARTS)
    standing = history.standing(key, fingerprint)
    # What pods say of themselves now is not asked for: the history knows what they said.
    pods = pods_guard_of(recommendation)
    found = assess(policy.spec, series, (), recommendation.status, candidates, end, standing, pods)
    window, pools, sizing = found.window, found.pools, found.sizing
    decided_by, decision = _decision(recommendation)
    return Explanation(
        recommendation=recommendation,
        at=_moment(end),
        policy=policy.spec,
        policy_fault=policy.fault,
        decided_by=decided_by,
        decision=decision or (sizing.message if sizing else ""),
        guards=sizing.guards if sizing else (),
        knees=sizing.knees if sizing else None,
        pools=pools,
        candidates=candidates,
        curve=_curve_points(window, pools) if window and pools else (),
        intervals=_rows(window) if window else (),
        changes=changes,
    )


def explanation_of_status(store: ObjectReader, recommendation: VLLMRecommendation) -> Explanation:
    """Explain `recommendation` without the history, as far as its status says: what comes from samples is empty."""
    coverage = recommendation.status.coverage
    seen = coverage.last_sample if coverage is not None else None
    found = _without_data(recommendation, _policy(store, {}, recommendation), *_decision(recommendation))
    return found if seen is None else replace(found, at=_moment(seen.timestamp()))


def key_of(recommendation: VLLMRecommendation) -> WorkloadKey:
    """Of whose history it is made."""
    reference = recommendation.spec.target_ref
    return WorkloadKey(recommendation.metadata.namespace or "", reference.workload, reference.container)


def find_recommendation(store: ObjectReader, namespace: str, name: str) -> VLLMRecommendation:
    """The recommendation of this name, or that of the workload of this name. Raises `NothingToExplainError`."""
    raws = store.list(VLLMRecommendation.KIND, namespace)
    found = [raw for raw in raws if raw["metadata"].get("name") == name or _workload_name(raw) == name]
    if not found:
        there = ", ".join(sorted(f"{_workload_name(raw)} ({raw['metadata'].get('name')})" for raw in raws))
        raise NothingToExplainError(
            f"namespace {namespace} has no VLLMRecommendation {name}, nor one of a workload of that name; "
            + (f"it has: {there}" if there else "it has none")
        )
    if len(found) > 1:
        names = ", ".join(sorted(raw["metadata"]["name"] for raw in found))
        raise SeveralToExplainError(f"{name} has several recommendations: name one of {names}")
    try:
        return VLLMRecommendation.from_json(found[0])
    except InvalidObjectError as error:
        raise NothingToExplainError(str(error)) from error


def _workload_name(raw: Raw) -> str:
    return str(((raw.get("spec") or {}).get("targetRef") or {}).get("name") or "")


def _decision(recommendation: VLLMRecommendation) -> tuple[str, str]:
    """The name of the bound that gave the size, and its sentence; both empty where there is none."""
    target = recommendation.status.target
    decided_by = target.bound_by if target else ""
    # Of two by one name the later decides: the floor, and a maxKV below it.
    asked = reversed(recommendation.status.bounds)
    return decided_by, next((bound.message for bound in asked if bound.name == decided_by), "")


def _policy(store: ObjectReader, known: Mapping[str, str], recommendation: VLLMRecommendation) -> ResolvedPolicy:
    """`known`: the last valid version of each, by name."""
    resolved = recommendation.status.policy
    return Resolver(store, known).policy(resolved.value if resolved else DEFAULT_POLICY)


def _without_data(
    recommendation: VLLMRecommendation,
    policy: ResolvedPolicy,
    decided_by: str,
    decision: str,
    changes: tuple[Change, ...] = (),
) -> Explanation:
    return Explanation(
        recommendation=recommendation,
        at=_moment(datetime.now(UTC).timestamp()),
        policy=policy.spec,
        policy_fault=policy.fault,
        decided_by=decided_by,
        decision=decision,
        guards=(),
        knees=None,
        pools=None,
        candidates=(),
        curve=(),
        intervals=(),
        changes=changes,
    )


def _curve_points(window: Window, pools: Pools) -> tuple[CurvePoint, ...]:
    """The whole window's curve around the own pool, by bucket bounds, and at the own pool itself."""
    curve: HitRateCurve = window.curve()
    own = pools.own_bytes
    step = BUCKETS_PER_OCTAVE // CURVE_POINTS_PER_OCTAVE
    shown = {round(bound) for bound in REUSE_BUCKET_BOUNDS[::step] if own / 2**_OCTAVES_SHOWN <= bound <= 2 * own}
    return tuple(
        CurvePoint(size, round(curve.hit_rate(size), 6), round(curve.loss(size, own), 6))
        for size in sorted(shown | {own})
    )


def _rows(window: Window) -> tuple[IntervalRow, ...]:
    rows = [
        IntervalRow(
            pod=one.key.pod,
            engine=one.key.engine,
            start=_moment(interval.start),
            seconds=interval.seconds,
            covered_seconds=round(interval.covered_seconds, 3),
            samples=interval.samples,
            kv_capacity_bytes=interval.capacity_bytes,
            kv_active_peak_bytes=interval.active_peak_bytes,
            kv_demand_peak_bytes=interval.demand_peak_bytes,
            requests=interval.requests,
            lookup_tokens=interval.lookup_tokens,
            hit_tokens=interval.hit_tokens,
            preemptions=interval.preemptions,
            admissions_blocked=interval.admissions_blocked,
        )
        for one in window.series
        for interval in one.intervals
    ]
    return tuple(sorted(rows, key=lambda row: (row.start, row.pod, row.engine)))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _camel(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None

    def spelt(name: str) -> str:
        head, *rest = name.split("_")
        return head + "".join(part.capitalize() for part in rest)

    return {spelt(name): field for name, field in dataclasses.asdict(value).items()}
