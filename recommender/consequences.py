"""What a size leads to beyond vLLM: what others can use of it, what that is worth, what a dry run would change, and the
claim by which a pod asks for its share. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recommender.api.claims import claim_template
from recommender.api.diffs import size_diff
from recommender.api.launches import Launch
from recommender.api.object_store import Raw
from recommender.api.recommendations import Money, Savings, Target, VLLMRecommendation
from recommender.api.savings import SavingsSplit, split_savings
from recommender.api.shares import Sees, Share, share_of, utilization_seen
from recommender.api.sharing import Emitted, emitted_of
from recommender.api.sizing_flags import GPU_MEMORY_UTILIZATION, KV_CACHE_MEMORY_BYTES
from recommender.discovery import Pod
from recommender.gpu_nodes import GpuNode
from recommender.prices import Price, Prices, Unpriced
from recommender.workload_states import WorkloadState, newest_of
from vllm_plugin.names import ENV_ALLOCATION_BYTES, ENV_GPU_MEMORY_UTILIZATION, ENV_KV_BYTES


@dataclass(frozen=True)
class Market:
    """What GPUs there are, and what they cost."""

    nodes: Mapping[str, GpuNode] = field(default_factory=dict)
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True)
class Cost:
    """Money for a month of 730 h."""

    per_month: float
    currency: str


def cost_of_claims(state: WorkloadState, market: Market) -> Cost | None:
    """What the GPU memory that the reporting pods claim costs: of each GPU's price the share that is claimed. None
    where no pod reports, or the price of one is not known."""
    amount, currency = 0.0, None
    for report in state.current:
        if not report.reporting:
            continue
        price = market.prices.price(report.pod.key.namespace, market.nodes.get(report.pod.launch.node))
        if isinstance(price, Unpriced):
            return None
        ranks = (rank for engine in report.engines for rank in engine.ranks if rank.total_bytes)
        amount += price.month(sum((rank.outside_pool_bytes + rank.capacity_bytes) / rank.total_bytes for rank in ranks))
        currency = price.currency
    return Cost(round(amount, 2), currency) if currency is not None else None


def with_consequences(
    recommendation: VLLMRecommendation, state: WorkloadState, market: Market, claim: str | None = None
) -> VLLMRecommendation:
    """`recommendation` with its savings split and priced, with what a dry run would change, and with the name of the
    ResourceClaimTemplate that is there for it."""
    status = recommendation.status
    pods = [report.pod for report in state.current]
    savings = status.savings
    if savings is not None:
        card = status.gpu_memory_total_bytes
        savings = split_and_priced(savings, card.min if card else 0, pods, market)
    update = {"savings": savings, "claim_template": claim, "would_change": would_change(recommendation, state)}
    return recommendation.model_copy(update={"status": status.model_copy(update=update)})


def split_and_priced(savings: Savings, card_bytes: int, pods: Sequence[Pod], market: Market) -> Savings:
    """`savings` of a GPU of `card_bytes`, told apart by what `pods` ask of their GPU schedulers, and in money."""
    splits = [split_savings(savings.bytes, card_bytes, _emitted(pod)) for pod in pods]
    least = min(splits, key=lambda split: split.bankable_bytes, default=SavingsSplit(0, savings.bytes))
    gpus = [pod.launch.gpus for pod in pods]
    bankable = _in_gpus([split.bankable_bytes for split in splits], gpus, card_bytes)
    potential = _in_gpus([split.potential_bytes for split in splits], gpus, card_bytes)
    money = _money(pods, bankable, potential, market)
    return savings.model_copy(
        update={
            "bankable_bytes": least.bankable_bytes,
            "potential_bytes": least.potential_bytes,
            "bankable_gpus": round(sum(bankable), 4),
            "potential_gpus": round(sum(potential), 4),
            "money": money if isinstance(money, Money) else None,
            "no_price": money.reason if isinstance(money, Unpriced) else None,
        }
    )


def would_change(recommendation: VLLMRecommendation, state: WorkloadState) -> list[str] | None:
    """In a dry run the lines that the webhook warns with; None otherwise, and where no pod tells what is there now."""
    target = recommendation.status.target
    if target is None or not is_dry_run(state) or not state.automation.enabled:
        return None
    launch = _newest_launch(state)
    if launch is None:
        return state.same_before.status.would_change if state.same_before else None
    share = None if launch.declined is not None else _share(recommendation, target, launch, state)
    totals = recommendation.status.gpu_memory_total_bytes
    one_size = totals is not None and totals.min == totals.max
    of_card = target.gpu_memory_utilization if one_size and launch.is_pinned else None
    sees, request = (share.sees, share.request_bytes) if share else (Sees.CARD, 0)
    utilization = utilization_seen(sees, target.allocation_bytes, request, of_card)
    kv_bytes = target.kv_bytes if any(flag.startswith(KV_CACHE_MEMORY_BYTES) for flag in target.flags) else None
    flags, variables = _sizes(launch, utilization, kv_bytes, target.allocation_bytes)
    return size_diff(launch.sizing_arguments, flags, variables, share.lines if share else ())


def wanted_claim(recommendation: VLLMRecommendation, state: WorkloadState) -> Raw | None:
    """The ResourceClaimTemplate that the next pod is to point at; None where GPUs are not allocated by claims, or
    nothing is to be applied."""
    target, launch = recommendation.status.target, _newest_launch(state)
    if target is None or launch is None or state.automation.emitter != "dra":
        return None
    if is_dry_run(state) or not state.automation.enabled:
        return None
    # What the webhook declined for want of the template does not count.
    share = _share(recommendation, target, launch, state)
    return claim_template(recommendation, share.request_bytes, launch.gpus) if share else None


def is_dry_run(state: WorkloadState) -> bool:
    """Whether sizes are only shown: the cluster or the workload's policy says so."""
    return state.automation.dry_run or (state.policy.spec is not None and state.policy.spec.mode == "DryRun")


def _newest_launch(state: WorkloadState) -> Launch | None:
    newest = newest_of(state.current)
    return newest.pod.launch if newest is not None else None


def _share(recommendation: VLLMRecommendation, target: Target, launch: Launch, state: WorkloadState) -> Share | None:
    """The share of its GPUs that a pod like that of `launch` is to ask for; None where it keeps them whole."""
    if launch.gpus < 1 or launch.in_group:
        return None
    return share_of(
        state.automation.emitter,
        target.allocation_bytes,
        launch.gpus,
        container=state.key.container,
        is_first=launch.is_first,
        recommendation=recommendation.metadata.name,
    )


def _sizes(
    launch: Launch, utilization: str | None, kv_bytes: int | None, allocation_bytes: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """Flags, or variables where the webhook sees no argument list or nobody knows the fraction beforehand."""
    if utilization is not None and not launch.takes_variables:
        flags = [f"{GPU_MEMORY_UTILIZATION}={utilization}"]
        return flags + ([f"{KV_CACHE_MEMORY_BYTES}={kv_bytes}"] if kv_bytes is not None else []), []
    variables = [(ENV_KV_BYTES, str(kv_bytes))] if kv_bytes is not None else []
    if utilization is not None:
        return [], [*variables, (ENV_GPU_MEMORY_UTILIZATION, utilization)]
    return [], [*variables, (ENV_ALLOCATION_BYTES, str(allocation_bytes))]


def _emitted(pod: Pod) -> Emitted | None:
    return emitted_of({"metadata": {"annotations": dict(pod.annotations)}})


def _in_gpus(of_each: Sequence[int], gpus: Sequence[int], card_bytes: int) -> list[float]:
    return [count * size / card_bytes if card_bytes else 0.0 for size, count in zip(of_each, gpus, strict=True)]


def _money(
    pods: Sequence[Pod], bankable: Sequence[float], potential: Sequence[float], market: Market
) -> Money | Unpriced:
    """By the price of each pod's GPUs; where one of them has none, there is no sum."""
    gpus = sum(pod.launch.gpus for pod in pods)
    if not gpus:
        return Unpriced("no pod runs that asks for whole GPUs" if pods else "no pod runs")
    prices: list[Price] = []
    for pod in pods:
        price = market.prices.price(pod.key.namespace, market.nodes.get(pod.launch.node))
        if isinstance(price, Unpriced):
            return price
        prices.append(price)
    return Money(
        currency=prices[0].currency,
        bankable_per_month=round(sum(map(Price.month, prices, bankable)), 2),
        potential_per_month=round(sum(map(Price.month, prices, potential)), 2),
        gpu_hour=round(
            sum(price.per_hour * pod.launch.gpus for price, pod in zip(prices, pods, strict=True)) / gpus, 4
        ),
        priced_at=min(price.day for price in prices).isoformat(),
        source="; ".join(sorted({price.source for price in prices})),
    )
