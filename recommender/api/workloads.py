"""Whose pod is this? The workload behind a pod, found from the pod alone."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

POD_TEMPLATE_HASH = "pod-template-hash"
ROLLOUTS_POD_TEMPLATE_HASH = "rollouts-pod-template-hash"
LWS_NAME = "leaderworkerset.sigs.k8s.io/name"
KSERVE_NAME = "serving.kserve.io/inferenceservice"
_NAME_LIMIT = 63
_HASH_DIGITS = 8


@dataclass(frozen=True, order=True)
class WorkloadRef:
    """The top owner of a pod: API group (without version), kind and name. A bare pod is its own workload."""

    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def workload_of(pod: dict[str, Any]) -> WorkloadRef:
    """The workload that made `pod`, by its labels and its controlling owner; no call to the API server.

    A ReplicaSet's name minus the template hash is its Deployment, or its Argo Rollout where that label is the one;
    pods of a LeaderWorkerSet and of KServe carry the name as a label. A pod that is admitted from a generateName
    has no name of its own yet: it is then its own workload under its generateName.
    """
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    if LWS_NAME in labels:
        return WorkloadRef("leaderworkerset.x-k8s.io", "LeaderWorkerSet", labels[LWS_NAME])
    if KSERVE_NAME in labels:
        return WorkloadRef("serving.kserve.io", "InferenceService", labels[KSERVE_NAME])
    owner = next((ref for ref in metadata.get("ownerReferences") or () if ref.get("controller")), None)
    if owner is None:
        return WorkloadRef("", "Pod", metadata.get("name") or (metadata.get("generateName") or "").rstrip("-"))
    group = owner["apiVersion"].rpartition("/")[0]
    kind, name = owner["kind"], owner["name"]
    if kind == "ReplicaSet":
        for label, (parent_group, parent_kind) in (
            (ROLLOUTS_POD_TEMPLATE_HASH, ("argoproj.io", "Rollout")),
            (POD_TEMPLATE_HASH, ("apps", "Deployment")),
        ):
            suffix = "-" + labels[label] if label in labels else None
            if suffix is not None and name.endswith(suffix):
                return WorkloadRef(parent_group, parent_kind, name.removesuffix(suffix))
    return WorkloadRef(group, kind, name)


def recommendation_name(workload: WorkloadRef, container: str) -> str:
    """Name of the recommendation object: readable, cut, and made unique by 8 hex digits of the whole key."""
    key = f"{workload.group}/{workload.kind}/{workload.name}/{container}"
    digits = hashlib.sha256(key.encode()).hexdigest()[:_HASH_DIGITS]
    readable = re.sub(r"[^a-z0-9-]+", "-", f"{workload.kind}-{workload.name}-{container}".lower())
    return readable[: _NAME_LIMIT - _HASH_DIGITS - 1].strip("-") + "-" + digits
