"""What users say: `VLLMPolicy`, `AutomatedNamespace`, `ClusterAutomation`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from recommender.api.objects import ApiModel, ApiObject, Duration, Quantity
from recommender.api.units import parse_duration, parse_quantity

DEFAULT_POLICY = "default"
"""The policy of a workload for which nobody names one."""

CLUSTER_AUTOMATION_NAME = "default"


class HitRateLoss(ApiModel):
    """How much prefix-cache hit rate a smaller pool may cost; the stricter of the two holds.

    `points`: percentage points of hit rate. `miss_ratio_percent`: percent of the miss ratio, so that a service that
    hits 95 % of its tokens is not given a fifth more prefill by one harmless-looking point.
    """

    points: float = Field(default=1.0, gt=0, le=100)
    miss_ratio_percent: float = Field(default=5.0, gt=0, le=100)


class Restart(ApiModel):
    """When a running pod is far enough from its target to be replaced."""

    gap_percent: float = Field(default=10, ge=0, le=100)
    min_gap: Quantity = "1Gi"
    cooldown: Duration = "6h"
    max_per_day: int = Field(default=4, ge=0)
    window: str | None = None
    time_zone: str | None = None


class Verify(ApiModel):
    """What a pod must show after a recommendation was applied to it."""

    ready_timeout: Duration = "30m"
    settle: Duration = "30m"
    ttft_percent: float = Field(default=10, ge=0)


class PolicySpec(ApiModel):
    """How a workload is sized. Every time in the recommender follows from `observation_window`."""

    observation_window: Duration = "48h"
    window_coverage: float = Field(default=50, gt=0, le=100)
    percentile: Literal[100, 99, 95, 90, 85, 80] = 99
    strategy: Literal["OnCreate", "Ongoing"] = "OnCreate"
    hit_rate_loss: HitRateLoss = HitRateLoss()
    demand_margin_percent: float = Field(default=10, ge=0)
    min_kv: Quantity | None = Field(default=None, alias="minKV")
    max_kv: Quantity | None = Field(default=None, alias="maxKV")
    min_requests: int = Field(default=1000, ge=1)
    mode: Literal["Apply", "DryRun"] = "Apply"
    caution: Literal["Normal", "High"] = "Normal"
    loss_budget: float | None = Field(default=None, gt=0)
    restart: Restart = Restart()
    verify: Verify = Verify()

    @property
    def observation_window_seconds(self) -> float:
        return parse_duration(self.observation_window)

    @property
    def min_kv_bytes(self) -> int | None:
        return None if self.min_kv is None else parse_quantity(self.min_kv)

    @property
    def max_kv_bytes(self) -> int | None:
        return None if self.max_kv is None else parse_quantity(self.max_kv)


class VLLMPolicy(ApiObject):
    KIND: ClassVar[str] = "VLLMPolicy"
    PLURAL: ClassVar[str] = "vllmpolicies"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["VLLMPolicy"] = "VLLMPolicy"
    spec: PolicySpec = PolicySpec()


class AutomatedNamespaceSpec(ApiModel):
    vllm_optimize: bool | None = None
    default_vllm_policy: str | None = None


class AutomatedNamespace(ApiObject):
    """Named as the namespace it speaks of."""

    KIND: ClassVar[str] = "AutomatedNamespace"
    PLURAL: ClassVar[str] = "automatednamespaces"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["AutomatedNamespace"] = "AutomatedNamespace"
    spec: AutomatedNamespaceSpec = AutomatedNamespaceSpec()


class ClusterAutomationSpec(ApiModel):
    """`emitter` and `custom_owner_groups` are accepted and kept; nothing reads them yet."""

    vllm_optimize: bool | None = None
    default_vllm_policy: str | None = None
    mode: Literal["Apply", "DryRun"] | None = None
    emitter: Literal["none", "hami", "kai", "kai-nvfractions", "volcano", "gpushare", "dra"] | None = None
    custom_owner_groups: list[dict[str, Any]] | None = None


class ClusterAutomation(ApiObject):
    """One a cluster, named `default`."""

    KIND: ClassVar[str] = "ClusterAutomation"
    PLURAL: ClassVar[str] = "clusterautomations"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["ClusterAutomation"] = "ClusterAutomation"
    spec: ClusterAutomationSpec = ClusterAutomationSpec()
