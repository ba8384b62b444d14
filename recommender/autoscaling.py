"""Autoscalers that go by the usage of vLLM's KV cache: it rises when the pool is made smaller, and replicas with it.

An adapter may show a metric to HorizontalPodAutoscalers under any name; only vLLM's own names are known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recommender.api.apiserver.resources import Resource
from recommender.api.object_store import ObjectReader, Raw
from recommender.api.owners import OwnerKey, Ownership
from recommender.api.workloads import WorkloadRef

AUTOSCALERS = (
    Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Resource("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
)

_POOL_USAGE = re.compile(r"[\w:]*(?:kv|gpu)_cache_usage_perc")
"""vLLM's names of it, in newer and in older releases."""


@dataclass(frozen=True)
class Autoscaler:
    """One that goes by the usage of the pool; `metric` as it is called there."""

    kind: str
    name: str
    metric: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} by {self.metric}"


def essence(raw: Raw, resource: Resource) -> Raw | None:
    """What is kept of an autoscaler that goes by the usage of the pool; None of any other."""
    if _metric(raw["spec"]) is None:
        return None
    metadata = {name: raw["metadata"][name] for name in ("name", "namespace")}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": raw["spec"]}


def autoscalers_of(
    store: ObjectReader, ownership: Ownership, warn: Callable[[str], None]
) -> dict[OwnerKey, tuple[Autoscaler, ...]]:
    """Those in the store that go by the usage of the pool, by whom they scale and by everybody above: what KServe's
    scale is a Deployment below the InferenceService. `warn` is told of each that cannot be understood."""
    found: dict[OwnerKey, tuple[Autoscaler, ...]] = {}
    for resource in AUTOSCALERS:
        for raw in store.list(resource.kind):
            name, namespace = raw["metadata"].get("name"), raw["metadata"].get("namespace") or "default"
            try:
                metric = _metric(raw["spec"])
                target = _target(raw["spec"]["scaleTargetRef"])
            except (AttributeError, KeyError, TypeError) as error:
                warn(f"{resource.kind} {namespace}/{name} is passed over: {type(error).__name__}: {error}")
                continue
            if metric is not None:
                autoscaler = Autoscaler(resource.kind, str(name), metric)
                for one in _with_owners(namespace, target, ownership):
                    found[namespace, one] = (*found.get((namespace, one), ()), autoscaler)
    return found


def _metric(spec: Raw) -> str | None:
    for text in _texts(spec):
        usage = _POOL_USAGE.search(text)
        if usage is not None:
            return usage[0]
    return None


def _texts(spec: Raw) -> Iterator[str]:
    """Where metrics are named: those of a HorizontalPodAutoscaler, and the queries of a ScaledObject's triggers."""
    for metric in spec.get("metrics") or ():
        for source in metric.values():
            if isinstance(source, dict):
                yield str((source.get("metric") or {}).get("name"))
    for trigger in spec.get("triggers") or ():
        yield from (str(value) for value in (trigger.get("metadata") or {}).values())


def _target(reference: Raw) -> WorkloadRef:
    """KEDA takes a Deployment where nothing else is said."""
    version, kind = reference.get("apiVersion") or "apps/v1", reference.get("kind") or "Deployment"
    return WorkloadRef(version.rpartition("/")[0], str(kind), str(reference["name"]))


def _with_owners(namespace: str, target: WorkloadRef, ownership: Ownership) -> list[WorkloadRef]:
    found = [target]
    for one in found:
        owner = ownership.owners.get((namespace, one))
        found += [above for above in (owner.owners if owner else ()) if above not in found]
    return found
