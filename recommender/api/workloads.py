"""Whose pod is this? The workload behind a pod, found without any call."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from recommender.api.owner_groups import CustomOwnerGroup
from vllm_plugin.names import GROUP

POD_TEMPLATE_HASH = "pod-template-hash"
ROLLOUTS_POD_TEMPLATE_HASH = "rollouts-pod-template-hash"
LWS_NAME = "leaderworkerset.sigs.k8s.io/name"
LWS_WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
"""A label of each of its pods; the leader's is 0."""
LWS_SIZE = "leaderworkerset.sigs.k8s.io/size"
"""An annotation of each of its pods; the name is a label."""
KSERVE_NAME = "serving.kserve.io/inferenceservice"
KSERVE_GENERATION = "isvc.generation"
"""A label of the pods of an InferenceService over several nodes, head and workers, and of no others."""
OWNER_GROUP_KIND = "OwnerGroup"
"""Kind of a workload that labels make; there is no such object."""
_NAME_LIMIT = 63
_HASH_DIGITS = 8
_HIGHEST = 6
"""Owners above a pod that are looked at."""
_SCHEDULED_JOB = re.compile(r"^(?P<cronjob>.+)-(?P<minutes>\d{8})$")
_FIRST_MINUTE, _LAST_MINUTE = 24_000_000, 70_000_000
"""Minutes since 1970 of the years 2015 to 2103: a date such as 20260101 at a name's end is none of them."""


class WorkloadRef(NamedTuple):
    """The top owner of a pod: API group (without version), kind and name. A bare pod is its own workload."""

    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def is_of_group(pod: dict[str, Any]) -> bool:
    """Whether the pod is a part of an engine: of a LeaderWorkerSet, or of KServe's over several nodes."""
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    if KSERVE_NAME in labels and KSERVE_GENERATION in labels:
        return True
    return LWS_NAME in labels and (metadata.get("annotations") or {}).get(LWS_SIZE) != "1"


Owners = Callable[[WorkloadRef], Sequence[WorkloadRef]]
"""The owners of a workload of the pod's namespace, as watches tell them."""


def _unknown(_: WorkloadRef) -> Sequence[WorkloadRef]:
    return ()


def workload_of(pod: dict[str, Any], groups: Sequence[CustomOwnerGroup] = (), owners: Owners = _unknown) -> WorkloadRef:
    """The workload that made `pod`, by its labels and its owners; no call to the API server.

    The user's own `groups` come first; those that name an owner far above the pod need `owners` to find it. Otherwise
    a ReplicaSet's name minus the template hash is its Deployment, or its Argo Rollout where that label is the one; the
    time at the end of a Job's name makes it a CronJob's; pods of a LeaderWorkerSet and of KServe carry the name as a
    label. A pod that is admitted from a generateName has no name of its own yet: it is then its own
    workload under its generateName.
    """
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    grouped = _grouped(pod, labels, groups, owners) if groups else None
    if grouped is not None:
        return grouped
    if LWS_NAME in labels:
        return WorkloadRef("leaderworkerset.x-k8s.io", "LeaderWorkerSet", labels[LWS_NAME])
    if KSERVE_NAME in labels:
        return WorkloadRef("serving.kserve.io", "InferenceService", labels[KSERVE_NAME])
    owner = next((ref for ref in metadata.get("ownerReferences") or () if ref.get("controller")), None)
    if owner is None:
        return WorkloadRef("", "Pod", metadata.get("name") or (metadata.get("generateName") or "").rstrip("-"))
    return _above(_reference(owner), labels)


def _above(owner: WorkloadRef, labels: dict[str, str]) -> WorkloadRef:
    """The owner's owner where the names tell it, else the owner."""
    if owner.kind == "ReplicaSet":
        for label, (group, kind) in (
            (ROLLOUTS_POD_TEMPLATE_HASH, ("argoproj.io", "Rollout")),
            (POD_TEMPLATE_HASH, ("apps", "Deployment")),
        ):
            suffix = "-" + labels[label] if label in labels else None
            if suffix is not None and owner.name.endswith(suffix):
                return WorkloadRef(group, kind, owner.name.removesuffix(suffix))
    if (owner.group, owner.kind) == ("batch", "Job"):
        scheduled = _SCHEDULED_JOB.match(owner.name)
        if scheduled is not None and _FIRST_MINUTE <= int(scheduled["minutes"]) <= _LAST_MINUTE:
            return WorkloadRef("batch", "CronJob", scheduled["cronjob"])
    return owner


def _grouped(
    pod: dict[str, Any], labels: dict[str, str], groups: Sequence[CustomOwnerGroup], owners: Owners
) -> WorkloadRef | None:
    """The workload that the first fitting one of the user's groups makes of the pod."""
    chain: list[WorkloadRef] | None = None
    for group in groups:
        if group.owner is not None:
            chain = owners_above(pod, owners) if chain is None else chain
            for ref in chain:
                if (ref.group, ref.kind) == (group.owner.group, group.owner.kind):
                    return ref
        elif group.match_labels or group.by_labels:
            named = group.by_labels or ()
            if all(labels.get(key) == value for key, value in (group.match_labels or {}).items()) and all(
                key in labels for key in named
            ):
                return WorkloadRef(GROUP, OWNER_GROUP_KIND, ".".join([group.name, *(labels[key] for key in named)]))
    return None


def owners_above(pod: dict[str, Any], owners: Owners) -> list[WorkloadRef]:
    """Every owner above the pod, the nearest first, by names and by what `owners` tells."""
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    found: list[WorkloadRef] = []
    level = [_reference(ref) for ref in metadata.get("ownerReferences") or ()]
    for _ in range(_HIGHEST):
        level = [ref for ref in level if ref not in found]
        found += level
        above = [parent for ref in level for parent in (_above(ref, labels), *owners(ref)) if parent != ref]
        if not above:
            break
        level = list(dict.fromkeys(above))
    return found


def _reference(raw: dict[str, Any]) -> WorkloadRef:
    return WorkloadRef(raw["apiVersion"].rpartition("/")[0], raw["kind"], raw["name"])


def recommendation_name(workload: WorkloadRef, container: str) -> str:
    """Name of the recommendation object: readable, cut, and made unique by 8 hex digits of the whole key."""
    key = f"{workload.group}/{workload.kind}/{workload.name}/{container}"
    digits = hashlib.sha256(key.encode()).hexdigest()[:_HASH_DIGITS]
    readable = re.sub(r"[^a-z0-9-]+", "-", f"{workload.kind}-{workload.name}-{container}".lower())
    return readable[: _NAME_LIMIT - _HASH_DIGITS - 1].strip("-") + "-" + digits
