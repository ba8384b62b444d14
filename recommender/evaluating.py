"""The evaluations of a round: each workload's when it is due, and what is remembered of the last ones."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from recommender.api.object_store import ObjectStore
from recommender.api.recommendations import LossBudget, Savings, VLLMRecommendation
from recommender.api.units import format_bytes
from recommender.changes import changes_of
from recommender.claiming import ensure_claim, is_there
from recommender.consequences import Market, cost_of_claims, with_consequences
from recommender.evaluation import Evaluation, evaluate
from recommender.history import History
from recommender.history_files import UnreadableHistoryError
from recommender.intervals import interval_seconds
from recommender.keys import WorkloadKey
from recommender.observation import Observer
from recommender.standings import Memory
from recommender.telemetry import Telemetry
from recommender.windows import ROLLING_PARTS
from recommender.workload_figures import WorkloadFigures, figures_of
from recommender.workload_states import WorkloadState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Evaluated:
    """When and from what a workload was evaluated last."""

    slot: int
    inputs: tuple[object, ...]
    recommended: bool
    loss_budget: LossBudget | None
    savings: Savings | None


class Evaluator:
    """Evaluates workloads from what the history holds, and writes their recommendations."""

    def __init__(self, store: ObjectStore, history: History, observer: Observer, telemetry: Telemetry) -> None:
        self._store = store
        self._history = history
        self._observer = observer
        self._telemetry = telemetry
        self._evaluated: dict[WorkloadKey, _Evaluated] = {}
        self._troubles: dict[WorkloadKey, str] = {}
        self._claims: dict[WorkloadKey, str | None] = {}
        self._figures: dict[WorkloadKey, WorkloadFigures] = {}
        self._own_pools: dict[tuple[WorkloadKey, str], int] = {}

    @property
    def own_pools(self) -> Mapping[tuple[WorkloadKey, str], int]:
        """Bytes of the pool that each workload's own arguments make, by its key and fingerprint."""
        return self._own_pools

    @property
    def recommended(self) -> int:
        """Workloads with a size."""
        return sum(one.recommended for one in self._evaluated.values())

    @property
    def loss_budgets(self) -> dict[WorkloadKey, LossBudget]:
        """Those of the workloads that have one."""
        return {key: one.loss_budget for key, one in self._evaluated.items() if one.loss_budget is not None}

    @property
    def savings(self) -> dict[WorkloadKey, Savings]:
        """Those of the workloads that have a size."""
        return {key: one.savings for key, one in self._evaluated.items() if one.savings is not None}

    @property
    def figures(self) -> dict[WorkloadKey, WorkloadFigures]:
        """What is shown of each workload as it was evaluated last."""
        return self._figures

    def keep(self, workloads: Collection[WorkloadKey], running: Collection[tuple[WorkloadKey, str]]) -> None:
        """Forget all but `workloads`, and of their fingerprints all but those of `running` pods."""
        self._evaluated = {key: self._evaluated[key] for key in workloads if key in self._evaluated}
        self._troubles = {key: self._troubles[key] for key in workloads if key in self._troubles}
        self._claims = {key: self._claims[key] for key in workloads if key in self._claims}
        self._figures = {key: self._figures[key] for key in workloads if key in self._figures}
        self._own_pools = {one: size for one, size in self._own_pools.items() if one in running}

    def evaluate_if_due(self, state: WorkloadState, window_seconds: float, market: Market, now: float) -> None:
        """Evaluate where an interval has ended, or what it follows from has changed, since the last time."""
        slot = self._observer.slot(window_seconds, now)
        if slot is None:
            return
        inputs = _inputs(state)
        last = self._evaluated.get(state.key)
        if last is not None and last.slot == slot and last.inputs == (*inputs, self._claim_is_there(state.key)):
            return
        with self._telemetry.evaluation_seconds.time():
            try:
                evaluation, written = self._evaluate(state, window_seconds, market, now)
            except UnreadableHistoryError:
                raise
            except Exception as error:
                # One workload's trouble is not the others'.
                self._telemetry.evaluations.labels("failed").inc()
                trouble = f"{type(error).__name__}: {error}"
                if self._troubles.get(state.key) != trouble:
                    logger.error("%s cannot be evaluated: %s", state.key, trouble)
                self._troubles[state.key] = trouble
                return
        self._troubles.pop(state.key, None)
        self._telemetry.evaluations.labels("written" if written else "unchanged").inc()
        status = evaluation.recommendation.status
        inputs = (*inputs, self._claim_is_there(state.key))
        recommended = status.target is not None
        self._evaluated[state.key] = _Evaluated(slot, inputs, recommended, status.loss_budget, status.savings)
        _log_change(state, evaluation)

    def _claim_is_there(self, key: WorkloadKey) -> bool:
        """Whether the ResourceClaimTemplate that was asked for last can be pointed at."""
        return is_there(self._store, key.namespace, self._claims.get(key))

    def _evaluate(
        self, state: WorkloadState, window_seconds: float, market: Market, now: float
    ) -> tuple[Evaluation, bool]:
        fingerprint, policy = state.fingerprint or "", state.policy
        # The first interval of the window may begin half of itself before it.
        since = now - window_seconds - interval_seconds(window_seconds) / 2
        lately = now - window_seconds / ROLLING_PARTS
        series, candidates, standing = self._history.remembered(state.key, fingerprint, since, policy.digest, lately)
        evaluation = evaluate(state, series, candidates, now, standing)
        if evaluation.assessment.pools is not None:
            self._own_pools[state.key, fingerprint] = evaluation.assessment.pools.own_bytes
        claim = self._claims[state.key] = ensure_claim(self._store, evaluation.recommendation, state)
        shown = claim if self._claim_is_there(state.key) else None
        completed = with_consequences(evaluation.recommendation, state, market, shown)
        evaluation = replace(evaluation, recommendation=completed)
        figures = self._figures[state.key] = figures_of(evaluation, cost_of_claims(state, market))
        write = self._store.apply if state.previous is None else self._store.apply_status
        written = write(evaluation.recommendation.to_json())
        before = state.previous.status if state.previous is not None else None
        found = evaluation.assessment
        sizing = found.sizing
        candidate = sizing.candidate_bytes if sizing is not None else None
        self._observer.remember(
            Memory(
                workload=state.key,
                fingerprint=fingerprint,
                policy=policy.digest,
                at=now,
                candidate_bytes=candidate,
                candidate_expires=now + window_seconds / ROLLING_PARTS,
                standing=evaluation.standing,
                standing_expires=now + window_seconds,
                point=figures.point,
                changes=changes_of(before, completed.status, now) if written else (),
            )
        )
        return evaluation, written


def _inputs(state: WorkloadState) -> tuple[object, ...]:
    """What, when it changes, makes an evaluation due before the interval is over."""
    pods = tuple(
        (
            report.pod.identity,
            report.pod.fingerprint,
            report.pod.ready,
            report.pod.failure,
            report.reporting,
            report.aside,
            report.estimate is not None,
            tuple(engine.blocks for engine in report.engines),
        )
        for report in state.reports
    )
    paused = state.previous is not None and state.previous.spec.paused
    previous = (_has_status(state.previous), _is_stored(state.previous), paused)
    return (state.automation, state.autoscalers, state.policy.digest, state.policy.fault, previous, pods)


def _has_status(recommendation: VLLMRecommendation | None) -> bool:
    return recommendation is not None and bool(recommendation.status.conditions)


def _is_stored(recommendation: VLLMRecommendation | None) -> bool:
    """Whether the store has taken it: what belongs to it can be made."""
    return recommendation is not None and recommendation.metadata.resource_version is not None


def _log_change(state: WorkloadState, evaluation: Evaluation) -> None:
    """One line when the size changes or comes or goes."""
    before = state.previous.status.target if state.previous else None
    target = evaluation.recommendation.status.target
    if (before and before.kv_bytes) == (target and target.kv_bytes):
        return
    logger.info(
        "%s: KV %s -> %s (%s)",
        state.key,
        format_bytes(before.kv_bytes) if before else "none",
        format_bytes(target.kv_bytes) if target else "none",
        target.bound_by if target else "withdrawn",
    )
