"""Which pods carry the plugin, whose are they, and where is its page? Read from the object store; no network."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from recommender.api.automation import flag
from recommender.api.fingerprints import fingerprint
from recommender.api.object_store import ObjectStore, Raw
from recommender.api.plugin_wheel import plugin_config_map, plugin_map_name
from recommender.api.workloads import WorkloadRef, workload_of
from recommender.keys import WorkloadKey
from recommender.vllm_servers import vllm_container, vllm_port
from vllm_plugin.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_EXCLUDE,
    DEFAULT_PORT,
    ENV_PORT,
    ENV_PREFIX,
    LABEL_INJECT,
    LABEL_INJECTED,
)

logger = logging.getLogger(__name__)

_ENABLED = "enabled"
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class Pod:
    """A pod that runs vLLM, with the plugin that the webhook put into it, or without.

    `address` is host and port of the plugin's page, None while the pod does not run. `failure` says why its vLLM
    container ended last, where it ended with an error and is not ready since.
    """

    key: WorkloadKey
    name: str
    uid: str
    fingerprint: str
    address: tuple[str, int] | None
    created_at: float
    ready: bool
    applied: bool
    failure: str | None
    annotations: Mapping[str, str]
    vllm_address: tuple[str, int] | None = None
    """Host and port of vLLM's own page, where that can be told."""

    @property
    def identity(self) -> tuple[str, str, str]:
        return (self.key.namespace, self.name, self.uid)


def injected_pods(store: ObjectStore) -> list[Pod]:
    """Every pod with our label that lives or should; one that cannot be understood is passed over with a warning."""
    found: list[Pod] = []
    for raw in store.list("Pod"):
        try:
            labels = raw["metadata"].get("labels") or {}
            if labels.get(LABEL_INJECTED):
                pod = _pod(raw, _vllm_container(raw))
                if not _is_over(raw, pod):
                    found.append(pod)
        except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
            logger.warning("pod %s is passed over: %s: %s", _name(raw), type(error).__name__, error)
    return found


def bare_pods(store: ObjectStore) -> list[Pod]:
    """Pods of opted-in namespaces that seem to serve with vLLM, but without the plugin: they were there before the
    opt-in, or nothing could be injected. Their `address` is None."""
    found: list[Pod] = []
    namespaces = set(_opted_in(store))
    for raw in store.list("Pod"):
        try:
            metadata = raw["metadata"]
            if metadata.get("namespace") not in namespaces or (metadata.get("labels") or {}).get(LABEL_INJECTED):
                continue
            container = vllm_container(raw)
            if container is not None and not _is_excluded(store, raw):
                pod = replace(_pod(raw, container), address=None)
                if pod.vllm_address is not None and not _is_over(raw, pod):
                    found.append(pod)
        except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
            logger.warning("pod %s is passed over: %s: %s", _name(raw), type(error).__name__, error)
    return found


def _opted_in(store: ObjectStore) -> Iterator[str]:
    """The namespaces whose pods the webhook sees."""
    for namespace in store.list("Namespace"):
        metadata = namespace["metadata"]
        if (metadata.get("labels") or {}).get(LABEL_INJECT) == _ENABLED:
            yield metadata["name"]


def _is_excluded(store: ObjectStore, pod: Raw) -> bool:
    workload = workload_of(pod)
    owner = store.get(workload.kind, pod["metadata"].get("namespace"), workload.name) or {}
    levels = [(raw.get("metadata") or {}).get("annotations") or {} for raw in (pod, owner)]
    return any(flag(annotations.get(ANNOTATION_EXCLUDE)) for annotations in levels)


def _is_over(raw: Raw, pod: Pod) -> bool:
    """Is it going or gone? A pod that failed by itself counts: its arguments may be why."""
    status = raw.get("status") or {}
    if raw["metadata"].get("deletionTimestamp") or status.get("phase") == "Succeeded":
        return True
    # A reason stands there where others ended the pod: evicted, preempted, its node shut down.
    return status.get("phase") == "Failed" and (pod.failure is None or bool(status.get("reason")))


def owner_of(store: ObjectStore, key: WorkloadKey) -> Raw | None:
    """The workload's object, where the store holds it."""
    return store.get(key.workload.kind, key.namespace, key.workload.name)


def ensure_plugin(store: ObjectStore) -> int:
    """Put the plugin's ConfigMap into every namespace that opted in; how many were written."""
    written = 0
    for namespace in _opted_in(store):
        # It is named by its content and immutable: one that is there is the right one.
        if store.get("ConfigMap", namespace, plugin_map_name()) is None:
            written += store.apply(plugin_config_map(namespace))
    return written


def _pod(raw: Raw, container: Raw) -> Pod:
    metadata, status = raw["metadata"], raw.get("status") or {}
    workload: WorkloadRef = workload_of(raw)
    annotations = dict(metadata.get("annotations") or {})
    state = _container_state(status, container["name"])
    ready = bool(state.get("ready", _is_ready(status)))
    return Pod(
        key=WorkloadKey(metadata.get("namespace") or "default", workload, container["name"]),
        name=metadata["name"],
        # Only a real API server gives uids.
        uid=metadata.get("uid") or metadata.get("creationTimestamp") or "",
        fingerprint=fingerprint(raw, container["name"]),
        address=_address(status, _plugin_port(container)),
        created_at=_seconds(metadata.get("creationTimestamp") or status.get("startTime")),
        ready=ready,
        applied=ANNOTATION_APPLIED in annotations,
        failure=None if ready else _failure(state),
        annotations=annotations,
        vllm_address=_address(status, vllm_port(container)),
    )


def _vllm_container(raw: Raw) -> Raw:
    """The container that carries the plugin's environment."""
    spec = raw.get("spec") or {}
    containers: list[Raw] = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    with_port = [one for one in containers if _environment(one).get(ENV_PORT) is not None]
    with_any = [one for one in containers if any(name.startswith(ENV_PREFIX) for name in _environment(one))]
    chosen = with_port or with_any
    if not chosen:
        raise LookupError(f"it is labelled {LABEL_INJECTED}, but no container has {ENV_PORT}")
    return chosen[0]


def _environment(container: Raw) -> dict[str, str | None]:
    return {variable["name"]: variable.get("value") for variable in container.get("env") or ()}


def _plugin_port(container: Raw) -> int:
    port = int(_environment(container).get(ENV_PORT) or DEFAULT_PORT)
    if not 0 < port <= _LARGEST_PORT:
        raise ValueError(f"{ENV_PORT}={port} is no port")
    return port


def _address(status: Raw, port: int | None) -> tuple[str, int] | None:
    host = status.get("podIP")
    if status.get("phase") != "Running" or not host or port is None:
        return None
    return str(host), port


def _container_state(status: Raw, name: str) -> Raw:
    states = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return next((state for state in states if state.get("name") == name), {})


def _is_ready(status: Raw) -> bool:
    conditions: list[dict[str, Any]] = status.get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _failure(state: Raw) -> str | None:
    for when in ("state", "lastState"):
        ended = (state.get(when) or {}).get("terminated")
        if ended and ended.get("exitCode"):
            said = " ".join(str(ended.get("message") or ended.get("reason") or "").split())
            return f"exit code {ended['exitCode']}" + (f": {said}" if said else "")
    return None


def _seconds(timestamp: str | None) -> float:
    if not timestamp:
        return 0.0
    return datetime.fromisoformat(timestamp).timestamp()


def _name(raw: Raw) -> str:
    metadata = raw.get("metadata") or {}
    return f"{metadata.get('namespace')}/{metadata.get('name')}"
