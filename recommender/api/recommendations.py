"""What the recommender writes for each workload and container: `VLLMRecommendation`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from recommender.api.objects import ApiModel, ApiObject, Condition, Time
from recommender.api.workloads import WorkloadRef

PLUGIN_REPORTING = "PluginReporting"
COVERAGE_SUFFICIENT = "CoverageSufficient"
RECOMMENDED = "Recommended"
APPLIED = "Applied"
VERIFIED = "Verified"
DEGRADED = "Degraded"


class TargetRef(ApiModel):
    group: str
    kind: str
    name: str
    container: str

    @property
    def workload(self) -> WorkloadRef:
        return WorkloadRef(self.group, self.kind, self.name)


class RecommendationSpec(ApiModel):
    target_ref: TargetRef
    paused: bool = False


class Range(ApiModel):
    min: int
    max: int


class Resolved(ApiModel):
    """A setting and the level that decided it (`pod`, `workload`, `AutomatedNamespace`, …)."""

    value: str
    source: str


class Measured(ApiModel):
    """What the plugin reported of the worst pod of the workload, bytes per rank; counters over the window."""

    vllm_version: str
    model: str
    weights_bytes: int
    overhead_bytes: int
    kv_capacity_bytes: int
    kv_block_bytes: int
    kv_block_tokens: int
    kv_active_peak_bytes: int
    kv_demand_peak_bytes: int
    kv_floor_bytes: int
    allocated_bytes: int
    hit_rate: float | None = None
    requests: int
    lookup_tokens: int
    preemptions: int
    admissions_blocked: int


class Bound(ApiModel):
    """One rule's answer: the KV bytes that it asks for, and why in a sentence."""

    name: str
    kv_bytes: int
    message: str


class Target(ApiModel):
    """What the next pod is to start with. `flags` are appended to vLLM's arguments, in this order."""

    kv_bytes: int
    kv_blocks: int
    allocation_bytes: int
    gpu_memory_utilization: str = Field(pattern=r"^0\.\d{4}$|^1\.0000$")
    flags: list[str]
    predicted_hit_rate: float | None = None
    bound_by: str


class Savings(ApiModel):
    """What a pod gives back, per rank; negative where the recommendation is to grow."""

    bytes: int
    share_of_pool: float


class Coverage(ApiModel):
    """The data behind a recommendation."""

    window_seconds: float
    covered_seconds: float
    percent: float
    samples: int
    first_sample: Time | None = None
    last_sample: Time | None = None


class RecommendationStatus(ApiModel):
    fingerprint: str | None = None
    gpu_memory_total_bytes: Range | None = None
    automation: Resolved | None = None
    policy: Resolved | None = None
    measured: Measured | None = None
    bounds: list[Bound] = Field(default_factory=list)
    target: Target | None = None
    savings: Savings | None = None
    coverage: Coverage | None = None
    conditions: list[Condition] = Field(default_factory=list)


class VLLMRecommendation(ApiObject):
    KIND: ClassVar[str] = "VLLMRecommendation"
    PLURAL: ClassVar[str] = "vllmrecommendations"
    NAMESPACED: ClassVar[bool] = True

    kind: Literal["VLLMRecommendation"] = "VLLMRecommendation"
    spec: RecommendationSpec
    status: RecommendationStatus = RecommendationStatus()

    def condition(self, type_: str) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == type_), None)
