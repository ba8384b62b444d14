"""Is a workload automated, and by which policy? The objects in the store, read with tolerance for invalid ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

from pydantic import ValidationError

from recommender.api.automation import Automation, resolve_automation
from recommender.api.object_store import ObjectReader
from recommender.api.objects import ApiObject, InvalidObjectError
from recommender.api.owner_groups import CustomOwnerGroup
from recommender.api.policies import (
    CLUSTER_AUTOMATION_NAME,
    AutomatedNamespace,
    ClusterAutomation,
    PolicySpec,
    VLLMPolicy,
)
from recommender.readings import Readings

logger = logging.getLogger(__name__)

_Kind = TypeVar("_Kind", bound=ApiObject)


@dataclass(frozen=True)
class ResolvedPolicy:
    """A policy that holds. `spec` is None where there is none; `fault` says what is wrong, also where the last valid
    spec goes on; `missing`, that there is no such object."""

    name: str
    spec: PolicySpec | None
    fault: str | None = None
    missing: bool = False

    @cached_property
    def digest(self) -> str:
        """Changes whenever the policy does: sizes asked for under one are not compared with those under another."""
        return "" if self.spec is None else digest_of(self.spec)

    @cached_property
    def text(self) -> str:
        """The spec as JSON, equal for equal specs; empty where there is none."""
        return "" if self.spec is None else _canonical(self.spec)


def _canonical(spec: PolicySpec) -> str:
    return json.dumps(spec.to_json(), sort_keys=True)


@lru_cache(maxsize=1024)
def digest_of(spec: PolicySpec) -> str:
    """Equal for equal specs, and short."""
    return hashlib.sha256(_canonical(spec).encode()).hexdigest()[:16]


class Resolver:
    """Reads the objects that decide about workloads, by `readings`. Remembers the last valid spec of each policy, at
    first that of `last_valid`: JSON by name."""

    def __init__(self, store: ObjectReader, last_valid: Mapping[str, str], readings: Readings | None = None) -> None:
        self._store = store
        self._readings = readings or Readings()
        self._last_read: dict[tuple[str, str], ApiObject] = {}
        self._faults: dict[tuple[str, str], str] = {}
        self._resolved: dict[str, ResolvedPolicy] = {}
        self._last_valid: dict[str, PolicySpec] = {}
        for name, spec in last_valid.items():
            # Another release may have written it; then there is no last valid one.
            with contextlib.suppress(ValidationError):
                self._last_valid[name] = PolicySpec.model_validate_json(spec)

    def automation(
        self, namespace: str, pod_annotations: Mapping[str, str], workload_annotations: Mapping[str, str]
    ) -> Automation:
        """What `resolve_automation` says of one workload."""
        of_namespace = self._read(AutomatedNamespace, namespace)
        of_cluster = self._read(ClusterAutomation, CLUSTER_AUTOMATION_NAME)
        return resolve_automation(
            pod_annotations,
            workload_annotations,
            of_namespace.spec if of_namespace else None,
            of_cluster.spec if of_cluster else None,
        )

    def owner_groups(self) -> Sequence[CustomOwnerGroup]:
        """The workloads that only the user knows of."""
        of_cluster = self._read(ClusterAutomation, CLUSTER_AUTOMATION_NAME)
        return (of_cluster.spec.custom_owner_groups or ()) if of_cluster else ()

    def policy(self, name: str) -> ResolvedPolicy:
        """The policy called `name`; where its object is invalid, the last valid spec with the fault."""
        raw = self._store.get(VLLMPolicy.KIND, None, name)
        if raw is None:
            return ResolvedPolicy(name, None, f"there is no VLLMPolicy {name}: create it, or name another", True)
        fault: str | None = None
        spec: PolicySpec | None
        try:
            spec = self._last_valid[name] = self._readings.read(VLLMPolicy, raw).spec
        except InvalidObjectError as error:
            spec, fault = self._last_valid.get(name), str(error)
        before = self._resolved.get(name)
        if before is None or before.spec is not spec or before.fault != fault:
            before = self._resolved[name] = ResolvedPolicy(name, spec, fault)
        return before

    def automation_fault(self, kind: type[ApiObject], name: str) -> tuple[str | None, bool]:
        """What is wrong with an AutomatedNamespace or ClusterAutomation, and whether what it said before goes on."""
        self._read(kind, name)
        return self._faults.get((kind.KIND, name)), (kind.KIND, name) in self._last_read

    def _read(self, kind: type[_Kind], name: str) -> _Kind | None:
        raw = self._store.get(kind.KIND, None, name)
        if raw is None:
            # What another one by that name says when it comes has nothing to do with this one.
            self._last_read.pop((kind.KIND, name), None)
            return None
        try:
            found = self._readings.read(kind, raw)
        except InvalidObjectError as error:
            before = self._last_read.get((kind.KIND, name))
            if self._faults.get((kind.KIND, name)) != str(error):
                self._faults[kind.KIND, name] = str(error)
                logger.warning("%s; %s", error, "what it said before goes on" if before else "it counts as absent")
            return before if isinstance(before, kind) else None
        self._last_read[kind.KIND, name] = found
        self._faults.pop((kind.KIND, name), None)
        return found
