"""Owners of pods: what is kept of their metadata."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from recommender.api.apiserver.resources import Resource
from recommender.api.workloads import POD_TEMPLATE_HASH, ROLLOUTS_POD_TEMPLATE_HASH, WorkloadRef
from vllm_plugin.names import GROUP

Raw = dict[str, Any]
OwnerKey = tuple[str, WorkloadRef]
"""Namespace and owner."""

_EVERYWHERE = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
BUILT_IN_OWNERS = (
    *(Resource("apps", "v1", f"{kind.lower()}s", kind) for kind in _EVERYWHERE),
    Resource("batch", "v1", "jobs", "Job"),
    Resource("batch", "v1", "cronjobs", "CronJob"),
)
CUSTOM_OWNERS = (
    Resource("argoproj.io", "v1alpha1", "rollouts", "Rollout"),
    Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet"),
    Resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService"),
)
"""Kinds that a cluster may or may not have."""
WORKLOAD_KINDS = tuple(resource.kind for resource in (*BUILT_IN_OWNERS, *CUSTOM_OWNERS))

NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})
_ANNOTATION_PREFIXES = (f"{GROUP}/", "scaleops.sh/")


@dataclass(frozen=True, slots=True)
class Owner:
    """An object that owns pods, or owns owners of pods: our annotations on it, and its own owners."""

    annotations: Mapping[str, str]
    owners: tuple[WorkloadRef, ...]


def owner_of(raw: Raw, kind: Resource | None = None) -> tuple[OwnerKey, Owner] | None:
    """What is kept of an object that may own pods; None where nothing is worth keeping, as of most.

    Of metadata alone (PartialObjectMetadata) the object does not say its kind: then `kind` does.
    """
    metadata = raw["metadata"]
    group = kind.group if kind is not None else str(raw.get("apiVersion", "")).rpartition("/")[0]
    this = WorkloadRef(sys.intern(group), sys.intern(kind.kind if kind is not None else raw["kind"]), metadata["name"])
    if _told_by_its_name(this, metadata):
        return None
    annotations = {
        sys.intern(name): str(value)
        for name, value in (metadata.get("annotations") or {}).items()
        if name.startswith(_ANNOTATION_PREFIXES)
    }
    owners = tuple(
        WorkloadRef(sys.intern(ref["apiVersion"].rpartition("/")[0]), sys.intern(ref["kind"]), ref["name"])
        for ref in metadata.get("ownerReferences") or ()
    )
    if not annotations and not owners:
        return None
    return (sys.intern(metadata.get("namespace") or ""), this), Owner(annotations or NO_ANNOTATIONS, owners)


def _told_by_its_name(this: WorkloadRef, metadata: Raw) -> bool:
    """A ReplicaSet of a Deployment or Rollout: its name tells the owner, whose annotations it only copies. A cluster
    has ten times as many of them as of everything else.
    """
    labels = metadata.get("labels") or {}
    digits = labels.get(POD_TEMPLATE_HASH) or labels.get(ROLLOUTS_POD_TEMPLATE_HASH)
    owner = next((ref for ref in metadata.get("ownerReferences") or () if ref.get("controller")), None)
    return this.kind == "ReplicaSet" and owner is not None and this.name == f"{owner['name']}-{digits}"
