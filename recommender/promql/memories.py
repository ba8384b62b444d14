"""What is no interval and must not be lost with the cache: said as metrics of our own, and read back from their past.

Which pod belonged to which workload, what sizing asked for, what was recommended, and the last valid spec of each
policy. The labels are none that service discovery writes, so that they stay as they are, whoever scrapes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from recommender.api.workloads import WorkloadRef
from recommender.intervals import interval_seconds
from recommender.keys import WorkloadKey
from recommender.promql.answers import PromSeries
from recommender.promql.asking import Asking
from recommender.promql.directory import POD_LABELS, KnownPod, labels_of
from recommender.promql.queries import POD_INFO
from recommender.samples import LARGEST_BYTES
from recommender.standings import Memory, Standing
from recommender.windows import ROLLING_PARTS
from vllm_plugin.names import PREFIX

CANDIDATE = PREFIX + "recommender_candidate_bytes"
OWN_POOL = PREFIX + "recommender_own_pool_bytes"
RECOMMENDED_POOL = PREFIX + "recommender_recommended_pool_bytes"
POLICY_INFO = PREFIX + "recommender_policy_info"

_WORKLOAD_LABELS = ("target_namespace", "owner_group", "owner_kind", "owner_name", "target_container", "fingerprint")
_POLICY = "policy"
_POLICY_NAME, _SPEC = "policy_name", "spec"

_LOOKING_BACK = (1000, 100, 10, 1)
"""Parts of a window: what was shown within a shorter one is newer."""
_Found = TypeVar("_Found")
_Key = tuple[WorkloadKey, str]
"""A workload and a fingerprint."""


@dataclass
class Recalled:
    """What was read back. `policies`: specs as JSON by name."""

    memories: list[Memory] = field(default_factory=list)
    policies: dict[str, str] = field(default_factory=dict)


class Memories(Collector):
    """Shows what is to be remembered on our own page."""

    def __init__(self) -> None:
        self._pods: tuple[KnownPod, ...] = ()
        self._last: dict[_Key, Memory] = {}
        self._policies: Mapping[str, str] = {}

    def show(self, pods: Iterable[KnownPod], workloads: Iterable[WorkloadKey]) -> None:
        """The pods that live now, and the workloads that still count."""
        self._pods = tuple(pods)
        known = set(workloads)
        self._last = {key: one for key, one in self._last.items() if key[0] in known}

    def remember(self, memory: Memory) -> None:
        key = (memory.workload, memory.fingerprint)
        before = self._last.get(key)
        if memory.standing is None and before is not None:
            # One that says nothing of it changes nothing of it.
            memory = replace(memory, standing=before.standing)
        self._last[key] = memory

    def note_policies(self, policies: Mapping[str, str]) -> None:
        self._policies = policies

    def collect(self) -> Iterator[Metric]:
        pods = GaugeMetricFamily(
            POD_INFO, "A pod with the plugin, and the workload that it belongs to.", None, POD_LABELS
        )
        for pod in self._pods:
            pods.add_metric(labels_of(pod), 1)
        yield pods
        of_workload = [*_WORKLOAD_LABELS, _POLICY]
        candidates = GaugeMetricFamily(CANDIDATE, "The KV cache that sizing asked for last.", None, of_workload)
        own = GaugeMetricFamily(
            OWN_POOL, "The KV cache that the workload's own arguments make.", None, _WORKLOAD_LABELS
        )
        recommended = GaugeMetricFamily(RECOMMENDED_POOL, "The KV cache recommended last.", None, of_workload)
        for (workload, fingerprint), memory in self._last.items():
            labels = _workload_labels(workload, fingerprint)
            if memory.candidate_bytes is not None:
                candidates.add_metric([*labels, memory.policy], memory.candidate_bytes)
            standing = memory.standing
            if standing is not None:
                own.add_metric(labels, standing.own_bytes)
                if standing.recommended_bytes is not None:
                    recommended.add_metric([*labels, standing.policy or ""], standing.recommended_bytes)
        yield from (candidates, own, recommended)
        policies = GaugeMetricFamily(POLICY_INFO, "The last valid spec of a policy.", None, [_POLICY_NAME, _SPEC])
        for name, spec in self._policies.items():
            policies.add_metric([name, spec], 1)
        yield policies


class Recollection:
    """Reads back what `Memories` showed, this process' or another's. Its methods raise `QueryError`."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def standings(self, now: float, window_seconds: float) -> Recalled:
        """What was recommended last, and the policies' specs."""
        own = await self._newest(OWN_POOL, now, window_seconds, _key_of)
        recommended = await self._newest(RECOMMENDED_POOL, now, window_seconds, _key_of)
        policies = await self._newest(POLICY_INFO, now, window_seconds, lambda labels: labels.get(_POLICY_NAME))
        recalled = Recalled()
        for key, one in own.items():
            last = recommended.get(key)
            size = _size(last) if last is not None else None
            policy = last.labels.get(_POLICY) if last is not None else None
            standing = Standing(_size(one) or 0, size, policy or None)
            recalled.memories.append(Memory(*key, policy or "", now, None, now, standing, now + window_seconds))
        specs = {name: series.labels.get(_SPEC, "") for name, series in policies.items()}
        recalled.policies = {name: spec for name, spec in specs.items() if _is_json(spec)}
        return recalled

    async def candidates(self, end: float, window_seconds: float) -> Recalled:
        """The most that sizing asked for in the interval that ended then."""
        recalled, expires = Recalled(), end + window_seconds / ROLLING_PARTS

        def take(series: PromSeries) -> None:
            key, size = _key_of(series.labels), _size(series)
            if key is not None and size is not None:
                policy = series.labels.get(_POLICY, "")
                recalled.memories.append(Memory(*key, policy, end, size, expires, None, expires))

        await self._asking.own(CANDIDATE, end, interval_seconds(window_seconds), "max_over_time", take)
        return recalled

    async def _newest(
        self, metric: str, now: float, window_seconds: float, key_of: Callable[[Mapping[str, str]], _Found | None]
    ) -> dict[_Found, PromSeries]:
        """The series that was there last of each key: other processes, and other labels, leave older ones behind."""
        found: dict[_Found, PromSeries] = {}
        for part in _LOOKING_BACK:
            lately: dict[_Found, PromSeries] = {}

            def take(series: PromSeries, lately: dict[_Found, PromSeries] = lately) -> None:
                key = key_of(series.labels)
                if key is not None:
                    lately[key] = series

            await self._asking.own(metric, now, window_seconds / part, "last_over_time", take)
            found = lately | found
        return found


def _workload_labels(workload: WorkloadKey, fingerprint: str) -> list[str]:
    owner = workload.workload
    return [workload.namespace, owner.group, owner.kind, owner.name, workload.container, fingerprint]


def _key_of(labels: Mapping[str, str]) -> _Key | None:
    namespace, group, kind, name, container, fingerprint = (labels.get(label, "") for label in _WORKLOAD_LABELS)
    if not (namespace and kind and name and fingerprint):
        return None
    return WorkloadKey(namespace, WorkloadRef(group, kind, name), container), fingerprint


def _size(series: PromSeries) -> int | None:
    value = series.samples[-1][1]
    return round(value) if isinstance(value, float) and 0 <= value <= LARGEST_BYTES else None


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
