"""What the recommender writes for each workload and container: `VLLMRecommendation`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from recommender.api.objects import ApiModel, ApiObject, Condition, Time, listed_by, rules
from recommender.api.workloads import WorkloadRef

PLUGIN_REPORTING = "PluginReporting"
COVERAGE_SUFFICIENT = "CoverageSufficient"
RECOMMENDED = "Recommended"
APPLIED = "Applied"
VERIFIED = "Verified"
DEGRADED = "Degraded"
AUTOSCALER_CONFLICT = "AutoscalerConflict"


class TargetRef(ApiModel):
    """A workload, and the container of its pods that runs vLLM."""

    model_config = ConfigDict(json_schema_extra=rules(("self == oldSelf", "targetRef never changes")))

    group: str
    """API group of the workload, without its version; empty for the core group."""
    kind: str
    """Kind of the workload."""
    name: str
    """Name of the workload."""
    container: str
    """The container that runs vLLM."""

    @property
    def workload(self) -> WorkloadRef:
        return WorkloadRef(self.group, self.kind, self.name)


class RecommendationSpec(ApiModel):
    """What is recommended for, and whether it holds."""

    target_ref: TargetRef
    """The workload and container that this is about; it never changes."""
    paused: bool = False
    """While true, pods start as their author wrote them."""


class Range(ApiModel):
    """The smallest and the largest of several."""

    min: int
    """The smallest."""
    max: int
    """The largest."""


class Resolved(ApiModel):
    """A setting and the level that decided it (`pod`, `workload`, `AutomatedNamespace`, …)."""

    value: str
    """The setting."""
    source: str
    """The level that decided it."""


class Measured(ApiModel):
    """What the plugin reported of the worst pod of the workload, bytes per rank; counters over the window."""

    vllm_version: str
    """Version of vLLM."""
    model: str
    """The model that is served."""
    weights_bytes: int
    """Weights, with LoRA slots and draft model."""
    overhead_bytes: int
    """What vLLM holds besides weights and KV cache."""
    kv_capacity_bytes: int
    """The KV cache as allocated."""
    kv_block_bytes: int
    """Bytes of one block."""
    kv_block_tokens: int
    """Tokens of one block."""
    kv_active_peak_bytes: int
    """Most that running requests held."""
    kv_demand_peak_bytes: int
    """Most that running requests and the one being admitted needed."""
    kv_floor_bytes: int
    """With less vLLM refuses to start."""
    allocated_bytes: int
    """What vLLM claims of the GPU in all."""
    hit_rate: float | None = None
    """Share of the tokens looked up that the prefix cache held."""
    requests: int
    """Requests that came."""
    lookup_tokens: int
    """Tokens looked up."""
    preemptions: int
    """Requests that lost their KV cache to others."""
    admissions_blocked: int
    """Requests that had to wait for KV cache."""


class EstimatedPool(ApiModel):
    """What vLLM's own metrics say of a workload without the plugin. The smallest KV cache that would do lies between
    `kvLowBlocks` and `kvHighBlocks` with probability `confidence`. Never applied: no target follows from it."""

    kv_pool_blocks: int
    """Blocks of the KV cache of today."""
    kv_block_tokens: int
    """Tokens of one block."""
    kv_low_blocks: int
    """Least that is needed."""
    kv_high_blocks: int
    """Most that is needed; the KV cache of today where it holds a prefix cache, of which no more can be known."""
    confidence: float
    """Probability that the truth lies between."""
    hit_rate: float | None = None
    """Share of the tokens looked up that the prefix cache held."""
    preemptions: int
    """Requests that lost their KV cache to others."""
    samples: int
    """Times that vLLM was looked at."""
    since: Time
    """When it was looked at first."""


class Bound(ApiModel):
    """One rule's answer: the KV bytes that it asks for, and why in a sentence."""

    name: str
    """Name of the rule."""
    kv_bytes: int
    """What it asks for."""
    message: str
    """Why."""


class Target(ApiModel):
    """What the next pod is to start with. `flags` are appended to vLLM's arguments, in this order."""

    kv_bytes: int
    """Size of the KV cache, and what vLLM takes off it to decode pictures."""
    kv_blocks: int
    """The same in blocks."""
    allocation_bytes: int
    """What vLLM is to claim of the GPU in all."""
    gpu_memory_utilization: str = Field(pattern=r"^0\.\d{4}$|^1\.0000$")
    """The same as a fraction of the GPU."""
    flags: list[str]
    """What is appended to vLLM's arguments."""
    predicted_hit_rate: float | None = None
    """The hit rate that the curve predicts at this size."""
    bound_by: str
    """The rule that decided."""


class Money(ApiModel):
    """What is saved in a month of 730 hours, by prices of a certain day."""

    currency: str
    """Currency of the amounts."""
    bankable_per_month: float
    """Of what others can be placed on."""
    potential_per_month: float
    """Of what is free and promised to the pods all the same."""
    gpu_hour: float
    """Price of a GPU for an hour; the average, where the pods' GPUs differ."""
    priced_at: str
    """Day of the prices."""
    source: str
    """Who named the price."""


class Savings(ApiModel):
    """What a pod gives back, per rank; negative where the recommendation is to grow."""

    bytes: int
    """Bytes given back."""
    share_of_pool: float
    """The same as a share of the KV cache of today."""
    bankable_bytes: int = 0
    """Of the bytes given back, those that the pod asks of no GPU scheduler any more: others can be placed there."""
    potential_bytes: int = 0
    """Of the bytes given back, those that are free on the GPU and promised to the pod all the same."""
    bankable_gpus: float = Field(default=0.0, alias="bankableGPUs")
    """The bankable bytes of all pods, in GPUs."""
    potential_gpus: float = Field(default=0.0, alias="potentialGPUs")
    """The potential bytes of all pods, in GPUs."""
    money: Money | None = None
    """What these GPUs cost; absent where no price is known."""
    no_price: str | None = None
    """Why no price is known, and what to do about it."""


class Coverage(ApiModel):
    """The data behind a recommendation."""

    window_seconds: float
    """Length of the window."""
    covered_seconds: float
    """Of it, what holds data."""
    percent: float
    """The same in percent."""
    samples: int
    """Number of samples."""
    first_sample: Time | None = None
    """Time of the first sample."""
    last_sample: Time | None = None
    """Time of the last sample."""


class LossBudget(ApiModel):
    """How much of the hit rate that a day (half the window) may lose is lost so far; tokens of all pods."""

    period_start: Time
    """When the day began; days follow each other without a gap."""
    budget_tokens: int
    """Hits that the day may lose, as hitRateLoss says."""
    spent_tokens: int
    """Hits lost so far, restarts included."""
    projected_tokens: int
    """Hits lost by the end of the day, if the pool stays as it is."""
    restart_tokens: int
    """Hits that a restart would cost."""
    restarted_tokens: int = 0
    """Hits that restarts of the day have cost."""
    grown_kv_bytes: int | None = None
    """The pool since the last growth, for as long as that is kept."""
    grown_at: Time | None = None
    """When the pool grew last."""


class MaxModelLenAdvice(ApiModel):
    """A shorter longest request, where one of `maxModelLen` alone needs more KV cache than all else. Never applied."""

    max_model_len: int
    """Tokens of the longest request that vLLM takes."""
    longest_request_tokens: int
    """Tokens that no request seen can have been longer than."""
    suggested_max_model_len: int
    """What would do, for --max-model-len."""
    kv_bytes: int
    """The KV cache that would do then."""
    message: str
    """The same in a sentence."""


class RecommendationStatus(ApiModel):
    """What the recommender measured and recommends."""

    fingerprint: str | None = None
    """Hash of what this was made for: image, arguments, environment and GPUs. Other pods are left alone."""
    replicas: int | None = None
    """Pods that run it, whether they report or not; of an engine over several pods, the one that schedules."""
    gpus: int | None = None
    """Their GPUs. Who asks for none, or for a part of one, counts as one."""
    gpu_memory_total_bytes: Range | None = None
    """Memory of the workload's GPUs."""
    automation: Resolved | None = None
    """Whether the recommendation is applied, and who said so."""
    policy: Resolved | None = None
    """The VLLMPolicy, and who named it."""
    measured: Measured | None = None
    """What was measured of the worst pod."""
    estimated: EstimatedPool | None = None
    """What vLLM's own metrics say, where no pod reports; not measured, and never applied."""
    bounds: list[Bound] = Field(default_factory=list, json_schema_extra=listed_by("name"))
    """Every rule's answer."""
    target: Target | None = None
    """What the next pod starts with."""
    savings: Savings | None = None
    """What a pod gives back."""
    coverage: Coverage | None = None
    """The data behind this."""
    loss_budget: LossBudget | None = None
    """The day's loss budget, where the policy has one."""
    max_model_len_advice: MaxModelLenAdvice | None = None
    """What a shorter longest request would save; for people, never applied."""
    claim_template: str | None = None
    """The ResourceClaimTemplate that pods may point at, where GPUs are allocated by claims."""
    would_change: list[str] | None = None
    """In a dry run, what would change in a pod: a line for each option, variable or request."""
    conditions: list[Condition] = Field(default_factory=list, json_schema_extra=listed_by("type"))
    """PluginReporting, CoverageSufficient, Recommended, Applied, Verified, Degraded; AutoscalerConflict if any."""


class VLLMRecommendation(ApiObject):
    """What the recommender measured of a workload, and what its next pod starts with."""

    KIND: ClassVar[str] = "VLLMRecommendation"
    PLURAL: ClassVar[str] = "vllmrecommendations"
    NAMESPACED: ClassVar[bool] = True

    kind: Literal["VLLMRecommendation"] = "VLLMRecommendation"
    spec: RecommendationSpec
    status: RecommendationStatus = RecommendationStatus()

    def condition(self, type_: str) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == type_), None)
