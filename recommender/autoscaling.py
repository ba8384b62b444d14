"""Autoscalers that a change of the pool misleads. The usage of vLLM's KV cache rises when the pool is made smaller, and
replicas with it; the GPU memory in use, which vLLM claims at its start and which follows no load, falls.

An adapter may show a metric to HorizontalPodAutoscalers under any name; only vLLM's own names are known here, and those
of the exporters of GPU memory that people use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from recommender.api.apiserver.resources import Resource
from recommender.api.object_store import ObjectReader, Raw
from recommender.api.owners import OwnerKey, Ownership
from recommender.api.workloads import WorkloadRef

AUTOSCALERS = (
    Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Resource("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
)

_WORD = r"(?<![\w:])[\w:]*"
"""How a name begins; only at its beginning, so that a long one takes no longer than it is."""
_POOL_USAGE = re.compile(rf"{_WORD}(?:kv|gpu)_cache_usage_perc")
"""vLLM's names of it, in newer and in older releases."""
_GPU_MEMORY = re.compile(
    rf"""{_WORD}(?:
      dcgm(?:_fi_dev)?_fb_(?:used|free)                         # dcgm-exporter, and its release 1
    | nvidia_smi_(?:mig_|fb_)?memory_(?:usage_)?(?:used|free)   # nvidia_gpu_exporter, CloudWatch's agent
    | gpu_memory_(?:used|free)                                  # nvidia_gpu_prometheus_exporter, HAMi
    | (?:container|pod|node)_gpu_memory_utilization             # CloudWatch's Container Insights
    | vgpu_(?:device_)?memory_us(?:ed|age) | hostgpumemoryusage # HAMi
    | accelerator[_/|]memory_used                               # cAdvisor, GKE, and its adapter for autoscalers
    )[\w:]*""",
    re.VERBOSE | re.IGNORECASE,
)
"""What is in use of a GPU's memory, or free of it. Its total never changes, and how busy it is (`MEM_COPY_UTIL`) is
something else."""
_NEITHER = (None, None)


@dataclass(frozen=True)
class Autoscaler:
    """One that goes by the usage of the pool, by GPU memory, or by both; each metric as it is called there."""

    kind: str
    name: str
    pool_usage: str | None = None
    gpu_memory: str | None = None


def essence(raw: Raw, resource: Resource) -> Raw | None:
    """What is kept of an autoscaler that a change of the pool misleads; None of any other."""
    if _metrics(raw["spec"]) == _NEITHER:
        return None
    metadata = {name: raw["metadata"][name] for name in ("name", "namespace")}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": raw["spec"]}


def autoscalers_of(
    store: ObjectReader, ownership: Ownership, warn: Callable[[str], None]
) -> dict[OwnerKey, tuple[Autoscaler, ...]]:
    """Those in the store that a change of the pool misleads, by whom they scale and by everybody above: what KServe's
    scale is a Deployment below the InferenceService. `warn` is told of each that cannot be understood."""
    found: dict[OwnerKey, tuple[Autoscaler, ...]] = {}
    for resource in AUTOSCALERS:
        for raw in store.list(resource.kind):
            name, namespace = raw["metadata"].get("name"), raw["metadata"].get("namespace") or "default"
            try:
                metrics = _metrics(raw["spec"])
                target = _target(raw["spec"]["scaleTargetRef"])
            except (AttributeError, KeyError, TypeError) as error:
                warn(f"{resource.kind} {namespace}/{name} is passed over: {type(error).__name__}: {error}")
                continue
            if metrics != _NEITHER:
                autoscaler = Autoscaler(resource.kind, str(name), *metrics)
                for one in _with_owners(namespace, target, ownership):
                    found[namespace, one] = (*found.get((namespace, one), ()), autoscaler)
    return found


def _metrics(spec: Raw) -> tuple[str | None, str | None]:
    """The first that is the usage of the pool, and the first that is GPU memory."""
    texts = list(_texts(spec))
    return _first(_POOL_USAGE, texts), _first(_GPU_MEMORY, texts)


def _first(metric: re.Pattern[str], texts: Sequence[str]) -> str | None:
    found = (metric.search(text) for text in texts)
    return next((match[0] for match in found if match is not None), None)


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
