"""What a recommendation was made for: one hash, the same before and after our webhook touched the pod.

The webhook computes it from the pod at admission, the recommender from the running pod. A rollout with another model,
image or argument reaches admission before the recommender knows of it: then the two differ, and the pod starts as its
author wrote it.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from recommender.api.sharing import MIG_PREFIX, amounts_of, as_written, shares_of
from recommender.api.sizing_flags import without_sizing_flags
from recommender.api.workloads import KSERVE_GENERATION, LWS_SIZE
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

_DECIDING = ("VLLM_", "NIM_", "OPTION_", "SERVING_", "MODEL", "HF_MODEL")
"""Beginnings of variables that choose the model or the engine's options: vLLM's, NVIDIA NIM's, DJL's, and those of
images whose entrypoint is a script.
"""
_REFERENCE = re.compile(r"\$\(([A-Za-z_.-][\w.-]*)\)|\$\{?([A-Za-z_]\w*)")
_LWS_REVISION = "leaderworkerset.sigs.k8s.io/template-revision-hash"


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
    """16 hex digits over image, argument vector without the sizing options, the environment that decides what runs,
    GPUs (whole ones, slices by MIG, and shares of the author's own) and group size.

    Raises KeyError where `pod` has no such container.
    """
    pod = as_written(pod)
    container = container_of(pod, container_name)
    if container is None:
        raise KeyError(f"the pod has no container {container_name!r}")
    amounts = amounts_of(container)
    arguments = without_sizing_flags([*(container.get("command") or ()), *(container.get("args") or ())])
    labels = (pod.get("metadata") or {}).get("labels") or {}
    made_for = {
        "image": container.get("image"),
        "arguments": arguments,
        "environment": _environment(container, arguments),
        "gpus": {key: str(amounts[key]) for key in amounts if key in GPU_RESOURCES or key.startswith(MIG_PREFIX)},
        "product": product_of(pod),
        "groupSize": ((pod.get("metadata") or {}).get("annotations") or {}).get(LWS_SIZE),
        # Of both templates of a group: leader and workers change together or not at all.
        "groupRevision": labels.get(_LWS_REVISION) or labels.get(KSERVE_GENERATION),
    }
    shares = shares_of(pod)
    if shares:
        made_for["shares"] = shares
    text = json.dumps(made_for, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _environment(container: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The variables that decide what runs, as written: `VLLM_*`, those by which images choose their model, and those
    that the arguments refer to; less our own, and less our name in VLLM_PLUGINS.
    """
    referred = {name for token in arguments for found in _REFERENCE.findall(token) for name in found if name}
    kept: dict[str, Any] = {}
    for variable in container.get("env") or ():
        name = variable["name"]
        if not (name.startswith(_DECIDING) or name in referred) or name.startswith(ENV_PREFIX):
            continue
        # A variable without a value has an empty one.
        value = variable.get("value", variable.get("valueFrom")) or ""
        if name == "VLLM_PLUGINS" and isinstance(value, str):
            value = ",".join(plugin for plugin in value.split(",") if plugin != ENTRY_POINT)
        kept[name] = value
    return kept
