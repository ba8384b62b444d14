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
from dataclasses import replace

from recommender.api.object_store import ObjectStore, Raw
from recommender.api.objects import InvalidObjectError
from recommender.api.owners import OwnerKey, Ownership
from recommender.api.policies import AutomatedNamespace, ClusterAutomation, PolicySpec, VLLMPolicy
from recommender.api.recommendations import TargetRef, VLLMRecommendation
from recommender.api.workloads import recommendation_name
from recommender.autoscaling import Autoscaler, autoscalers_of
from recommender.cards import on_card
from recommender.consequences import Market
from recommender.discovery import REFUSED, Census, Pod, census_of, discover, ensure_plugin
from recommender.engine_members import counting, is_member, with_members
from recommender.evaluating import Evaluator
from recommender.expiries import is_over
from recommender.fallback import Fallback
from recommender.gpu_nodes import gpu_nodes
from recommender.history import History
from recommender.history_files import UnreadableHistoryError
from recommender.intervals import interval_seconds
from recommender.keys import WorkloadKey
from recommender.kv_demands import demands_of
from recommender.observation import IntervalSource, Observer, reports_of
from recommender.policy_conditions import judged, verdict_on_automation, verdict_on_policy
from recommender.prices import Prices
from recommender.readings import Readings
from recommender.resolution import Resolver
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry
from recommender.trends import CLUSTER, allocatable_point
from recommender.workload_states import PodReport, WorkloadState, newest_of

logger = logging.getLogger(__name__)

_SCRAPES_PER_INTERVAL = 2
_LONGEST_PERIOD_SECONDS = 30.0
"""The plugin's peaks are those of the last 60 s: looked at twice as often, none is missed."""
SHORTEST_PERIOD_SECONDS = 0.5
_LONGEST_BUSY_SECONDS = 0.01


def scrape_period(windows: Iterable[float]) -> float:
    """Seconds between two rounds: two in the shortest interval in use, within what plugins and pods can bear."""
    shortest = interval_seconds(min(windows, default=math.inf)) / _SCRAPES_PER_INTERVAL
    return min(max(shortest, SHORTEST_PERIOD_SECONDS), _LONGEST_PERIOD_SECONDS)


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
        source: IntervalSource | None = None,
        *,
        plugin_maps: bool = True,
    ) -> None:
        """`look` tells the pods and their owners where the store does not list them whole; intervals come from
        `source` where there is one; `plugin_maps`: the plugin comes into pods by ConfigMaps, which are kept."""
        self._store = store
        self._history = history
        self._scraper = scraper
        self._telemetry = telemetry
        self._prices = prices
        self._market = Market()
        self._observer = Observer(history, telemetry, source)
        self._evaluator = Evaluator(store, history, self._observer, telemetry)
        self._fallback = Fallback()
        self._known_policies = history.policies()
        self._stored_policies = dict(self._known_policies)
        self._readings = Readings()
        self._resolver = Resolver(store, self._known_policies, self._readings)
        self._plugin_maps = plugin_maps
        self._look = look or functools.partial(census_of, store)
        self._ownership = Ownership()
        self._autoscalers: dict[OwnerKey, tuple[Autoscaler, ...]] = {}
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
            self._observer.begin_anew()
            aside = self._history.start_anew()
            logger.error("%s; it was set aside as %s and a new history begins", error, aside)

    async def _round(self) -> None:
        census = self._look()
        self._refusal = None
        if self._plugin_maps:
            self._put(functools.partial(ensure_plugin, self._store, census.opted_in))
        found = discover(census, self._resolver.owner_groups())
        self._ownership = found.ownership
        self._autoscalers = autoscalers_of(self._store, found.ownership, self._warn)
        pods = list(found.injected)
        self.longest_look = self._scraper.longest(len(pods)) + self._scraper.longest(len(pods) + len(found.bare))
        looked_at = await self._scraper.scrape(pods)
        self._telemetry.pods.set(len(pods))
        pods = counting(pods, looked_at, self._known(pods))
        counted = {pod.identity for pod in pods}
        scrapes = [scrape for scrape in with_members(looked_at) if scrape.pod.identity in counted]
        members = {scrape.pod.key for scrape in looked_at if is_member(scrape)} - {pod.key for pod in pods}
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
        for key in [key for key, state in states.items() if self._is_over(state, windows[key], now)]:
            self._remove(key, "nobody owns it and nothing of it was seen for a window")
            del states[key], windows[key]
        for key in members & states.keys():
            self._remove(key, "its pods are parts of engines that other pods schedule")
            del states[key], windows[key]
        self._judge_policies(now)
        policies = {key: state.policy.spec or PolicySpec() for key, state in states.items()}
        estimates = self._fallback.observe(looks, policies, [*silent, *bare])
        self._telemetry.estimated_pods.set(len(estimates))
        scrapes = [on_card(scrape, states[scrape.pod.key].previous, self._market.nodes) for scrape in scrapes]
        reports = reports_of(pods, self._observer.observe(scrapes, windows, now, self.period), estimates)
        paused = time.monotonic()
        for key, state in states.items():
            whole = replace(state, reports=reports.get(key, ()))
            self._evaluator.evaluate_if_due(whole, windows[key], self._market, now)
            if time.monotonic() - paused > _LONGEST_BUSY_SECONDS:
                # Probes are answered between two workloads.
                await asyncio.sleep(0)
                paused = time.monotonic()
        self._observer.store_memories()
        cluster = allocatable_point(nodes)
        self._observer.keep_point(CLUSTER, now, cluster)
        self._readings.forget_unread()
        self._said, self._saying = self._saying, set()
        self._evaluator.keep(states, {(pod.key, pod.fingerprint) for pod in pods})
        self._telemetry.kv_demands(demands_of(scrapes, self._evaluator.own_pools))
        self._telemetry.autoscaler_conflicts({key: state.autoscaler_conflicts for key, state in states.items()})
        recommended = self._evaluator.recommended
        self._telemetry.workloads.labels("true").set(recommended)
        self._telemetry.workloads.labels("false").set(len(states) - recommended)
        self._telemetry.loss_budgets(self._evaluator.loss_budgets)
        self._telemetry.savings(self._evaluator.savings)
        shown = self._telemetry.figures
        shown.workloads, shown.pods, shown.allocatable_bytes = (
            self._evaluator.figures,
            [pod for pod in found.injected if pod.address is not None],
            cluster.allocatable_bytes,
        )
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
        if automation.excluded or (newest is not None and newest.pod.excluded):
            automation = replace(automation, excluded=True, enabled=False)
        policy = self._resolver.policy(automation.policy)
        if policy.spec is not None and policy.fault is None:
            self._known_policies[policy.name] = policy.text
        owner = self._ownership.object_of(key.namespace, key.workload)
        scaled = (self._autoscalers.get((key.namespace, one), ()) for one in dict.fromkeys((key.workload, speaker)))
        autoscalers = tuple(dict.fromkeys(itertools.chain.from_iterable(scaled)))
        return WorkloadState(key, reports, automation, policy, self._previous(stored), owner, autoscalers)

    def _is_over(self, state: WorkloadState, window_seconds: float, now: float) -> bool:
        owner_is_known = (state.key.namespace, state.key.workload) in self._ownership.owners
        return is_over(state, owner_is_known, window_seconds, now)

    def _known(self, pods: Iterable[Pod]) -> set[tuple[WorkloadKey, str]]:
        """Those workloads, and for what, that have a recommendation although their pods may have ranks alone."""
        unsure = {pod.key for pod in pods if pod.launch.may_be_member}
        stored = ((key, self._store.get(VLLMRecommendation.KIND, key.namespace, _name_for(key))) for key in unsure)
        return {(key, str((raw.get("status") or {}).get("fingerprint"))) for key, raw in stored if raw is not None}

    def _remove(self, key: WorkloadKey, why: str) -> None:
        self._put(
            functools.partial(self._store.delete, VLLMRecommendation.KIND, key.namespace, _name_for(key)),
        )
        logger.info("%s: %s; its recommendation is removed", key, why)

    def _store_policies(self) -> None:
        """Keep the last valid spec of each policy, also in a history that begins anew."""
        for name, spec in self._observer.recalled(self._known_policies).items():
            self._known_policies.setdefault(name, spec)
        for name, spec in self._known_policies.items():
            if self._stored_policies.get(name) != spec and self._observer.stored(
                functools.partial(self._history.remember_policy, name, spec)
            ):
                self._stored_policies[name] = spec

    def _judge_policies(self, now: float) -> None:
        """Say on each policy, and on what turns automation on, whether it is followed as it stands."""
        kinds = (VLLMPolicy, AutomatedNamespace, ClusterAutomation)
        for kind, raw in ((one, raw) for one in kinds for raw in self._store.list(one.KIND)):
            name = raw["metadata"].get("name")
            if not name:
                continue
            if kind is VLLMPolicy:
                verdict = verdict_on_policy(self._resolver.policy(name))
            else:
                verdict = verdict_on_automation(*self._resolver.automation_fault(kind, name))
            said = judged(raw, verdict, now)
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


def _place(raw: Raw) -> tuple[str | None, str | None]:
    return raw["metadata"].get("namespace"), raw["metadata"].get("name")


def _name_for(key: WorkloadKey) -> str:
    return recommendation_name(key.workload, key.container)


def _window_seconds(state: WorkloadState) -> float:
    return (state.policy.spec or PolicySpec()).observation_window_seconds
