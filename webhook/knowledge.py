"""What the webhook knows: it answers every request from memory."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from recommender.api.automation import Automation, resolve_automation
from recommender.api.objects import InvalidObjectError
from recommender.api.owners import WORKLOAD_KINDS, Owner, OwnerKey, Ownership
from recommender.api.policies import (
    CLUSTER_AUTOMATION_NAME,
    AutomatedNamespace,
    AutomatedNamespaceSpec,
    ClusterAutomation,
    ClusterAutomationSpec,
    VLLMPolicy,
)
from recommender.api.recommendations import DEGRADED, VLLMRecommendation
from recommender.api.workloads import WorkloadRef
from webhook.owners import owner_of

logger = logging.getLogger(__name__)

Raw = dict[str, Any]
T = TypeVar("T")


class Source(Protocol):
    """What knowledge is read from; an `ObjectStore` is one."""

    def list(self, kind: str, namespace: str | None = None) -> list[Raw]: ...


RecommendationKey = tuple[str, WorkloadRef, str]


@dataclass(frozen=True, slots=True)
class Recommended:
    """The part of a recommendation that admission needs; small, because there are thousands."""

    name: str
    fingerprint: str | None
    paused: bool
    degraded: str | None
    has_target: bool
    kv_bytes: int
    utilization: str
    allocation_bytes: int
    one_gpu_size: bool
    vllm_version: str | None
    largest_gpu_bytes: int = 0
    """Of the GPUs that the workload was seen on."""
    claim_template: str | None = None


@dataclass(frozen=True)
class Knowledge:
    """Recommendations by namespace, workload and container; who automates what; what owners of pods say, and who owns
    them. The mappings may be live ones: what is read between two awaits belongs together.
    """

    recommendations: Mapping[RecommendationKey, Recommended] = field(default_factory=dict)
    namespaces: Mapping[str, AutomatedNamespaceSpec] = field(default_factory=dict)
    cluster: ClusterAutomationSpec | None = None
    dry_run_policies: frozenset[str] = frozenset()
    owners: Mapping[OwnerKey, Owner] = field(default_factory=dict)

    @property
    def ownership(self) -> Ownership:
        """Whose pods there are."""
        return Ownership(self.owners, (self.cluster.custom_owner_groups or ()) if self.cluster is not None else ())

    def workload(self, namespace: str, pod: Raw) -> WorkloadRef:
        """Whose pod this is: the user's owner groups come first."""
        return self.ownership.workload(namespace, pod)

    def recommended(self, namespace: str, workload: WorkloadRef, container: str) -> Recommended | None:
        return self.recommendations.get((namespace, workload, container))

    def automation(self, namespace: str, workload: WorkloadRef, pod_annotations: Mapping[str, str]) -> Automation:
        """What applies to a pod of `workload`, everything that is said about it taken together."""
        return resolve_automation(
            pod_annotations,
            self.ownership.annotations(namespace, workload),
            self.namespaces.get(namespace),
            self.cluster,
        )

    def excluded(self, namespace: str, pod: Raw) -> bool:
        """Whether an owner of the pod is, also one below its workload: a CronJob's Job, a group's StatefulSet."""
        return self.ownership.excluded(namespace, pod)

    def only_shown(self, automation: Automation) -> bool:
        """Changes are to be shown, not made: the cluster or the workload's policy says DryRun."""
        return automation.dry_run or automation.policy in self.dry_run_policies


class KnowledgeReader:
    """Builds snapshots from a source.

    An object that cannot be understood is passed over with one warning; what it said before holds on.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._last_good: dict[tuple[str, str, str], Any] = {}
        self._warned: dict[tuple[str, str, str], str] = {}

    def read(self) -> Knowledge:
        clusters = {obj.metadata.name: obj.spec for obj in self._all("ClusterAutomation", ClusterAutomation.from_json)}
        policies = self._all("VLLMPolicy", VLLMPolicy.from_json)
        owners = [owner for kind in WORKLOAD_KINDS for owner in self._all(kind, owner_of) if owner is not None]
        return Knowledge(
            recommendations=dict(self._all("VLLMRecommendation", recommended_of)),
            namespaces={
                obj.metadata.name: obj.spec for obj in self._all("AutomatedNamespace", AutomatedNamespace.from_json)
            },
            cluster=clusters.get(CLUSTER_AUTOMATION_NAME),
            dry_run_policies=frozenset(obj.metadata.name for obj in policies if obj.spec.mode == "DryRun"),
            owners=dict(owners),
        )

    def _all(self, kind: str, parse: Callable[[Raw], T]) -> list[T]:
        values: list[T] = []
        present: set[tuple[str, str, str]] = set()
        for raw in self._source.list(kind):
            metadata = raw.get("metadata") or {}
            key = (kind, str(metadata.get("namespace")), str(metadata.get("name")))
            present.add(key)
            try:
                value = parse(raw)
            except (InvalidObjectError, AttributeError, KeyError, TypeError, ValueError) as error:
                self._warn(key, error)
                if key in self._last_good:
                    values.append(self._last_good[key])
                continue
            self._last_good[key] = value
            self._warned.pop(key, None)
            values.append(value)
        for known in (self._last_good, self._warned):
            for key in [key for key in known if key[0] == kind and key not in present]:
                known.pop(key, None)
        return values

    def _warn(self, key: tuple[str, str, str], error: Exception) -> None:
        if self._warned.get(key) == str(error):
            return
        self._warned[key] = str(error)
        held = "what it said before holds on" if key in self._last_good else "it is passed over"
        logger.warning("%s %s/%s cannot be understood, %s: %s", *key, held, error)


def recommended_of(raw: Raw) -> tuple[RecommendationKey, Recommended]:
    """What is kept of a VLLMRecommendation, and what it is for. Raises `InvalidObjectError`."""
    recommendation = VLLMRecommendation.from_json(raw)
    status, target = recommendation.status, recommendation.status.target
    degraded = recommendation.condition(DEGRADED)
    sizes = status.gpu_memory_total_bytes
    reference = recommendation.spec.target_ref
    # Few different ones stand in thousands of objects.
    group, kind, container = (sys.intern(text) for text in (reference.group, reference.kind, reference.container))
    value = Recommended(
        name=recommendation.metadata.name,
        fingerprint=status.fingerprint,
        paused=recommendation.spec.paused,
        degraded=degraded.reason if degraded is not None and degraded.status == "True" else None,
        has_target=target is not None,
        kv_bytes=target.kv_bytes if target is not None else 0,
        utilization=target.gpu_memory_utilization if target is not None else "",
        allocation_bytes=target.allocation_bytes if target is not None else 0,
        one_gpu_size=sizes is not None and sizes.min == sizes.max,
        vllm_version=status.measured.vllm_version if status.measured is not None else None,
        largest_gpu_bytes=sizes.max if sizes is not None else 0,
        claim_template=status.claim_template,
    )
    namespace = sys.intern(recommendation.metadata.namespace or "")
    return (namespace, WorkloadRef(group, kind, reference.name), container), value
