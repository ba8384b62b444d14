"""Rounds: discover, scrape, record; and write a recommendation for each workload whose interval is over."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from recommender.api.object_store import ObjectStore, Raw
from recommender.api.objects import InvalidObjectError
from recommender.api.owners import OwnerKey, Ownership
from recommender.api.policies import PolicySpec, VLLMPolicy
from recommender.api.recommendations import LossBudget, Savings, TargetRef, VLLMRecommendation
from recommender.api.units import format_bytes
from recommender.api.workloads import recommendation_name
from recommender.autoscaling import Autoscaler, autoscalers_of
from recommender.cards import on_card
from recommender.claiming import ensure_claim, is_there
from recommender.consequences import Market, with_consequences
from recommender.discovery import REFUSED, Census, census_of, discover, ensure_plugin
from recommender.evaluation import Evaluation, evaluate
from recommender.fallback import Fallback
from recommender.gpu_nodes import gpu_nodes
from recommender.history import History, Memory
from recommender.history_files import UnreadableHistoryError
from recommender.intervals import interval_seconds
from recommender.keys import WorkloadKey
from recommender.kv_demands import demands_of
from recommender.observation import Observer, reports_of
from recommender.policy_conditions import judged
from recommender.prices import Prices
from recommender.readings import Readings
from recommender.resolution import Resolver
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry
from recommender.trends import CLUSTER, allocatable_point, point_of
from recommender.windows import ROLLING_PARTS
from recommender.workload_states import PodReport, WorkloadState, newest_of

logger = logging.getLogger(__name__)

_SCRAPES_PER_INTERVAL = 2
_LONGEST_PERIOD_SECONDS = 30.0
"""The plugin's peaks are those of the last 60 s: looked at twice as often, none is missed."""
SHORTEST_PERIOD_SECONDS = 0.5


def scrape_period(windows: Iterable[float]) -> float:
    """Seconds between two rounds: two in the shortest interval in use, within what plugins and pods can bear."""
    shortest = interval_seconds(min(windows, default=math.inf)) / _SCRAPES_PER_INTERVAL
    return min(max(shortest, SHORTEST_PERIOD_SECONDS), _LONGEST_PERIOD_SECONDS)


@dataclass(frozen=True)
class _Evaluated:
    """When and from what a workload was evaluated last."""

    slot: int
    inputs: tuple[object, ...]
    recommended: bool
    loss_budget: LossBudget | None
    savings: Savings | None


class Recommender:
    """Everything between the object store, the pods and the history; its owner decides when a round is due."""

    def __init__(
        self,
        store: ObjectStore,
        history: History,
        scraper: Scraper,
        telemetry: Telemetry,
        prices: Callable[[], Prices] = Prices,
        look: Callable[[], Census] | None = None,
    ) -> None:
        """`look` tells the pods and their owners where the store does not list them whole."""
        self._store = store
        self._history = history
        self._scraper = scraper
        self._telemetry = telemetry
        self._prices = prices
        self._market = Market()
        self._observer = Observer(history, telemetry)
        self._fallback = Fallback()
        self._known_policies = history.policies()
        self._stored_policies = dict(self._known_policies)
        self._readings = Readings()
        self._resolver = Resolver(store, self._known_policies, self._readings)
        self._look = look or functools.partial(census_of, store)
        self._ownership = Ownership()
        self._autoscalers: dict[OwnerKey, tuple[Autoscaler, ...]] = {}
        self._own_pools: dict[tuple[WorkloadKey, str], int] = {}
        self._evaluated: dict[WorkloadKey, _Evaluated] = {}
        self._troubles: dict[WorkloadKey, str] = {}
        self._claims: dict[WorkloadKey, str | None] = {}
        self.period = SHORTEST_PERIOD_SECONDS
        """Seconds until the next round is due."""
        self.longest_look = 0.0
        """Seconds that this round's looks at pods take where none of them answers."""
        self._said: set[str] = set()
        self._saying: set[str] = set()
        """Warnings of the last round, and of this one."""
        self._refusal: str | None = None

    @property
    def fault(self) -> str | None:
        """What keeps observations or objects from being stored; None where nothing does."""
        return self._observer.fault or self._refusal

    async def round(self) -> None:
        """Look at all pods once, and evaluate the workloads that are due."""
        try:
            if self._history.is_closed:
                self._observer.stored(self._history.reopen)
            await self._round()
        except UnreadableHistoryError as error:
            self._stored_policies = {}
            aside = self._history.start_anew()
            logger.error("%s; it was set aside as %s and a new history begins", error, aside)

    async def _round(self) -> None:
        census = self._look()
        self._refusal = None
        self._put(functools.partial(ensure_plugin, self._store, census.opted_in))
        found = discover(census, self._resolver.owner_groups())
        self._ownership = found.ownership
        self._autoscalers = autoscalers_of(self._store, found.ownership, self._warn)
        pods = list(found.injected)
        self.longest_look = self._scraper.longest(len(pods)) + self._scraper.longest(len(pods) + len(found.bare))
        scrapes = await self._scraper.scrape(pods)
        self._telemetry.pods.set(len(pods))
        silent = [scrape.pod for scrape in scrapes if scrape.sample is None]
        looks = await self._scraper.look_at_vllm([*silent, *found.bare])
        answering = {look.pod.identity for look in looks}
        # Whatever else seems to be a vLLM is none until it once has shown vLLM's metrics, or the webhook has said so.
        bare = [
            pod
            for pod in found.bare
            if pod.identity in answering or self._fallback.knows(pod) or (pod.missing and pod.missing.reason == REFUSED)
        ]
        self._telemetry.without_plugin(bare)
        pods += bare
        nodes = self._store.list("Node")
        self._market = Market(gpu_nodes(nodes), self._prices())
        reports = reports_of(pods, {})
        stored = {_place(raw): raw for raw in self._store.list(VLLMRecommendation.KIND)}
        states = {
            key: self._state(key, reports.get(key, ()), stored.get((key.namespace, _name_for(key))))
            for key in self._workloads(reports, stored.values())
        }
        windows = {key: _window_seconds(state) for key, state in states.items()}
        self.period = scrape_period(windows.values())
        self._store_policies()
        now = time.time()
        self._judge_policies(now)
        policies = {key: state.policy.spec or PolicySpec() for key, state in states.items()}
        estimates = self._fallback.observe(looks, policies, [*silent, *bare])
        self._telemetry.estimated_pods.set(len(estimates))
        scrapes = [on_card(scrape, states[scrape.pod.key].previous, self._market.nodes) for scrape in scrapes]
        reports = reports_of(pods, self._observer.observe(scrapes, windows, now, self.period), estimates)
        for key, state in states.items():
            self._evaluate_if_due(replace(state, reports=reports.get(key, ())), windows[key], now)
            # Probes are answered between two workloads.
            await asyncio.sleep(0)
        self._observer.store_memories()
        self._observer.keep_point(CLUSTER, now, allocatable_point(nodes))
        self._readings.forget_unread()
        self._said, self._saying = self._saying, set()
        self._evaluated = {key: self._evaluated[key] for key in states if key in self._evaluated}
        self._troubles = {key: self._troubles[key] for key in states if key in self._troubles}
        self._claims = {key: self._claims[key] for key in states if key in self._claims}
        running = {(pod.key, pod.fingerprint) for pod in pods}
        self._own_pools = {one: size for one, size in self._own_pools.items() if one in running}
        self._telemetry.kv_demands(demands_of(scrapes, self._own_pools))
        conflicts = {key: len(state.autoscaler_conflicts) for key, state in states.items()}
        self._telemetry.autoscaler_conflicts({key: count for key, count in conflicts.items() if count})
        recommended = sum(one.recommended for one in self._evaluated.values())
        self._telemetry.workloads.labels("true").set(recommended)
        self._telemetry.workloads.labels("false").set(len(states) - recommended)
        self._telemetry.loss_budgets(
            {key: one.loss_budget for key, one in self._evaluated.items() if one.loss_budget is not None}
        )
        self._telemetry.savings({key: one.savings for key, one in self._evaluated.items() if one.savings is not None})
        self._telemetry.last_round.set(now)

    def stop(self) -> None:
        """Store what is counted so far."""
        self._observer.flush(time.time())

    def _put(self, write: Callable[[], object]) -> None:
        """Write what no measurement and no size waits for: where that fails, the round goes on."""
        try:
            write()
        except OSError as error:
            self._refusal = f"objects cannot be written: {error}"
            self._warn(self._refusal)

    def _warn(self, sentence: str) -> None:
        """Said in the first of several rounds."""
        if sentence not in self._said | self._saying:
            logger.warning("%s", sentence)
        self._saying.add(sentence)

    def _workloads(self, with_pods: Iterable[WorkloadKey], stored: Iterable[Raw]) -> list[WorkloadKey]:
        """Workloads with pods, and those without that have a recommendation: scaled to nothing, it waits for them."""
        found = set(with_pods)
        for raw in stored:
            try:
                reference = TargetRef.model_validate(raw["spec"]["targetRef"])
                found.add(WorkloadKey(raw["metadata"]["namespace"], reference.workload, reference.container))
            except (KeyError, TypeError, ValueError) as error:
                self._warn(f"a VLLMRecommendation is passed over: {' '.join(str(error).split())}")
        return sorted(found)

    def _state(self, key: WorkloadKey, reports: tuple[PodReport, ...], stored: Raw | None) -> WorkloadState:
        newest = newest_of(reports)
        # What is said about a pod of a group of the user's own is said by the owners that it has.
        speaker = (newest.pod.owner if newest else None) or key.workload
        automation = self._resolver.automation(
            key.namespace,
            newest.pod.annotations if newest else {},
            self._ownership.annotations(key.namespace, speaker),
        )
        if newest is not None and newest.pod.excluded:
            automation = replace(automation, excluded=True, enabled=False)
        policy = self._resolver.policy(automation.policy)
        if policy.spec is not None and policy.fault is None:
            self._known_policies[policy.name] = policy.text
        owner = self._ownership.object_of(key.namespace, key.workload)
        scaled = (self._autoscalers.get((key.namespace, one), ()) for one in dict.fromkeys((key.workload, speaker)))
        autoscalers = tuple(dict.fromkeys(itertools.chain.from_iterable(scaled)))
        return WorkloadState(key, reports, automation, policy, self._previous(stored), owner, autoscalers)

    def _store_policies(self) -> None:
        """Keep the last valid spec of each policy, also in a history that begins anew."""
        for name, spec in self._known_policies.items():
            if self._stored_policies.get(name) != spec and self._observer.stored(
                functools.partial(self._history.remember_policy, name, spec)
            ):
                self._stored_policies[name] = spec

    def _judge_policies(self, now: float) -> None:
        """Say on each policy whether it is followed as it stands."""
        for raw in self._store.list(VLLMPolicy.KIND):
            name = raw["metadata"].get("name")
            said = judged(raw, self._resolver.policy(name), now) if name else None
            if said is not None:
                self._put(functools.partial(self._store.apply_status, said))

    def _previous(self, raw: Raw | None) -> VLLMRecommendation | None:
        """The recommendation `raw` as it stands; of one that cannot be read what is left of it."""
        if raw is None:
            return None
        try:
            return self._readings.read(VLLMRecommendation, raw)
        except InvalidObjectError as error:
            self._warn(f"{error}; it is written anew")
        # What a person said in the spec stays, whatever the status has become.
        with contextlib.suppress(InvalidObjectError):
            return VLLMRecommendation.from_json({**raw, "status": {}})
        return None

    def _evaluate_if_due(self, state: WorkloadState, window_seconds: float, now: float) -> None:
        slot = math.floor(now / interval_seconds(window_seconds))
        inputs = _inputs(state)
        last = self._evaluated.get(state.key)
        if last is not None and last.slot == slot and last.inputs == (*inputs, self._claim_is_there(state.key)):
            return
        with self._telemetry.evaluation_seconds.time():
            try:
                evaluation, written = self._evaluate(state, window_seconds, now)
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

    def _evaluate(self, state: WorkloadState, window_seconds: float, now: float) -> tuple[Evaluation, bool]:
        fingerprint, policy = state.fingerprint or "", state.policy
        # The first interval of the window may begin half of itself before it.
        since = now - window_seconds - interval_seconds(window_seconds) / 2
        series = self._history.series(state.key, fingerprint, since)
        candidates = self._history.candidates(
            state.key, fingerprint, policy.digest, now - window_seconds / ROLLING_PARTS
        )
        standing = self._history.standing(state.key, fingerprint)
        evaluation = evaluate(state, series, candidates, now, standing)
        if evaluation.assessment.pools is not None:
            self._own_pools[state.key, fingerprint] = evaluation.assessment.pools.own_bytes
        claim = self._claims[state.key] = ensure_claim(self._store, evaluation.recommendation, state)
        shown = claim if self._claim_is_there(state.key) else None
        completed = with_consequences(evaluation.recommendation, state, self._market, shown)
        evaluation = replace(evaluation, recommendation=completed)
        write = self._store.apply if state.previous is None else self._store.apply_status
        written = write(evaluation.recommendation.to_json())
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
                point=point_of(found.window, found.engines, found.pools, completed.status.target),
            )
        )
        return evaluation, written


def _place(raw: Raw) -> tuple[str | None, str | None]:
    return raw["metadata"].get("namespace"), raw["metadata"].get("name")


def _name_for(key: WorkloadKey) -> str:
    return recommendation_name(key.workload, key.container)


def _window_seconds(state: WorkloadState) -> float:
    return (state.policy.spec or PolicySpec()).observation_window_seconds


def _inputs(state: WorkloadState) -> tuple[object, ...]:
    """What, when it changes, makes an evaluation due before the interval is over."""
    pods = tuple(
        (
            report.pod.identity,
            report.pod.fingerprint,
            report.pod.ready,
            report.pod.failure,
            report.reporting,
            report.estimate is not None,
            tuple(engine.blocks for engine in report.engines),
        )
        for report in state.reports
    )
    previous = (_has_status(state.previous), _is_stored(state.previous))
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
