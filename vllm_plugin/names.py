"""Every name that two parts of vllm-rightsizer share: metrics, labels, annotations, environment, ports.

The plugin writes them, the recommender and the webhook read them. Constants only: the control plane may import this
module and nothing else of the plugin.
"""

from __future__ import annotations

VERSION = "0.1.0"
DISTRIBUTION = "vllm-rightsizer-plugin"
ENTRY_POINT_GROUP = "vllm.general_plugins"
ENTRY_POINT = "vllm_rightsizer"
ENTRY_POINT_VALUE = "vllm_plugin:register"

# --- Environment of a vLLM container -----------------------------------------------------------------------------
ENV_PREFIX = "VLLM_RIGHTSIZER_"
ENV_PORT = ENV_PREFIX + "PORT"
ENV_DIR = ENV_PREFIX + "DIR"
"""Folder that the plugin's processes in one pod share for their snapshots; a private temporary one by default."""
ENV_POD_UID = ENV_PREFIX + "POD_UID"
"""The pod's UID, by the downward API: exported, so that a scraper can tell this pod's page from another's."""
ENV_KV_BYTES = ENV_PREFIX + "KV_BYTES"
ENV_GPU_MEMORY_UTILIZATION = ENV_PREFIX + "GPU_MEMORY_UTILIZATION"
ENV_ALLOCATION_BYTES = ENV_PREFIX + "ALLOCATION_BYTES"
"""What vLLM may claim in all, where the GPU's size is not known at admission: the plugin turns it into a fraction of
what the process sees as the device's total."""
ENV_DISABLED = ENV_PREFIX + "DISABLED"
DEFAULT_PORT = 9415
METRICS_PORT_NAME = "rightsizer"
COMPACT_TYPE = "application/vnd.vllm-rightsizer.page+json"
"""The page for the recommender's own scrapes, as a list: name, labels, value of each sample; a histogram is one sample,
and its value the list of its cumulative buckets."""

# --- Labels and annotations --------------------------------------------------------------------------------------
GROUP = "vllm-rightsizer.io"
API_VERSION = GROUP + "/v1alpha1"
LABEL_INJECT = GROUP + "/inject"
LABEL_INJECTED = GROUP + "/injected"
ANNOTATION_EXCLUDE = GROUP + "/exclude"
ANNOTATION_AUTO = GROUP + "/auto"
ANNOTATION_POLICY = GROUP + "/policy"
ANNOTATION_CONTAINER = GROUP + "/container"
ANNOTATION_APPLIED = GROUP + "/applied"
ANNOTATION_ORIGINAL_ARGS = GROUP + "/original-args"
ANNOTATION_SKIPPED = GROUP + "/skipped"
ANNOTATION_EMITTER = GROUP + "/emitter"
ANNOTATION_EMITTED = GROUP + "/emitted"
"""What was written in the GPU scheduler's words, and what stood there before; by the webhook."""
FOREIGN_ANNOTATION_AUTO = "scaleops.sh/default-vllm-auto"
FOREIGN_ANNOTATION_POLICY = "scaleops.sh/default-vllm-policy"

# --- Metrics: what stands on the plugin's page, without the prefix -------------------------------------------------
PREFIX = "vllm_rightsizer_"
MODEL_WEIGHTS_BYTES = PREFIX + "model_weights_bytes"
KV_CACHE_CAPACITY_BYTES = PREFIX + "kv_cache_capacity_bytes"
KV_CACHE_RESERVED_BYTES = PREFIX + "kv_cache_reserved_bytes"
KV_CACHE_BLOCK_BYTES = PREFIX + "kv_cache_block_bytes"
KV_CACHE_BLOCK_TOKENS = PREFIX + "kv_cache_block_tokens"
KV_CACHE_ACTIVE_BYTES = PREFIX + "kv_cache_active_bytes"
KV_CACHE_ACTIVE_PEAK_BYTES = PREFIX + "kv_cache_active_peak_bytes"
KV_CACHE_REUSABLE_BYTES = PREFIX + "kv_cache_reusable_bytes"
KV_DEMAND_PEAK_BYTES = PREFIX + "kv_demand_peak_bytes"
KV_REUSE_DISTANCE_BYTES = PREFIX + "kv_reuse_distance_bytes"
PREFIX_CACHE_HEADROOM_BYTES = PREFIX + "prefix_cache_headroom_bytes"
RUNTIME_OVERHEAD_BYTES = PREFIX + "runtime_overhead_bytes"
GPU_MEMORY_TOTAL_BYTES = PREFIX + "gpu_memory_total_bytes"
GPU_MEMORY_ALLOCATED_BYTES = PREFIX + "gpu_memory_allocated_bytes"
KV_FLOOR_BYTES = PREFIX + "kv_floor_bytes"
ENGINE_ASLEEP = PREFIX + "engine_asleep"
PREEMPTIONS = PREFIX + "preemptions_total"
ADMISSIONS_BLOCKED = PREFIX + "admissions_blocked_total"
REQUESTS = PREFIX + "requests_total"
LOOKUP_TOKENS = PREFIX + "lookup_tokens_total"
HIT_TOKENS = PREFIX + "hit_tokens_total"
HOOK_SECONDS = PREFIX + "hook_seconds_total"
HOOK_ERRORS = PREFIX + "hook_errors_total"
HOOKS_ACTIVE = PREFIX + "hooks_active"
BUILD_INFO = PREFIX + "build_info"
ENGINE_INFO = PREFIX + "engine_info"

LABEL_ENGINE = "engine"
LABEL_RANK = "rank"
LABEL_COMPONENT = "component"
LABEL_HOOK = "hook"
LABEL_POD_UID = "pod_uid"
"""Of build_info."""

OVERHEAD_COMPONENTS = ("activations", "cuda_graphs", "non_torch", "other")

# Values of engine_info's label `override`.
OVERRIDE_NONE = "none"
OVERRIDE_APPLIED = "applied"
OVERRIDE_REFUSED = "refused"
OVERRIDE_RAISED = "raised"
"""Applied, and raised to the least that vLLM starts with."""
OVERRIDE_KVCACHED = "kvcached"
"""kvcached keeps the pool elastic: nothing is overridden."""

# --- The reuse histogram's buckets -----------------------------------------------------------------------------------
BUCKETS_PER_OCTAVE = 8
BUCKET_LOW_EXPONENT = 20
BUCKET_HIGH_EXPONENT = 38
REUSE_BUCKET_BOUNDS = tuple(
    2.0 ** (k / BUCKETS_PER_OCTAVE)
    for k in range(BUCKET_LOW_EXPONENT * BUCKETS_PER_OCTAVE, BUCKET_HIGH_EXPONENT * BUCKETS_PER_OCTAVE + 1)
)
"""Upper bounds in bytes, 1 MiB to 256 GiB, eight an octave: schema 3 of Prometheus' native histograms."""
