"""Which pods run vLLM, with our plugin or without, whose are they, and where are their pages? Pure.

Who a pod is, and whose, is told by the API server's objects alone; whatever stands on its page changes nothing of it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from recommender.api.automation import flag
from recommender.api.fingerprints import fingerprint
from recommender.api.launches import UNKNOWN_LAUNCH, Launch, launch_of, listed
from recommender.api.object_store import ObjectReader, ObjectStore, Raw
from recommender.api.owner_groups import CustomOwnerGroup
from recommender.api.owners import ANNOTATION_PREFIXES, WORKLOAD_KINDS, Owner, OwnerKey, Ownership, read_owner
from recommender.api.plugin_wheel import plugin_config_map, plugin_map_name
from recommender.api.scopes import Scope, is_mirror
from recommender.api.sharing import WHOLE_GPU, amounts_of
from recommender.api.workloads import WorkloadRef, workload_of
from recommender.keys import WorkloadKey
from recommender.vllm_servers import vllm_containers, vllm_port
from vllm_plugin.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_EXCLUDE,
    ANNOTATION_SKIPPED,
    DEFAULT_PORT,
    ENV_PORT,
    ENV_PREFIX,
    LABEL_INJECTED,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

Identity = tuple[str, str, str, str]
"""Of a container: its pod's namespace, name and UID, and its own name."""

_LARGEST_PORT = 65535

REFUSED = "Refused"
"""The webhook left the pod without the plugin, and says why."""
NOT_ADMITTED = "NotAdmitted"
"""The webhook never saw the pod."""


@dataclass(frozen=True)
class Missing:
    """Why a pod has no plugin: a reason for programs, and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True)
class Pod:
    """A container of a pod that runs vLLM, with the plugin that the webhook put into it, or without.

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
    """Those that we read."""
    vllm_address: tuple[str, int] | None = None
    """Host and port of vLLM's own page, where that can be told."""
    launch: Launch = UNKNOWN_LAUNCH
    """What decides how a size reaches it."""
    missing: Missing | None = None
    """Why it has no plugin; None where it has one."""
    owner: WorkloadRef | None = None
    """The object whose annotations count for it; the workload itself, unless that is a group of the user's own."""
    excluded: bool = False
    """Whether it or an owner says so."""
    started_at: float | None = None
    """Since when the container runs; once it was restarted, since when the pod's node has it. None: it waits for its
    first start, for a node, an image, or an init container."""

    @property
    def began(self) -> float:
        """Since when it could do anything: since its container started, or where that is not told, since it was made.
        In seconds since the epoch, as all times here."""
        return self.created_at if self.started_at is None else self.started_at

    @property
    def identity(self) -> Identity:
        return (self.key.namespace, self.name, self.uid, self.key.container)


@dataclass(frozen=True)
class SeenPod:
    """What is kept of a pod object: its vLLM containers, as the object alone tells whose they are, and what else tells
    it: labels and owner references.
    """

    namespace: str
    engines: tuple[Pod, ...]
    """None of a pod that only holds GPUs."""
    metadata: Raw
    node: str = ""
    gpus: tuple[tuple[str, int], ...] = ()
    """Whole GPUs that each of its containers holds; those without are left out."""


@dataclass(frozen=True)
class Census:
    """The pods of a cluster that may run vLLM, and what decides whose they are, at one moment."""

    pods: Sequence[SeenPod] = ()
    opted_in: Collection[str] = ()
    """The namespaces whose pods the webhook sees."""
    owners: Mapping[OwnerKey, Owner] = field(default_factory=dict)


@dataclass(frozen=True)
class Discovery:
    """All vLLM containers that count: those with the plugin, and those that seem to be ones and are without it."""

    injected: tuple[Pod, ...]
    bare: tuple[Pod, ...]
    ownership: Ownership


def discover(census: Census, groups: Sequence[CustomOwnerGroup] = ()) -> Discovery:
    """The pods of opted-in namespaces with their workloads, `groups` being those that the user made.

    A label that somebody writes on a pod elsewhere makes nothing of it. Of pods without the plugin none counts that is
    excluded.
    """
    ownership = Ownership(census.owners, groups)
    injected: list[Pod] = []
    bare: list[Pod] = []
    for seen in census.pods:
        if not seen.engines or seen.namespace not in census.opted_in:
            continue
        metadata = {"metadata": seen.metadata}
        excluded = ownership.any_excluded and ownership.excluded(seen.namespace, metadata)
        workload = ownership.workload(seen.namespace, metadata) if groups else None
        for engine in seen.engines:
            pod = engine
            if workload is not None and workload != pod.key.workload:
                pod = replace(pod, key=pod.key._replace(workload=workload))
            if excluded and not pod.excluded:
                pod = replace(pod, excluded=True)
            if pod.missing is None:
                injected.append(pod)
            elif not pod.excluded:
                bare.append(pod)
    return Discovery(tuple(injected), tuple(bare), ownership)


def census_of(store: ObjectReader, scope: Scope = Scope.OPT_IN, own: str | None = None) -> Census:
    """Read from a store, without the namespace `own` of our servers; a pod that cannot be understood is passed over
    with a warning."""
    owners = (owner for kind in WORKLOAD_KINDS for owner in _understood(store.list(kind), read_owner))
    return Census(
        tuple(_understood(store.list("Pod"), seen_pod)),
        frozenset(_understood(store.list("Namespace"), functools.partial(opted_in, scope=scope, own=own))),
        dict(owners),
    )


def _understood(raws: Iterable[Raw], keep: Callable[[Raw], T | None]) -> Iterable[T]:
    for raw in raws:
        try:
            kept = keep(raw)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            metadata = raw.get("metadata") or {}
            name = f"{metadata.get('namespace')}/{metadata.get('name')}"
            kind = str(raw.get("kind", "")).lower()
            logger.warning("%s %s is passed over: %s: %s", kind, name, type(error).__name__, error)
            continue
        if kept is not None:
            yield kept


def opted_in(namespace: Raw, scope: Scope = Scope.OPT_IN, own: str | None = None) -> str | None:
    """Its name, where the webhook sees its pods; None also where it is being deleted, and takes nothing new."""
    metadata = namespace["metadata"]
    name = str(metadata["name"])
    covered = scope.covers(name, metadata.get("labels") or {}, own)
    return name if covered and not metadata.get("deletionTimestamp") else None


def seen_pod(raw: Raw) -> SeenPod | None:
    """What is kept of a pod object; None where it neither runs vLLM nor holds GPUs. One that is going runs none.

    Raises ValueError, KeyError, TypeError or AttributeError where it cannot be understood.
    """
    metadata = raw["metadata"]
    containers = _containers_with_plugin(raw) if (metadata.get("labels") or {}).get(LABEL_INJECTED) else []
    engines = [_pod(raw, container) for container in containers]
    if not engines:
        missing = _missing(metadata)
        found = [replace(_pod(raw, container), address=None, missing=missing) for container in vllm_containers(raw)]
        engines = [pod for pod in found if pod.vllm_address is not None]
    # As the webhook does, which cannot change a mirror pod.
    living = () if is_mirror(metadata) else tuple(pod for pod in engines if not _is_over(raw, pod))
    gpus = _held_gpus(raw)
    if not living and not gpus:
        return None
    named = ("name", "labels", "ownerReferences") if living else ("name",)
    kept = {name: metadata[name] for name in named if metadata.get(name)}
    namespace, node = metadata.get("namespace") or "default", (raw.get("spec") or {}).get("nodeName") or ""
    return SeenPod(namespace, living, kept, node, gpus)


def _held_gpus(raw: Raw) -> tuple[tuple[str, int], ...]:
    if (raw.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return ()
    spec = raw.get("spec") or {}
    # Other init containers give theirs back before the pod serves anything.
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    asked = (
        (str(container.get("name")), str(amounts_of(container).get(WHOLE_GPU, "0")))
        for container in [*(spec.get("containers") or ()), *sidecars]
    )
    return tuple((name, int(amount)) for name, amount in asked if amount.isdecimal() and int(amount))


def _missing(metadata: Raw) -> Missing:
    """Why a pod has no plugin."""
    said = (metadata.get("annotations") or {}).get(ANNOTATION_SKIPPED)
    if said:
        return Missing(REFUSED, str(said))
    return Missing(
        NOT_ADMITTED,
        "the pod runs without the plugin: it started before its namespace opted in, or while the webhook did not "
        "answer; a new one gets it",
    )


def _is_over(raw: Raw, pod: Pod) -> bool:
    """Is it going or gone? A pod that failed by itself counts: its arguments may be why."""
    status = raw.get("status") or {}
    if raw["metadata"].get("deletionTimestamp") or status.get("phase") == "Succeeded":
        return True
    # A reason stands there where others ended the pod: evicted, preempted, its node shut down.
    return status.get("phase") == "Failed" and (pod.failure is None or bool(status.get("reason")))


def ensure_plugin(store: ObjectStore, namespaces: Collection[str]) -> int:
    """Put the plugin's ConfigMap into each of these namespaces; how many were written."""
    written = 0
    for namespace in namespaces:
        # It is named by its content and immutable: one that is there is the right one.
        if store.get("ConfigMap", namespace, plugin_map_name()) is None:
            written += store.apply(plugin_config_map(namespace))
    return written


def _pod(raw: Raw, container: Raw) -> Pod:
    metadata, status = raw["metadata"], raw.get("status") or {}
    workload = workload_of(raw)
    annotations = {
        name: str(value)
        for name, value in (metadata.get("annotations") or {}).items()
        if name.startswith(ANNOTATION_PREFIXES)
    }
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
        # Of two engines in a pod one may have been left as it is.
        applied=bool(listed(annotations, ANNOTATION_APPLIED).get(container["name"])),
        failure=None if ready else _failure(state),
        annotations=annotations,
        vllm_address=_address(status, vllm_port(container)),
        launch=launch_of(raw, container["name"]),
        owner=workload,
        excluded=bool(flag(annotations.get(ANNOTATION_EXCLUDE))),
        started_at=_started_at(status, state),
    )


def _containers_with_plugin(raw: Raw) -> list[Raw]:
    """The containers that carry the plugin's environment; each has a port of its own."""
    spec = raw.get("spec") or {}
    containers: list[Raw] = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    with_port = [one for one in containers if _environment(one).get(ENV_PORT) is not None]
    with_any = [one for one in containers if any(name.startswith(ENV_PREFIX) for name in _environment(one))]
    return with_port or with_any[:1]


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


def _started_at(status: Raw, state: Raw) -> float | None:
    now = state.get("state") or {}
    own = now.get("running") or now.get("terminated") or {}
    # After a restart the first start is not told any more; before the first one images may still be pulled.
    began = status.get("startTime") if state.get("restartCount") else own.get("startedAt")
    return _seconds(began) if began else None


def _seconds(timestamp: str | None) -> float:
    if not timestamp:
        return 0.0
    return datetime.fromisoformat(timestamp).timestamp()
