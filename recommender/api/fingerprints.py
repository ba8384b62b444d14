"""What a recommendation was made for: one hash, the same before and after our webhook touched the pod.

The webhook computes it from the pod at admission, the recommender from the running pod. A rollout with another model,
image or argument reaches admission before the recommender knows of it: then the two differ, and the pod starts as its
author wrote it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from recommender.api.sizing_flags import without_sizing_flags
from vllm_plugin.names import ENTRY_POINT, ENV_PREFIX

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", "gpu.intel.com/i915", "gpu.intel.com/xe")
PRODUCT_LABELS = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "amd.com/gpu.product-name",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/hostname",
)
"""Node labels of which each pins a pod that selects it to one size of GPU."""

_LWS_SIZE = "leaderworkerset.sigs.k8s.io/size"


def container_of(pod: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The container or init container of `pod` with this name; None where there is none."""
    spec = pod.get("spec") or {}
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        if container.get("name") == name:
            found: dict[str, Any] = container
            return found
    return None


def product_of(pod: dict[str, Any]) -> dict[str, str]:
    """The node labels of `PRODUCT_LABELS` to which `pod` is pinned by its selector or its required affinity."""
    spec = pod.get("spec") or {}
    pinned = {key: value for key, value in (spec.get("nodeSelector") or {}).items() if key in PRODUCT_LABELS}
    node_affinity: dict[str, Any] = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required: dict[str, Any] = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms: list[dict[str, Any]] = required.get("nodeSelectorTerms") or []
    # Terms are alternatives: only a single one pins.
    if len(terms) == 1:
        for expression in terms[0].get("matchExpressions") or ():
            values: list[str] = expression.get("values") or []
            if expression.get("key") in PRODUCT_LABELS and expression.get("operator") == "In" and len(values) == 1:
                pinned[expression["key"]] = values[0]
    return pinned


def fingerprint(pod: dict[str, Any], container_name: str) -> str:
    """16 hex digits over image, argument vector without the sizing options, `VLLM_*` environment, GPUs and group size.

    Raises KeyError where `pod` has no such container.
    """
    container = container_of(pod, container_name)
    if container is None:
        raise KeyError(f"the pod has no container {container_name!r}")
    resources = container.get("resources") or {}
    amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    labels = (pod.get("metadata") or {}).get("labels") or {}
    made_for = {
        "image": container.get("image"),
        "arguments": without_sizing_flags([*(container.get("command") or ()), *(container.get("args") or ())]),
        "environment": _vllm_environment(container),
        "gpus": {key: str(amounts[key]) for key in GPU_RESOURCES if key in amounts},
        "product": product_of(pod),
        "groupSize": labels.get(_LWS_SIZE),
    }
    text = json.dumps(made_for, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _vllm_environment(container: dict[str, Any]) -> dict[str, Any]:
    """The container's `VLLM_*` variables as written, less our own and less our name in VLLM_PLUGINS."""
    kept: dict[str, Any] = {}
    for variable in container.get("env") or ():
        name = variable["name"]
        if not name.startswith("VLLM_") or name.startswith(ENV_PREFIX):
            continue
        value = variable.get("value", variable.get("valueFrom"))
        if name == "VLLM_PLUGINS" and isinstance(value, str):
            value = ",".join(plugin for plugin in value.split(",") if plugin != ENTRY_POINT)
        kept[name] = value
    return kept
