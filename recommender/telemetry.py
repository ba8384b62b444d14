"""What the recommender says of itself: metrics in a registry of its own, so that importing it changes nothing."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recommender.api.recommendations import LossBudget, Savings
from recommender.autoscaling import Autoscaler
from recommender.conditions import BY_GPU_MEMORY, BY_POOL_USAGE
from recommender.discovery import Pod
from recommender.gauge_tables import GaugeTable
from recommender.keys import WORKLOAD_LABELS, WorkloadKey
from recommender.kv_demands import KVDemand
from recommender.scraping import Scrape
from recommender.workload_figures import WorkloadCollector
from vllm_plugin.names import PREFIX

_NAME = PREFIX + "recommender_"
_SCRAPED = ("ok", "failed", "not-ready")


class Telemetry:
    """The recommender's metrics; one of it a service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.figures = WorkloadCollector()
        self.registry.register(self.figures)
        self._scrapes = Counter(
            _NAME + "scrapes",
            "Scrapes of plugins by outcome: ok, failed, not-ready (no page, of a vLLM that does not serve yet).",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in _SCRAPED:
            # So that the first failure is a growth.
            self._scrapes.labels(outcome)
        self.scrape_seconds = Histogram(_NAME + "scrape_seconds", "Time of one scrape.", registry=self.registry)
        self.pods = Gauge(_NAME + "pods", "Pods with the plugin.", registry=self.registry)
        self.estimated_pods = Gauge(
            _NAME + "estimated_pods",
            "Pods of which only vLLM's own metrics are known: estimated, never sized.",
            registry=self.registry,
        )
        self._without_plugin = Gauge(
            _NAME + "pods_without_plugin",
            "vLLM containers of opted-in namespaces without the plugin: Refused (the webhook says why on the pod), "
            "NotAdmitted (it never saw the pod).",
            ["namespace", "reason"],
            registry=self.registry,
        )
        self.workloads = Gauge(
            _NAME + "workloads", "Workloads by whether a size is recommended.", ["recommended"], registry=self.registry
        )
        self.evaluations = Counter(
            _NAME + "evaluations",
            "Evaluations of workloads by outcome: written, unchanged, failed.",
            ["outcome"],
            registry=self.registry,
        )
        self.evaluation_seconds = Histogram(
            _NAME + "evaluation_seconds", "Time of one workload's evaluation.", registry=self.registry
        )
        self.history_bytes = Gauge(_NAME + "history_bytes", "Size of the embedded store.", registry=self.registry)
        self.history_failures = Counter(
            _NAME + "history_failures", "Times that the store could not be written.", registry=self.registry
        )
        self._loss_budget = GaugeTable(
            PREFIX + "workload_loss_budget_spent_ratio",
            "What of the hit rate that a day may lose is lost so far: 1 is all of it.",
            WORKLOAD_LABELS,
            registry=self.registry,
        )
        self._kv_demand_bytes = GaugeTable(
            PREFIX + "workload_kv_demand_bytes",
            "Most KV cache that requests needed within a minute, of all engines together; bytes of a rank each.",
            WORKLOAD_LABELS,
            registry=self.registry,
        )
        self._kv_demand_ratio = GaugeTable(
            PREFIX + "workload_kv_demand_ratio",
            "The same of the average engine, as a share of the KV cache that the workload's own arguments make, "
            "whatever size it has now.",
            WORKLOAD_LABELS,
            registry=self.registry,
        )
        self._kv_saturated_ratio = GaugeTable(
            PREFIX + "workload_kv_saturated_ratio",
            "Share of the engines in which requests needed more KV cache than there is within a minute.",
            WORKLOAD_LABELS,
            registry=self.registry,
        )
        self._autoscaler_conflicts = GaugeTable(
            PREFIX + "workload_autoscaler_conflicts",
            "Autoscalers that a change of an automated size misleads: ScaledByPoolUsage, which rises as the KV cache "
            "gets smaller, or ScaledByGPUMemory, of which less is in use then.",
            (*WORKLOAD_LABELS, "reason"),
            registry=self.registry,
        )
        of_savings = (*WORKLOAD_LABELS, "use")
        self._saved_gpus = GaugeTable(
            PREFIX + "workload_savings_gpus",
            "Memory given back by all pods, in GPUs: bankable, others can be placed there, or potential.",
            of_savings,
            registry=self.registry,
        )
        self._saved_money = GaugeTable(
            PREFIX + "workload_savings_money_per_month",
            "The same in money for 730 hours, where prices are known.",
            (*of_savings, "currency"),
            registry=self.registry,
        )
        self.object_writes = Counter(
            _NAME + "object_writes",
            "Writes to the API server by kind and outcome: written, conflict (others wrote the same fields; they were "
            "taken over), refused, gone, throttled, failed.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.object_writes_waiting = Gauge(
            _NAME + "object_writes_waiting", "Objects that wait to be written.", registry=self.registry
        )
        self.watch_age_seconds = Gauge(
            _NAME + "watch_age_seconds",
            "Seconds since the API server was last heard of, by kind of object.",
            ["kind"],
            registry=self.registry,
        )
        self.kinds_refused = Gauge(
            _NAME + "kinds_refused",
            "1 where objects of a kind may not be read, and what is about them is not done.",
            ["kind"],
            registry=self.registry,
        )
        self.last_round = Gauge(
            _NAME + "last_round_timestamp_seconds", "When the last round of scrapes ended.", registry=self.registry
        )

    def stand_by(self) -> None:
        """Nothing is said of pods and workloads any more: another recommender says it."""
        for metric in vars(self).values():
            if isinstance(metric, Gauge | GaugeTable):
                # Those without labels stay.
                metric.clear()
        self.figures.workloads, self.figures.pods, self.figures.allocatable_bytes = {}, (), None
        self.pods.set(0)
        self.estimated_pods.set(0)

    def scraped(self, scrapes: Iterable[Scrape]) -> None:
        """A round of them. A page that says why there is nothing to size is as good as any."""
        outcomes = collections.Counter(
            "ok" if scrape.fault is None or scrape.aside else "failed" if scrape.pod.ready else "not-ready"
            for scrape in scrapes
        )
        for outcome, count in outcomes.items():
            self._scrapes.labels(outcome).inc(count)

    def without_plugin(self, pods: Iterable[Pod]) -> None:
        """All pods that there are without the plugin."""
        counts = collections.Counter((pod.key.namespace, pod.missing.reason) for pod in pods if pod.missing is not None)
        self._without_plugin.clear()
        for (namespace, reason), count in counts.items():
            self._without_plugin.labels(namespace, reason).set(count)

    def loss_budgets(self, accounts: Mapping[WorkloadKey, LossBudget]) -> None:
        """Those of all workloads that have one; nothing is left of the others."""
        self._loss_budget.set(
            (key.labels, account.spent_tokens / account.budget_tokens if account.budget_tokens else 0.0)
            for key, account in accounts.items()
        )

    def kv_demands(self, demands: Mapping[WorkloadKey, KVDemand]) -> None:
        """Those of all workloads that report; nothing is left of the others."""
        found = [(key.labels, demand) for key, demand in demands.items()]
        self._kv_demand_bytes.set((labels, demand.demand_bytes) for labels, demand in found)
        self._kv_demand_ratio.set(
            (labels, demand.demand_ratio) for labels, demand in found if demand.demand_ratio is not None
        )
        self._kv_saturated_ratio.set((labels, demand.saturated_ratio) for labels, demand in found)

    def autoscaler_conflicts(self, found: Mapping[WorkloadKey, Collection[Autoscaler]]) -> None:
        """Those of each workload; nothing is left of those that have none. Who goes by both counts for both."""
        counts = collections.Counter(
            (*key.labels, reason)
            for key, autoscalers in found.items()
            for one in autoscalers
            for reason, metric in ((BY_POOL_USAGE, one.pool_usage), (BY_GPU_MEMORY, one.gpu_memory))
            if metric is not None
        )
        self._autoscaler_conflicts.set(counts.items())

    def savings(self, found: Mapping[WorkloadKey, Savings]) -> None:
        """Those of all workloads that have a size; nothing is left of the others."""
        all_of = [(key.labels, savings) for key, savings in found.items()]
        self._saved_gpus.set(
            ((*labels, use), gpus)
            for labels, savings in all_of
            for use, gpus in (("bankable", savings.bankable_gpus), ("potential", savings.potential_gpus))
        )
        priced = [(labels, savings.money) for labels, savings in all_of if savings.money is not None]
        self._saved_money.set(
            ((*labels, use, money.currency), amount)
            for labels, money in priced
            for use, amount in (("bankable", money.bankable_per_month), ("potential", money.potential_per_month))
        )
