"""What the webhook knows: an immutable snapshot that answers every request from memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from recommender.api.automation import Automation, resolve_automation
from recommender.api.objects import InvalidObjectError
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
from vllm_plugin.names import GROUP

logger = logging.getLogger(__name__)

Raw = dict[str, Any]
T = TypeVar("T")

WORKLOAD_KINDS = (
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "Job",
    "CronJob",
    "Rollout",
    "LeaderWorkerSet",
    "InferenceService",
)
_ANNOTATION_PREFIXES = (f"{GROUP}/", "scaleops.sh/")


class Source(Protocol):
    """What knowledge is read from; an `ObjectStore` is one."""

    def list(self, kind: str, namespace: str | None = None) -> list[Raw]: ...


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


RecommendationKey = tuple[str, WorkloadRef, str]


@dataclass(frozen=True)
class Knowledge:
    """Recommendations by namespace, workload and container; who automates what; what workloads say about themselves."""

    recommendations: Mapping[RecommendationKey, Recommended] = field(default_factory=dict)
    namespaces: Mapping[str, AutomatedNamespaceSpec] = field(default_factory=dict)
    cluster: ClusterAutomationSpec | None = None
    dry_run_policies: frozenset[str] = frozenset()
    workload_annotations: Mapping[tuple[str, WorkloadRef], Mapping[str, str]] = field(default_factory=dict)

    def recommended(self, namespace: str, workload: WorkloadRef, container: str) -> Recommended | None:
        return self.recommendations.get((namespace, workload, container))

    def automation(self, namespace: str, workload: WorkloadRef, pod_annotations: Mapping[str, str]) -> Automation:
        """What applies to a pod of `workload`, everything that is said about it taken together."""
        return resolve_automation(
            pod_annotations,
            self.workload_annotations.get((namespace, workload), {}),
            self.namespaces.get(namespace),
            self.cluster,
        )

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
        annotated = [pair for kind in WORKLOAD_KINDS for pair in self._all(kind, _annotated)]
        return Knowledge(
            recommendations=dict(self._all("VLLMRecommendation", _recommended)),
            namespaces={
                obj.metadata.name: obj.spec for obj in self._all("AutomatedNamespace", AutomatedNamespace.from_json)
            },
            cluster=clusters.get(CLUSTER_AUTOMATION_NAME),
            dry_run_policies=frozenset(obj.metadata.name for obj in policies if obj.spec.mode == "DryRun"),
            workload_annotations={key: annotations for key, annotations in annotated if annotations},
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


def _recommended(raw: Raw) -> tuple[RecommendationKey, Recommended]:
    recommendation = VLLMRecommendation.from_json(raw)
    status, target = recommendation.status, recommendation.status.target
    degraded = recommendation.condition(DEGRADED)
    sizes = status.gpu_memory_total_bytes
    reference = recommendation.spec.target_ref
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
    )
    return (recommendation.metadata.namespace or "", reference.workload, reference.container), value


def _annotated(raw: Raw) -> tuple[tuple[str, WorkloadRef], dict[str, str]]:
    metadata = raw["metadata"]
    group = str(raw.get("apiVersion", "")).rpartition("/")[0]
    annotations = {
        name: str(value)
        for name, value in (metadata.get("annotations") or {}).items()
        if name.startswith(_ANNOTATION_PREFIXES)
    }
    return (metadata.get("namespace") or "", WorkloadRef(group, raw["kind"], metadata["name"])), annotations
