"""What the recommender says of itself: metrics in a registry of its own, so that importing it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recommender.api.recommendations import LossBudget
from recommender.keys import WorkloadKey
from vllm_plugin.names import PREFIX

_NAME = PREFIX + "recommender_"


class Telemetry:
    """The recommender's metrics; one of it a service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.scrapes = Counter(
            _NAME + "scrapes",
            "Scrapes of plugins by outcome: ok, failed.",
            ["outcome"],
            registry=self.registry,
        )
        self.scrape_seconds = Histogram(_NAME + "scrape_seconds", "Time of one scrape.", registry=self.registry)
        self.pods = Gauge(_NAME + "pods", "Pods with the plugin.", registry=self.registry)
        self.estimated_pods = Gauge(
            _NAME + "estimated_pods",
            "Pods of which only vLLM's own metrics are known: estimated, never sized.",
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
        self._loss_budget = Gauge(
            PREFIX + "workload_loss_budget_spent_ratio",
            "What of the hit rate that a day may lose is lost so far: 1 is all of it.",
            ["namespace", "kind", "workload", "container"],
            registry=self.registry,
        )
        self.last_round = Gauge(
            _NAME + "last_round_timestamp_seconds", "When the last round of scrapes ended.", registry=self.registry
        )

    def loss_budgets(self, accounts: Mapping[WorkloadKey, LossBudget]) -> None:
        """Those of all workloads that have one; nothing is left of the others."""
        self._loss_budget.clear()
        for key, account in accounts.items():
            spent = account.spent_tokens / account.budget_tokens if account.budget_tokens else 0.0
            self._loss_budget.labels(key.namespace, key.workload.kind, key.workload.name, key.container).set(spent)
