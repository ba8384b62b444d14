"""What dashboards and alerts need to know of each workload: figures of its last evaluation, as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric

from recommender.api.recommendations import Resolved
from recommender.consequences import Cost
from recommender.discovery import Pod
from recommender.evaluation import Evaluation
from recommender.keys import WORKLOAD_LABELS, WorkloadKey
from recommender.trends import Point, point_of
from vllm_plugin.names import PREFIX

_NAME = PREFIX + "workload_"
_MEMORY = {
    "used_bytes": "GPU memory that weights, overhead and running requests of all pods held at most.",
    "recommended_bytes": "GPU memory that all pods would claim with what is recommended.",
    "requested_bytes": "GPU memory that all pods claim.",
    "original_bytes": "GPU memory that all pods would claim with their authors' arguments.",
}
"""Metrics by field of `Point`."""


@dataclass(frozen=True)
class WorkloadFigures:
    """One workload after an evaluation.

    `pools`: bytes of a rank's KV pool, by what it is called: `own`, which the author's arguments make, `today` and
    `recommended`. `pool_hit_rates`: what the curve of the window says of each. `conditions`: status by type.
    `automation`: whether what is recommended is applied, and who said so. `policy`: the name of the
    VLLMPolicy that it is sized by. `cost`: of what all pods claim.
    """

    point: Point | None
    hit_rate: float | None
    pools: Mapping[str, int]
    pool_hit_rates: Mapping[str, float]
    conditions: Mapping[str, str]
    automation: Resolved | None
    policy: str | None
    cost: Cost | None


def figures_of(evaluation: Evaluation, cost: Cost | None) -> WorkloadFigures:
    """Those that the evaluation knows, and `cost`."""
    status, found = evaluation.recommendation.status, evaluation.assessment
    target, measured = status.target, status.measured
    sizes = {
        "own": found.pools.own_bytes if found.pools else None,
        "today": measured.kv_capacity_bytes if measured else None,
        # Not what vLLM is told: that may hold more than the pool.
        "recommended": target.kv_blocks * measured.kv_block_bytes if target and measured else None,
    }
    pools = {name: size for name, size in sizes.items() if size}
    curve = found.window.curve() if found.window is not None and found.window.lookup_tokens else None
    return WorkloadFigures(
        point=point_of(found.window, found.engines, found.pools, status.target),
        hit_rate=status.measured.hit_rate if status.measured else None,
        pools=pools,
        pool_hit_rates={name: curve.hit_rate(size) for name, size in pools.items()} if curve else {},
        conditions={condition.type: condition.status for condition in status.conditions},
        automation=status.automation,
        policy=status.policy.value if status.policy is not None else None,
        cost=cost,
    )


@dataclass(eq=False)
class WorkloadCollector:
    """Makes the metrics at each scrape: rounds pay nothing for them. What is set replaces what was."""

    workloads: Mapping[WorkloadKey, WorkloadFigures] = field(default_factory=dict)
    pods: Sequence[Pod] = ()
    allocatable_bytes: int | None = None

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        for name, text in _MEMORY.items():
            yield _gauge(_NAME + name, text, (), self._memory(name))
        yield _gauge(
            _NAME + "hit_rate_ratio",
            "Share of the tokens looked up during the window that the prefix cache held.",
            (),
            ((key, (), found.hit_rate) for key, found in self.workloads.items()),
        )
        yield _gauge(
            _NAME + "kv_pool_bytes",
            "KV pool of a rank: own, which the author's arguments make, today, recommended.",
            ("pool",),
            ((key, (name,), size) for key, found in self.workloads.items() for name, size in found.pools.items()),
        )
        yield _gauge(
            _NAME + "kv_pool_hit_rate_ratio",
            "The hit rate that the window's curve gives for each of these pools.",
            ("pool",),
            (
                (key, (pool,), rate)
                for key, found in self.workloads.items()
                for pool, rate in found.pool_hit_rates.items()
            ),
        )
        yield _gauge(
            _NAME + "requested_money_per_month",
            "What the GPU memory that all pods claim costs for 730 hours, by its share of the GPUs' price, where that "
            "is known.",
            ("currency",),
            (
                (key, (found.cost.currency,), found.cost.per_month)
                for key, found in self.workloads.items()
                if found.cost is not None
            ),
        )
        yield _gauge(
            _NAME + "automated",
            "1 where automation is on, 0 where it is off, by the level that decided it.",
            ("source",),
            (
                (key, (found.automation.source,), found.automation.value == "true")
                for key, found in self.workloads.items()
                if found.automation is not None
            ),
        )
        yield _gauge(
            _NAME + "policy_info",
            "1 for the VLLMPolicy that the workload is sized by.",
            ("policy",),
            ((key, (found.policy,), 1) for key, found in self.workloads.items() if found.policy is not None),
        )
        yield _gauge(
            _NAME + "condition",
            "1 for the status that each condition of the VLLMRecommendation has.",
            ("type", "status"),
            (
                (key, (name, status), 1)
                for key, found in self.workloads.items()
                for name, status in found.conditions.items()
            ),
        )
        info = GaugeMetricFamily(
            _NAME + "pod_info",
            "1 for each pod with the plugin that runs: whose it is.",
            labels=["pod", *WORKLOAD_LABELS],
        )
        for pod in self.pods:
            info.add_metric([pod.name, *pod.key.labels], 1)
        yield info
        allocatable = GaugeMetricFamily(PREFIX + "cluster_allocatable_bytes", "GPU memory that the Nodes give to pods.")
        if self.allocatable_bytes is not None:
            allocatable.add_metric([], self.allocatable_bytes)
        yield allocatable

    def _memory(self, name: str) -> Iterator[tuple[WorkloadKey, tuple[str, ...], float | None]]:
        for key, found in self.workloads.items():
            yield key, (), getattr(found.point, name) if found.point is not None else None


def _gauge(
    name: str,
    text: str,
    labels: Sequence[str],
    samples: Iterable[tuple[WorkloadKey, tuple[str, ...], float | None]],
) -> Metric:
    """A gauge of workloads, with more labels each; samples without a value are left out."""
    family = GaugeMetricFamily(name, text, labels=[*WORKLOAD_LABELS, *labels])
    for key, more, value in samples:
        if value is not None:
            family.add_metric([*key.labels, *more], value)
    return family
