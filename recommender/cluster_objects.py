"""The recommender's objects on an API server: read from memory, kept by watches; written by and by.

Little is kept of each object, and what is kept is never changed: of a pod what says whose it is and what runs in it, of
owners our annotations and their own owners, of the rest compact JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.mirror import Mirror, kept_in
from recommender.api.apiserver.reflector import Pace, Reflector, Selection
from recommender.api.apiserver.resources import Resource, resource_of
from recommender.api.object_store import Raw
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS, Owner, OwnerKey, read_owner
from recommender.api.policies import AutomatedNamespace, ClusterAutomation, VLLMPolicy
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.scopes import Scope
from recommender.autoscaling import AUTOSCALERS, essence
from recommender.discovery import Census, opted_in, seen_pod
from recommender.object_writes import Key, Step, Write, WritePace, Writer, applied, created, deleted, merged
from recommender.telemetry import Telemetry
from recommender.written_objects import Ahead, key_of, same

logger = logging.getLogger(__name__)

PODS = Resource("", "v1", "pods", "Pod")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
NODES = Resource("", "v1", "nodes", "Node")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
CLAIM_TEMPLATES = Resource("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
RECOMMENDATIONS = resource_of(VLLMRecommendation)
POLICIES = resource_of(VLLMPolicy)
AUTOMATION = tuple(resource_of(model) for model in (AutomatedNamespace, ClusterAutomation))
_OURS = Selection(labels="app.kubernetes.io/managed-by=vllm-rightsizer")
_OPTIONAL = {"may_be_absent": True, "may_be_refused": True}
"""Kinds without which only what is about them is missing: a warning, a claim."""
_WITHOUT = {CONFIG_MAPS.kind: "--no-plugin-maps", CLAIM_TEMPLATES.kind: "--no-gpu-claims"}
_NODE_STATUS = ("capacity", "allocatable")


class ClusterObjects:
    """An `ObjectStore` on an API server, and the pods there.

    There is nothing to be read before `synced`: what has not been listed yet would count as absent. What is written,
    within `writing`, is read back at once, however long the server takes or refuses it.
    """

    def __init__(
        self,
        server: ApiServer,
        telemetry: Telemetry,
        pace: Pace | None = None,
        write_pace: WritePace | None = None,
        instance: str = "",
        scope: Scope = Scope.OPT_IN,
        own: str | None = None,
        *,
        plugin_maps: bool = True,
        gpu_claims: bool = True,
    ) -> None:
        """`own`: the namespace of our servers, None where they run in none. `plugin_maps`, `gpu_claims`: whether the
        ConfigMaps that carry the plugin, and ResourceClaimTemplates, are followed and can be written; without, there
        are none."""
        self._telemetry = telemetry
        self._write_pace = write_pace
        self._instance = instance
        self._revision = 0
        self._owners: dict[OwnerKey, Owner] = {}
        self._pods = Reflector(server, PODS, seen_pod, changed=self._said_anew, pace=pace)
        in_scope = partial(opted_in, scope=scope, own=own)
        self._namespaces = Reflector(server, NAMESPACES, in_scope, changed=self._said_anew, pace=pace)
        kept: dict[Resource, dict[str, Any]] = {
            **{setting: {"changed": self._setting_changed} for setting in (POLICIES, *AUTOMATION)},
            RECOMMENDATIONS: {"changed": self._written_object_changed},
            NODES: {},
            **({CONFIG_MAPS: {"selection": _OURS, "metadata_only": True}} if plugin_maps else {}),
            **{autoscaler: {"changed": self._said_anew, **_OPTIONAL} for autoscaler in AUTOSCALERS},
            **({CLAIM_TEMPLATES: {"selection": _OURS, "metadata_only": True, **_OPTIONAL}} if gpu_claims else {}),
        }
        self._documents: dict[str, Reflector[bytes]] = {
            resource.kind: Reflector(server, resource, partial(_document, resource), pace=pace, **options)
            for resource, options in kept.items()
        }
        owners = (
            Reflector(
                server,
                resource,
                partial(read_owner, kind=resource),
                changed=kept_in(self._owners),
                metadata_only=True,
                may_be_absent=resource in CUSTOM_OWNERS,
                pace=pace,
            )
            for resource in (*BUILT_IN_OWNERS, *CUSTOM_OWNERS)
        )
        self._mirror = Mirror(self._pods, self._namespaces, *self._documents.values(), *owners)
        self._writer: Writer | None = None
        self._ahead: Ahead | None = None

    @property
    def synced(self) -> bool:
        return self._mirror.synced

    @property
    def trouble(self) -> str | None:
        """What is not followed or not written at this moment, in a sentence."""
        writing = self._writer.trouble if self._writer is not None else None
        return "; ".join(trouble for trouble in (self._mirror.trouble, writing) if trouble) or None

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows for the length of the block."""
        async with self._mirror.running():
            yield

    @contextlib.asynccontextmanager
    async def writing(self, server: ApiServer) -> AsyncIterator[None]:
        """What is asked for within the block is written, by the connection `server`. Whatever an earlier block left
        behind is forgotten: others may have written since."""
        self._writer = Writer(server, self._telemetry, self._write_pace)
        self._ahead = Ahead(self._writer, self._instance, lambda kind: self._documents[kind].version)
        try:
            async with self._writer.running():
                yield
        finally:
            self._writer = self._ahead = None

    def census(self) -> Census:
        """The pods and their owners as they are known now."""
        for kind, age in self._mirror.ages().items():
            self._telemetry.watch_age_seconds.labels(kind).set(age)
        for kind, lacking in self._mirror.lacks().items():
            self._telemetry.kinds_refused.labels(kind).set(lacking)
        return Census(
            tuple(self._pods.objects.values()), frozenset(self._namespaces.objects.values()), dict(self._owners)
        )

    def revision(self) -> int:
        """Changes with pods, and with what people say: policies, automation, namespaces that opt in."""
        return self._revision

    def list(self, kind: str, namespace: str | None = None) -> list[Raw]:
        keys = {(kind, *key) for key in self._objects(kind)}
        if self._ahead is not None:
            keys |= self._ahead.keys(kind)
        found = (self._found(key) for key in sorted(keys) if namespace is None or key[1] == namespace)
        return [raw for raw in found if raw is not None]

    def get(self, kind: str, namespace: str | None, name: str) -> Raw | None:
        return self._found((kind, namespace or "", name))

    def apply(self, obj: Raw) -> bool:
        """As of any store; False also where the same is about to be written. Raises PermissionError of a kind that is
        not followed."""
        key = key_of(obj)
        followed = self._documents.get(key[0])
        if followed is None:
            raise PermissionError(f"it was started with {_WITHOUT[key[0]]}")
        if followed.lack is not None:
            raise PermissionError(followed.lack)
        resource = followed.resource
        stands = self._found(key)
        if obj["kind"] != RECOMMENDATIONS.kind:
            # Named by their content: there is nothing to change in one.
            if stands is None and not self._at_work.waits(key):
                self._at_work.put(Write(key, (created(resource.path(key[1]), obj),)))
                return True
            return False
        if stands is not None and all(same(stands.get(part), obj.get(part)) for part in ("spec", "status")):
            return False
        self._write(obj, (_main(resource, obj), _status(resource, obj)))
        return True

    def apply_status(self, obj: Raw) -> bool:
        key = key_of(obj)
        stands = self._found(key)
        if stands is None or same(stands.get("status"), obj["status"]):
            return False
        resource = self._documents[obj["kind"]].resource
        there = self._kept(key) is not None or (self._ahead is not None and self._ahead.is_there(key))
        main = () if there else (_main(resource, stands),)
        self._write({**stands, "status": obj["status"]}, (*main, _status(resource, obj)))
        return True

    def delete(self, kind: str, namespace: str | None, name: str) -> bool:
        key = (kind, namespace or "", name)
        if self._found(key) is None:
            return False
        resource = self._documents[kind].resource
        self._at_work.put(Write(key, (deleted(resource.path(namespace, name)),)))
        return True

    @property
    def _at_work(self) -> Writer:
        assert self._writer is not None, "objects are written within `writing` alone"
        return self._writer

    def _write(self, obj: Raw, steps: tuple[Step, ...]) -> None:
        assert self._ahead is not None, "objects are written within `writing` alone"
        self._ahead.write(obj, steps, self._kept(key_of(obj)))

    def _found(self, key: Key) -> Raw | None:
        ahead = self._ahead.get(key) if self._ahead is not None else None
        return ahead if ahead is not None else self._kept(key)

    def _objects(self, kind: str) -> Mapping[tuple[str, str], bytes]:
        followed = self._documents.get(kind)
        return {} if followed is None else followed.objects

    def _kept(self, key: Key) -> Raw | None:
        text = self._objects(key[0]).get(key[1:])
        return None if text is None else _raw(text)

    def _said_anew(self, _before: object, _after: object) -> None:
        self._revision += 1

    def _setting_changed(self, before: bytes | None, after: bytes | None) -> None:
        self._said_anew(before, after)
        self._written_object_changed(before, after)

    def _written_object_changed(self, before: bytes | None, after: bytes | None) -> None:
        """The watch has caught up with a write, or somebody else has written or deleted."""
        if self._ahead is not None:
            self._ahead.seen(*(None if text is None else _raw(text) for text in (before, after)))


def _raw(text: bytes) -> Raw:
    raw: Raw = json.loads(text)
    return raw


def _document(resource: Resource, raw: Raw) -> bytes | None:
    """What is kept of an object: of Nodes a small part, of autoscalers only those that go by the usage of a pool, of
    the rest all that is not bookkeeping."""
    if resource in AUTOSCALERS:
        conflicting = essence(raw, resource)
        return None if conflicting is None else _compact(conflicting)
    metadata = {name: value for name, value in raw["metadata"].items() if name != "managedFields"}
    kept = {**raw, "metadata": metadata, "apiVersion": resource.api_version, "kind": resource.kind}
    if resource not in (RECOMMENDATIONS, POLICIES, *AUTOMATION):
        # Only of those it must be known whether a write of ours has come back.
        metadata.pop("resourceVersion", None)
    if resource == NODES:
        status: Mapping[str, Any] = raw.get("status") or {}
        kept["metadata"] = {name: metadata[name] for name in ("name", "labels") if name in metadata}
        kept["status"] = {name: status[name] for name in _NODE_STATUS if name in status}
        kept.pop("spec", None)
    return _compact(kept)


def _compact(raw: Raw) -> bytes:
    return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()


def _main(resource: Resource, obj: Raw) -> Step:
    """Everything but the status. Whether a recommendation is paused is for people to say, not for us."""
    metadata = obj["metadata"]
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            name: metadata[name] for name in ("name", "namespace", "labels", "ownerReferences") if metadata.get(name)
        },
        "spec": {"targetRef": obj["spec"]["targetRef"]},
    }
    return applied(resource.path(metadata.get("namespace"), metadata["name"]), body)


def _status(resource: Resource, obj: Raw) -> Step:
    metadata = obj["metadata"]
    path = f"{resource.path(metadata.get('namespace'), metadata['name'])}/status"
    if resource != RECOMMENDATIONS:
        # Server-side apply would have the API server read the rest, too: it cannot where that is what is wrong.
        return merged(path, {"status": obj["status"]})
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {name: metadata[name] for name in ("name", "namespace") if metadata.get(name)},
        "status": obj["status"],
    }
    return applied(path, body)
