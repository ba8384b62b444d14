"""Who owns a pod, and what do its owners say? One answer for webhook and recommender, from objects that each has read.

What a cluster has of owners is kept small: our annotations on them, and their own owners.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from recommender.api.apiserver.resources import Resource
from recommender.api.automation import flag
from recommender.api.owner_groups import CustomOwnerGroup
from recommender.api.workloads import (
    POD_TEMPLATE_HASH,
    ROLLOUTS_POD_TEMPLATE_HASH,
    WorkloadRef,
    owners_above,
    workload_of,
)
from vllm_plugin.names import ANNOTATION_EXCLUDE, GROUP

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
ANNOTATION_PREFIXES = (f"{GROUP}/", "scaleops.sh/")
"""Beginnings of the annotations that we read."""


@dataclass(frozen=True, slots=True)
class Owner:
    """An object that owns pods, or owns owners of pods: our annotations on it, and its own owners."""

    annotations: Mapping[str, str]
    owners: tuple[WorkloadRef, ...]
    api_version: str = ""
    uid: str = ""
    """Empty where nobody asked for it."""


def read_owner(raw: Raw, kind: Resource | None = None) -> tuple[OwnerKey, Owner] | None:
    """What is kept of an object that may own pods; None of a ReplicaSet whose name tells all that there is to know.

    Of metadata alone (PartialObjectMetadata) the object does not say its kind: then `kind` does.
    """
    metadata = raw["metadata"]
    version = kind.api_version if kind is not None else str(raw.get("apiVersion", ""))
    name_of_kind = kind.kind if kind is not None else raw["kind"]
    this = WorkloadRef(sys.intern(version.rpartition("/")[0]), sys.intern(name_of_kind), metadata["name"])
    if _told_by_its_name(this, metadata):
        return None
    annotations = {
        sys.intern(name): str(value)
        for name, value in (metadata.get("annotations") or {}).items()
        if name.startswith(ANNOTATION_PREFIXES)
    }
    owners = tuple(
        WorkloadRef(sys.intern(ref["apiVersion"].rpartition("/")[0]), sys.intern(ref["kind"]), ref["name"])
        for ref in metadata.get("ownerReferences") or ()
    )
    owner = Owner(annotations or NO_ANNOTATIONS, owners, sys.intern(version), str(metadata.get("uid") or ""))
    return (sys.intern(metadata.get("namespace") or ""), this), owner


def _told_by_its_name(this: WorkloadRef, metadata: Raw) -> bool:
    """A ReplicaSet of a Deployment or Rollout: its name tells the owner, whose annotations it only copies. A cluster
    has ten times as many of them as of everything else.
    """
    labels = metadata.get("labels") or {}
    digits = labels.get(POD_TEMPLATE_HASH) or labels.get(ROLLOUTS_POD_TEMPLATE_HASH)
    owner = next((ref for ref in metadata.get("ownerReferences") or () if ref.get("controller")), None)
    return this.kind == "ReplicaSet" and owner is not None and this.name == f"{owner['name']}-{digits}"


@dataclass(frozen=True)
class Ownership:
    """Owners by namespace and reference, and the groups that the user made. The mapping may be a live one."""

    owners: Mapping[OwnerKey, Owner] = field(default_factory=dict)
    groups: Sequence[CustomOwnerGroup] = ()

    def workload(self, namespace: str, pod: Raw) -> WorkloadRef:
        """Whose pod this is: the user's owner groups come first."""
        return workload_of(pod, self.groups, lambda ref: self._owners_of(namespace, ref))

    @cached_property
    def any_excluded(self) -> bool:
        """Whether any owner is, as it stood when this was asked first: in most clusters none."""
        return any(flag(owner.annotations.get(ANNOTATION_EXCLUDE)) for owner in self.owners.values())

    def excluded(self, namespace: str, pod: Raw) -> bool:
        """Whether an owner of the pod is, also one below its workload: a CronJob's Job, a group's StatefulSet. Or the
        workload that its labels name and whatever is above that: pods of LeaderWorkerSets and of KServe have it in no
        chain of owners."""
        if flag(self.annotations(namespace, workload_of(pod)).get(ANNOTATION_EXCLUDE)):
            return True
        above = owners_above(pod, lambda ref: self._owners_of(namespace, ref))
        return any(flag(self._said(namespace, ref).get(ANNOTATION_EXCLUDE)) for ref in above)

    def annotations(self, namespace: str, workload: WorkloadRef) -> Mapping[str, str]:
        """What the workload says, and what those above it say where it says nothing; an exclusion holds from anywhere
        above. A Deployment that KServe made has its InferenceService above it.
        """
        said = self._said(namespace, workload)
        seen, level = {workload}, self._owners_of(namespace, workload)
        while level:
            for ref in level:
                above = self._said(namespace, ref)
                if above:
                    excluded = {ANNOTATION_EXCLUDE: "true"} if flag(above.get(ANNOTATION_EXCLUDE)) else {}
                    said = {**above, **said, **excluded}
            seen.update(level)
            level = tuple(up for ref in level for up in self._owners_of(namespace, ref) if up not in seen)
        return said

    def object_of(self, namespace: str, workload: WorkloadRef) -> Raw | None:
        """What identifies the workload's object, as raw JSON; None where it is not known."""
        owner = self.owners.get((namespace, workload))
        if owner is None or not owner.uid:
            return None
        return {
            "apiVersion": owner.api_version,
            "kind": workload.kind,
            "metadata": {"name": workload.name, "namespace": namespace, "uid": owner.uid},
        }

    def _owners_of(self, namespace: str, workload: WorkloadRef) -> tuple[WorkloadRef, ...]:
        owner = self.owners.get((namespace, workload))
        return owner.owners if owner is not None else ()

    def _said(self, namespace: str, workload: WorkloadRef) -> Mapping[str, str]:
        owner = self.owners.get((namespace, workload))
        return owner.annotations if owner is not None else NO_ANNOTATIONS
