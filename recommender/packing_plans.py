"""What could be packed onto fewer GPUs, from the objects of a cluster: how many are freed by what schedulers are asked
for already, and how many if all engines asked for their share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from recommender.api.object_store import ObjectReader
from recommender.api.objects import InvalidObjectError
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.rounding import MEBIBYTE, request_bytes
from recommender.api.shares import share_of
from recommender.api.sharing import WHOLE_GPU, emitted_of
from recommender.discovery import Census, Pod, census_of, discover
from recommender.gpu_nodes import GpuNode, gpu_nodes
from recommender.keys import WorkloadKey
from recommender.packing import CardKey, Host, Packing, Tenant, least_cards, pack, stay
from recommender.packing_mig import MigProfile, advised_profile
from recommender.prices import Price, Prices, Unpriced
from recommender.resolution import Resolver

PLACES = 10
"""Engines on one GPU at the most: as many as the device plugins of HAMi and Volcano cut a GPU into by default."""

Scenario = Literal["now", "bankable", "potential"]
AFTER: tuple[Scenario, ...] = ("bankable", "potential")
"""Those in which engines have been right-sized."""


@dataclass(frozen=True)
class Engine:
    """A pod's vLLM container with its GPUs. Bytes of each of them; None where it holds them whole."""

    key: WorkloadKey
    pod: str
    node: str
    gpus: int
    now_bytes: int | None
    bankable_bytes: int | None
    potential_bytes: int | None
    profile: MigProfile | None = None

    @property
    def name(self) -> str:
        return f"{self.key.namespace}/{self.pod}/{self.key.container}"

    def need_bytes(self, scenario: Scenario) -> int | None:
        return {"now": self.now_bytes, "bankable": self.bankable_bytes, "potential": self.potential_bytes}[scenario]


@dataclass(frozen=True)
class Worth:
    """Money of a month; `day` is the oldest of the prices."""

    amount: float
    currency: str
    day: date


@dataclass(frozen=True)
class Stock:
    """All GPUs of one product that vLLM uses: who lies on which, now and after right-sizing.

    `least` GPUs would be needed at least for the potential, whoever packed. `prices` are those of each GPU that is used
    in one of the three cases, or why there is none.
    """

    product: str
    memory_bytes: int
    engines: tuple[Engine, ...]
    now: Packing
    bankable: Packing
    potential: Packing
    least: int
    prices: Mapping[CardKey, Price | Unpriced] = field(default_factory=dict)

    def freed(self, scenario: Scenario) -> int:
        """GPUs that are needed no more."""
        return len(self.now.used) - len(self.packing(scenario).used)

    def packing(self, scenario: Scenario) -> Packing:
        return {"now": self.now, "bankable": self.bankable, "potential": self.potential}[scenario]

    def freed_nodes(self, scenario: Scenario) -> tuple[str, ...]:
        """Nodes on which vLLM uses no GPU any more."""
        return tuple(sorted(self.now.hosts - self.packing(scenario).hosts))

    def month(self, scenario: Scenario) -> Worth | Unpriced:
        """What the GPUs of a month cost now, less what those cost that are used then; None known where one of them has
        no price."""
        found: dict[bool, list[Price]] = {True: [], False: []}
        for then, packing in ((False, self.now), (True, self.packing(scenario))):
            for card in packing.used:
                price = self.prices[card]
                if isinstance(price, Unpriced):
                    return price
                found[then].append(price)
        amount = sum(price.month(1) for price in found[False]) - sum(price.month(1) for price in found[True])
        prices = found[False] + found[True]
        return Worth(round(amount, 2), prices[0].currency, min(price.day for price in prices))


@dataclass(frozen=True)
class LeftOut:
    """A container of a pod that no plan moves, and why."""

    key: WorkloadKey
    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """A stock for each product, and what is in none."""

    stocks: tuple[Stock, ...]
    left_out: tuple[LeftOut, ...]


def plan_of(store: ObjectReader, prices: Prices, census: Census | None = None) -> Plan:
    """Plan for all pods that run vLLM on NVIDIA GPUs, those of `census` or in `store`; each product's GPUs by itself.

    A pod keeps to the product of GPU that it runs on: what it needs was measured there. Affinities, taints and other
    wishes of the pods are their scheduler's to know.
    """
    nodes = gpu_nodes(store.list("Node"))
    recommendations = _recommendations(store)
    resolver = Resolver(store, {})
    census = census_of(store) if census is None else census
    found = discover(census, resolver.owner_groups())
    engines: list[Engine] = []
    left_out: list[LeftOut] = []
    for pod in (*found.injected, *found.bare):
        recommendation = recommendations.get(pod.key)
        node = nodes.get(pod.launch.node)
        annotations = found.ownership.annotations(pod.key.namespace, pod.owner or pod.key.workload)
        automation = resolver.automation(pod.key.namespace, pod.annotations, annotations)
        policy = resolver.policy(automation.policy).spec
        shows_only = automation.dry_run or (policy is not None and policy.mode == "DryRun")
        applies = automation.enabled and not (shows_only or automation.excluded or pod.excluded)
        emitter = automation.emitter if applies else "none"
        reason = _left_out(pod, node)
        if reason is not None:
            left_out.append(LeftOut(pod.key, f"{pod.key.namespace}/{pod.name}/{pod.key.container}", reason))
        elif node is not None:
            engines.append(_engine(pod, recommendation, emitter, node))
    stocks = []
    held = _held_by_others(census, engines)
    for product, of_product in _by_product(engines, nodes).items():
        stock, unfit = _stock(product, of_product, nodes, held, prices)
        stocks.append(stock)
        left_out += unfit
    return Plan(tuple(stocks), tuple(left_out))


def _left_out(pod: Pod, node: GpuNode | None) -> str | None:
    if pod.launch.gpus < 1:
        return f"it asks for no {WHOLE_GPU}"
    if not pod.launch.node:
        return "it runs on no node yet"
    if node is None or not node.product or not node.gpus or not node.memory_bytes:
        return f"the labels of node {pod.launch.node} do not tell its GPUs' product, number and memory"
    if node.is_sliced:
        return f"MIG has cut the GPUs of node {node.name}"
    return None


def _engine(pod: Pod, recommendation: VLLMRecommendation | None, emitter: str, node: GpuNode) -> Engine:
    emitted = emitted_of({"metadata": {"annotations": dict(pod.annotations)}})
    # Anybody can write such a record: one that asks for nothing counts as none.
    now = emitted.request_bytes if emitted is not None and emitted.request_bytes > 0 else None
    bare = Engine(pod.key, pod.name, node.name, pod.launch.gpus, now, now, now)
    target = recommendation.status.target if recommendation is not None else None
    if recommendation is None or target is None or recommendation.status.fingerprint != pod.fingerprint:
        return bare
    # The pods of a group hold whole GPUs, whatever is asked for.
    if pod.launch.in_group or recommendation.spec.paused:
        return bare
    potential = request_bytes(target.allocation_bytes, MEBIBYTE)
    share = share_of(
        emitter,
        target.allocation_bytes,
        pod.launch.gpus,
        container=pod.key.container,
        is_first=pod.launch.is_first,
        recommendation=recommendation.metadata.name,
    )
    bankable = share.request_bytes if share is not None and pod.launch.declined is None else now
    return replace(
        bare,
        bankable_bytes=bankable,
        potential_bytes=share.request_bytes if share is not None else potential,
        profile=advised_profile(node.product, node.memory_bytes, potential, pod.launch.gpus),
    )


def _recommendations(store: ObjectReader) -> dict[WorkloadKey, VLLMRecommendation]:
    found: dict[WorkloadKey, VLLMRecommendation] = {}
    for raw in store.list(VLLMRecommendation.KIND):
        try:
            one = VLLMRecommendation.from_json(raw)
        except InvalidObjectError:
            continue
        reference = one.spec.target_ref
        found[WorkloadKey(one.metadata.namespace or "", reference.workload, reference.container)] = one
    return found


def _by_product(engines: Sequence[Engine], nodes: Mapping[str, GpuNode]) -> dict[str, list[Engine]]:
    found: dict[str, list[Engine]] = defaultdict(list)
    for engine in engines:
        found[nodes[engine.node].product].append(engine)
    return dict(sorted(found.items()))


def _held_by_others(census: Census, engines: Sequence[Engine]) -> dict[str, int]:
    """Whole GPUs of each node that containers hold which are none of `engines`."""
    ours = {engine.name for engine in engines}
    held: dict[str, int] = defaultdict(int)
    for seen in census.pods:
        for container, gpus in seen.gpus:
            if f"{seen.namespace}/{seen.metadata['name']}/{container}" not in ours:
                held[seen.node] += gpus
    return held


def _stock(
    product: str,
    engines: Sequence[Engine],
    nodes: Mapping[str, GpuNode],
    held: Mapping[str, int],
    prices: Prices,
) -> tuple[Stock, list[LeftOut]]:
    hosts = [
        Host(node.name, max(node.gpus - held.get(node.name, 0), 0), (node.memory_bytes, PLACES))
        for node in (nodes[name] for name in sorted({engine.node for engine in engines}))
    ]
    rooms = {host.name: host.room for host in hosts}
    now, left = stay(_tenants(engines, rooms, "now"), hosts)
    homeless = set(left)
    kept = [engine for engine in engines if engine.name not in homeless]
    asked = {scenario: _tenants(kept, rooms, scenario) for scenario in AFTER}
    # Where a pod that grew has no room among the others, everybody stays where it is.
    bankable = pack(asked["bankable"], hosts, now) or now
    same = asked["potential"] == asked["bankable"]
    potential = bankable if same else pack(asked["potential"], hosts, bankable) or bankable
    namespaces = {engine.name: engine.key.namespace for engine in kept}
    card_prices = {
        card: prices.price(namespaces[names[0]], nodes[card[0]])
        for packing in (potential, bankable, now)
        for card, names in packing.tenants.items()
    }
    stock = Stock(
        product=product,
        memory_bytes=max(room[0] for room in rooms.values()),
        engines=tuple(kept),
        now=now,
        bankable=bankable,
        potential=potential,
        least=least_cards(asked["potential"], hosts),
        prices=card_prices,
    )
    full = "its node has fewer GPUs than its pods ask for, by what its labels say"
    return stock, [LeftOut(engine.key, engine.name, full) for engine in engines if engine.name in homeless]


def _tenants(engines: Sequence[Engine], rooms: Mapping[str, tuple[int, ...]], scenario: Scenario) -> list[Tenant]:
    found = []
    for engine in engines:
        need = engine.need_bytes(scenario)
        whole = need is None or need > rooms[engine.node][0]
        # Who holds whole GPUs before and after has no reason to start anew.
        found.append(
            Tenant(
                name=engine.name,
                ranks=engine.gpus,
                need=rooms[engine.node] if whole or need is None else (need, 1),
                home=engine.node,
                stays=whole,
            )
        )
    return found
