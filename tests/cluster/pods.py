"""vLLM pods, and recommendations for them, as the tests of admission use them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from bench.lab.control_plane import ControlPlane
from recommender.api.fingerprints import container_of, fingerprint
from recommender.api.objects import Condition, ObjectMeta
from recommender.api.recommendations import (
    Bound,
    Coverage,
    Measured,
    Range,
    RecommendationSpec,
    RecommendationStatus,
    Resolved,
    Savings,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.api.workloads import WorkloadRef, recommendation_name
from vllm_plugin.names import ANNOTATION_AUTO, LABEL_INJECT, LABEL_INJECTED

Raw = dict[str, Any]

CONTAINER = "vllm"
OPTED_IN = {LABEL_INJECT: "enabled"}
AUTOMATED = {ANNOTATION_AUTO: "true"}
KV_BYTES = 4 << 30
PATIENCE_SECONDS = 20
"""So long the API server waits for the webhook where its answer counts."""
FLAGS = ["--gpu-memory-utilization=0.2625", f"--kv-cache-memory-bytes={KV_BYTES}"]


def vllm_pod(name: str | None = "llama", **metadata: Any) -> Raw:
    """A pod as people write it: one container on one pinned GPU, and nothing that an API server would add."""
    named = {"name": name} if name else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": named | metadata,
        "spec": {
            # The volume of a token would have another name each time.
            "automountServiceAccountToken": False,
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            "containers": [
                {
                    "name": CONTAINER,
                    "image": "vllm/vllm-openai:v0.11.0",
                    "args": ["--model=meta-llama/Llama-3.1-8B-Instruct", "--max-model-len=8192"],
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }
            ],
        },
    }


def recommend(plane: ControlPlane, namespace: str, workload: WorkloadRef, pod: Raw) -> None:
    """Store a recommendation for `workload`, and wait until the webhook applies it to a pod of it like `pod`."""
    store_recommendation(plane, namespace, workload, pod)
    probe = owned(pod, workload)
    plane.wait_for(lambda: args_of(tried(plane, namespace, probe))[-2:] == FLAGS, "size as it is recommended")


def store_recommendation(
    plane: ControlPlane, namespace: str, workload: WorkloadRef, pod: Raw, container: str = CONTAINER
) -> None:
    """As the recommender does: the object, then its status."""
    made = recommendation(namespace, workload, pod, container)
    path = f"/apis/{made.api_version}/namespaces/{namespace}/{made.PLURAL}"
    stored = plane.client.create(path, made.to_json())
    plane.client.update(f"{path}/{made.metadata.name}/status", stored | {"status": made.status.to_json()})


def tried(plane: ControlPlane, namespace: str, pod: Raw) -> Raw:
    """What would be stored for `pod`."""
    return plane.client.create(f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")


def owned(pod: Raw, workload: WorkloadRef) -> Raw:
    """`pod` as one of `workload`, which made it without anything between them."""
    made = copy.deepcopy(pod)
    if workload.kind == "Pod":
        made["metadata"]["name"] = workload.name
    else:
        version = f"{workload.group}/v1" if workload.group else "v1"
        owner = {"apiVersion": version, "kind": workload.kind, "name": workload.name, "controller": True}
        made["metadata"]["ownerReferences"] = [owner | {"uid": "0b9a5f5e-3f6c-4a63-9b43-1f5b3f0b8d11"}]
    return made


def template(pod: Raw, **labels: str) -> Raw:
    """`pod` as the template of a workload."""
    made = {key: value for key, value in copy.deepcopy(pod["metadata"]).items() if key != "name"}
    return {"metadata": made | {"labels": labels}, "spec": copy.deepcopy(pod["spec"])}


def args_of(pod: Raw, container: str = CONTAINER) -> list[str]:
    found = container_of(pod, container)
    assert found is not None
    return list(found.get("args") or ())


def injected(pod: Raw) -> bool:
    return (pod["metadata"].get("labels") or {}).get(LABEL_INJECTED) == "true"


def without_server_fields(pod: Raw) -> Raw:
    """What the author and admission wrote: neither identity nor state."""
    kept = copy.deepcopy(pod)
    for name in ("creationTimestamp", "generation", "managedFields", "name", "namespace", "resourceVersion", "uid"):
        kept["metadata"].pop(name, None)
    kept.pop("status", None)
    return kept


def recommendation(namespace: str, workload: WorkloadRef, pod: Raw, container: str = CONTAINER) -> VLLMRecommendation:
    """4 GiB for this workload's pods; every field is set."""
    at = datetime(2026, 11, 1, 12, tzinfo=UTC)
    return VLLMRecommendation(
        metadata=ObjectMeta(name=recommendation_name(workload, container), namespace=namespace),
        spec=RecommendationSpec(
            target_ref=TargetRef(group=workload.group, kind=workload.kind, name=workload.name, container=container)
        ),
        status=RecommendationStatus(
            fingerprint=fingerprint(pod, container),
            gpu_memory_total_bytes=Range(min=80 << 30, max=80 << 30),
            automation=Resolved(value="true", source="workload"),
            policy=Resolved(value="default", source="default"),
            measured=Measured(
                vllm_version="0.11.0",
                model="meta-llama/Llama-3.1-8B-Instruct",
                weights_bytes=15 << 30,
                overhead_bytes=2 << 30,
                kv_capacity_bytes=16 << 30,
                kv_block_bytes=2 << 20,
                kv_block_tokens=16,
                kv_active_peak_bytes=1 << 30,
                kv_demand_peak_bytes=2 << 30,
                kv_floor_bytes=1 << 30,
                allocated_bytes=33 << 30,
                hit_rate=0.625,
                requests=100_000,
                lookup_tokens=10_000_000_000,
                preemptions=0,
                admissions_blocked=0,
            ),
            bounds=[Bound(name="hitRate", kv_bytes=KV_BYTES, message="the knee of the curve")],
            target=Target(
                kv_bytes=KV_BYTES,
                kv_blocks=2048,
                allocation_bytes=21 << 30,
                gpu_memory_utilization="0.2625",
                flags=FLAGS,
                predicted_hit_rate=0.62,
                bound_by="hitRate",
            ),
            savings=Savings(bytes=12 << 30, share_of_pool=0.75),
            coverage=Coverage(
                window_seconds=172800,
                covered_seconds=172000.5,
                percent=99.5,
                samples=2880,
                first_sample=at,
                last_sample=at,
            ),
            conditions=[
                Condition(
                    type="Recommended",
                    status="True",
                    reason="Sized",
                    message="4.00 GiB of KV cache",
                    last_transition_time=at,
                    observed_generation=1,
                )
            ],
        ),
    )
