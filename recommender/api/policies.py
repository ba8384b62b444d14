"""What users say: `VLLMPolicy`, `AutomatedNamespace`, `ClusterAutomation`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from recommender.api.objects import ApiModel, ApiObject, Condition, Duration, Quantity, listed_by, rules
from recommender.api.owner_groups import CustomOwnerGroup
from recommender.api.sharing import Emitter
from recommender.api.units import parse_duration, parse_quantity

DEFAULT_POLICY = "default"
"""The policy of a workload for which nobody names one."""

CLUSTER_AUTOMATION_NAME = "default"

VALID = "Valid"


class HitRateLoss(ApiModel):
    """How much prefix-cache hit rate a smaller pool may cost; the stricter of the two holds."""

    points: float = Field(default=1.0, gt=0, le=100)
    """Percentage points of prefix-cache hit rate."""
    miss_ratio_percent: float = Field(default=5.0, gt=0, le=100)
    """Percent of the miss ratio: where 95 % of the tokens hit, one point would be a fifth more prefill."""


class Restart(ApiModel):
    """When a running pod is far enough from its target to be replaced. Kept, and without effect yet."""

    gap_percent: float = Field(default=10, ge=0, le=100)
    """Distance from the target, in percent of what the pod claims now."""
    min_gap: Quantity = "1Gi"
    """Distance from the target, in bytes; the larger of the two holds."""
    cooldown: Duration = "6h"
    """Least time between two restarts of a workload."""
    max_per_day: int = Field(default=4, ge=0)
    """Most restarts of a workload in 24 hours."""
    window: str | None = None
    """Hours in which restarts are allowed; at any time where it is not set."""
    time_zone: str | None = None
    """Time zone of the window, such as Europe/Berlin; UTC where it is not set."""


class Verify(ApiModel):
    """What a pod must show after a recommendation was applied to it."""

    ready_timeout: Duration = "30m"
    """Time from the start of vLLM until a pod with new sizes must report, or the recommendation is withdrawn."""
    settle: Duration = "30m"
    """Time for which a pod with new sizes is observed before it is judged."""
    ttft_percent: float = Field(default=10, ge=0)
    """Percent by which the time to first token may rise. Kept, and without effect yet."""


_IN_ORDER = (
    "!has(self.minKV) || !has(self.maxKV) || quantity(string(self.minKV)).compareTo(quantity(string(self.maxKV))) <= 0"
)


class PolicySpec(ApiModel):
    """How a workload is sized. Every time in the recommender follows from the observation window."""

    model_config = ConfigDict(json_schema_extra=rules((_IN_ORDER, "minKV must not be larger than maxKV")))

    observation_window: Duration = "48h"
    """How far back a size looks, such as 48h; every other time follows from it."""
    window_coverage: float = Field(default=50, gt=0, le=100)
    """Percent of the window that must hold data before anything is made smaller."""
    percentile: Literal[100, 99, 95, 90, 85, 80] = 99
    """Which percentile of demand, and of the hit-rate curve's rolling knees, a size must serve."""
    strategy: Literal["OnCreate", "Ongoing"] = "OnCreate"
    """OnCreate: sizes reach pods that start anyway. Ongoing: running pods far off their size are to be replaced, which
    is not built yet: it does what OnCreate does."""
    hit_rate_loss: HitRateLoss = HitRateLoss()
    """How much prefix-cache hit rate a smaller pool may cost; the stricter of the two holds."""
    demand_margin_percent: float = Field(default=10, ge=0)
    """Percent added to the demand of running requests."""
    min_kv: Quantity | None = Field(default=None, alias="minKV")
    """No KV cache is made smaller than this many bytes, such as 2Gi."""
    max_kv: Quantity | None = Field(default=None, alias="maxKV")
    """No KV cache is made larger than this many bytes; what vLLM needs to start wins over it."""
    min_requests: int = Field(default=1000, ge=1)
    """Requests that the window must hold before anything is made smaller."""
    mode: Literal["Apply", "DryRun"] = "Apply"
    """Apply, or DryRun: show what would be written and change nothing."""
    caution: Literal["Normal", "High"] = "Normal"
    """Normal, or High: a wider margin, for services that must not notice."""
    loss_budget: float | None = Field(default=None, gt=0)
    """Share of what hitRateLoss allows over a day (half the window) that may be spent, such as 0.75. Sizes are
    smaller, and grow on a day that would spend more; a pod has the grown size once it is started anew. Unset: one
    size for calm and busy days."""
    restart: Restart = Restart()
    """When a running pod is far enough from its target to be replaced. Kept, and without effect yet."""
    verify: Verify = Verify()
    """What a pod must show after a recommendation was applied to it."""

    @property
    def observation_window_seconds(self) -> float:
        return parse_duration(self.observation_window)

    @property
    def min_kv_bytes(self) -> int | None:
        return None if self.min_kv is None else parse_quantity(self.min_kv)

    @property
    def max_kv_bytes(self) -> int | None:
        return None if self.max_kv is None else parse_quantity(self.max_kv)


class SettingStatus(ApiModel):
    """What the recommender makes of what people say."""

    model_config = ConfigDict(extra="ignore")

    conditions: list[Condition] = Field(default_factory=list, json_schema_extra=listed_by("type"))
    """Valid: whether it is followed as it stands, or its last valid version goes on."""


class VLLMPolicy(ApiObject):
    """How workloads are sized that name it; the one called `default` sizes all that name none."""

    KIND: ClassVar[str] = "VLLMPolicy"
    PLURAL: ClassVar[str] = "vllmpolicies"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["VLLMPolicy"] = "VLLMPolicy"
    spec: PolicySpec = PolicySpec()
    status: SettingStatus = SettingStatus()


class AutomatedNamespaceSpec(ApiModel):
    """What holds for the vLLM pods of one namespace."""

    vllm_optimize: bool | None = None
    """Whether vLLM pods of the namespace start with what is recommended."""
    default_vllm_policy: str | None = None
    """The VLLMPolicy of workloads that name none."""


class AutomatedNamespace(ApiObject):
    """What holds for the vLLM pods of one namespace; named as the namespace it speaks of."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 63",
                "an AutomatedNamespace is named as the namespace it speaks of",
            )
        )
    )

    KIND: ClassVar[str] = "AutomatedNamespace"
    PLURAL: ClassVar[str] = "automatednamespaces"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["AutomatedNamespace"] = "AutomatedNamespace"
    spec: AutomatedNamespaceSpec = AutomatedNamespaceSpec()
    status: SettingStatus = SettingStatus()


class ClusterAutomationSpec(ApiModel):
    """What holds for the vLLM pods of the cluster."""

    vllm_optimize: bool | None = None
    """Whether vLLM pods start with what is recommended, where neither workload nor namespace says so."""
    default_vllm_policy: str | None = None
    """The VLLMPolicy of workloads for which nobody names one."""
    mode: Literal["Apply", "DryRun"] | None = None
    """Apply, or DryRun: show what would be written and change nothing."""
    emitter: Emitter | None = None
    """The GPU scheduler in whose words a size is requested as well."""
    custom_owner_groups: list[CustomOwnerGroup] | None = None
    """Owners that make pods of one workload, beyond the kinds that are known."""


class ClusterAutomation(ApiObject):
    """What holds for the vLLM pods of the cluster: one object, named `default`."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                f"self.metadata.name == '{CLUSTER_AUTOMATION_NAME}'",
                f"there is one ClusterAutomation, named {CLUSTER_AUTOMATION_NAME}",
            )
        )
    )

    KIND: ClassVar[str] = "ClusterAutomation"
    PLURAL: ClassVar[str] = "clusterautomations"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["ClusterAutomation"] = "ClusterAutomation"
    spec: ClusterAutomationSpec = ClusterAutomationSpec()
    status: SettingStatus = SettingStatus()
