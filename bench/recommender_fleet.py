"""A fleet for the recommender: pods that tell what the plugin told in replays of recorded workloads, each a bit else.

Ten pods a workload. Each pod is one of the replays, begun at another hour and with one, two or three times the traffic:
its history is what the recommender would have stored of it, its pages are the plugin's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.cases import cases
from bench.plugin_replay import PluginReplay
from recommender.api.object_store import Raw
from recommender.api.workloads import WorkloadRef
from recommender.histograms import unpack
from recommender.intervals import ClosedInterval, Interval, interval_seconds
from recommender.keys import SeriesKey, WorkloadKey
from recommender.recording import Recorder
from recommender.samples import EngineFacts, EngineSample
from vllm_plugin import formats, names, page

PODS_PER_WORKLOAD = 10
NAMESPACE = "fleet"
WINDOW_SECONDS = 48 * 3600.0
SLOT = interval_seconds(WINDOW_SECONDS)
PERIOD = 30.0
PORT = 9415
PAGES_PER_TEMPLATE = 4
"""Looks at one pod, a period apart."""
_TEMPLATES = 6
_HOOKS = ("kv_cache_manager", "lookup", "admission", "free", "reuse", "worker", "engine_args", "exporter")
_COUNTED = ("requests", "lookup_tokens", "hit_tokens", "preemptions", "admissions_blocked", "reuse")


@dataclass(frozen=True)
class Template:
    """One replay: its intervals of 48 hours, and its last samples."""

    name: str
    facts: EngineFacts
    intervals: tuple[Interval, ...]
    samples: tuple[EngineSample, ...]

    @cached_property
    def pages(self) -> tuple[bytes, ...]:
        """What the plugin answers to the recommender, one look after the other."""
        return tuple(formats.compact(page.families([_snapshot(self.facts, sample)])) for sample in self.samples)


def templates(folder: Path, judge: Path | None = None) -> list[Template]:
    """The first replays of a folder in the judge's format. Raises `JudgeMissingError`."""
    return [_template(case.name, case.referee) for case in cases([folder], judge)[:_TEMPLATES]]


def _template(name: str, referee: Any) -> Template:
    replay = PluginReplay(referee.workload, referee.run(referee.default_blocks))
    key = SeriesKey(WorkloadKey(NAMESPACE, WorkloadRef("apps", "Deployment", name), "vllm"), "", "", "", "0")
    recorder = Recorder(lambda _: None)
    intervals: list[Interval] = []
    samples: list[EngineSample] = []
    until = WINDOW_SECONDS + PAGES_PER_TEMPLATE * PERIOD
    for at, sample in replay.samples(PERIOD, until):
        intervals += (closed.interval for closed in recorder.closed(at))
        recorder.take(key, sample, at, WINDOW_SECONDS, PERIOD)
        samples = [*samples[1 - PAGES_PER_TEMPLATE :], sample]
    return Template(name, replay.facts, tuple(intervals[:96]), tuple(samples))


def _snapshot(facts: EngineFacts, sample: EngineSample) -> dict[str, Any]:
    """One process's snapshot, as the plugin's own code writes it."""
    counters, rank = sample.counters, facts.ranks[0]
    cumulative = unpack(counters.reuse)
    counts = [after - before for before, after in zip((0, *cumulative), cumulative, strict=False)]
    engine = {
        "engine": 0,
        "server": "bench",
        "block_bytes": facts.block_bytes,
        "block_tokens": facts.block_tokens,
        "capacity_bytes": facts.capacity_bytes,
        "blocks": facts.blocks,
        "floor_bytes": facts.floor_bytes,
        "active_bytes": sample.active_bytes,
        "active_peak_bytes": sample.active_peak_bytes,
        "demand_peak_bytes": sample.demand_peak_bytes,
        "reusable_bytes": sample.reusable_bytes,
        "headroom_bytes": 0,
        "asleep": 0,
        "requests": counters.requests,
        "lookup_tokens": counters.lookup_tokens,
        "hit_tokens": counters.hit_tokens,
        "preemptions": counters.preemptions,
        "admissions_blocked": counters.admissions_blocked,
        "reuse_counts": counts,
        "reuse_sum_bytes": 0,
        "info": {"vllm_version": facts.vllm_version, "model": facts.model},
    }
    worker = {
        "engine": 0,
        "rank": 0,
        "server": "bench",
        "weights_bytes": rank.weights_bytes,
        "capacity_bytes": rank.capacity_bytes,
        "block_bytes": rank.block_bytes,
        "total_bytes": rank.total_bytes,
        "allocated_bytes": rank.allocated_bytes,
        "overhead_bytes": dict.fromkeys(names.OVERHEAD_COMPONENTS, rank.overhead_bytes),
    }
    hooks = {name: {"seconds": 1.5, "errors": 0, "active": True} for name in _HOOKS}
    return {"pid": 1, "version": "0.1.0", "loaded_from": "", "engines": [engine], "workers": [worker], "hooks": hooks}


@dataclass(frozen=True)
class FleetPod:
    """Where one pod of the fleet differs from the others."""

    number: int
    template: int
    hours: int
    """Intervals by which its history is turned."""
    times: int
    """Its traffic."""

    @property
    def name(self) -> str:
        return f"{self.workload}-5d8f7-{self.number % PODS_PER_WORKLOAD}"

    @property
    def workload(self) -> str:
        return f"llm-{self.number // PODS_PER_WORKLOAD:05d}"

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-8000-{self.number:012d}"

    @property
    def address(self) -> str:
        """On loopback: all of 127.0.0.0/8 is this machine."""
        return f"127.{1 + (self.number >> 16)}.{self.number >> 8 & 255}.{self.number & 255}"


def fleet_pod(number: int, replays: int) -> FleetPod:
    """Pods of one workload are of one template: the same model on the same card."""
    of_workload = random.Random(number // PODS_PER_WORKLOAD)
    template = of_workload.randrange(replays)
    own = random.Random(number)
    return FleetPod(number, template, own.randrange(96), own.choice((1, 1, 2, 3)))


def number_of(address: str) -> int:
    """The pod's number, from its address."""
    _, high, middle, low = map(int, address.split("."))
    return (high - 1 << 16) + (middle << 8) + low


def closed_intervals(
    pods: Sequence[FleetPod], keys: Sequence[SeriesKey], found: Sequence[Template], place: int, begin: float
) -> list[ClosedInterval]:
    """Interval number `place` of the window that began at `begin`, of every pod."""
    start = begin + place * SLOT
    closed = []
    for pod, key in zip(pods, keys, strict=True):
        template = found[pod.template]
        interval = template.intervals[(place + pod.hours) % len(template.intervals)]
        grown = {name: pod.times * getattr(interval, name) for name in _COUNTED}
        counters = template.samples[0].counters
        closed.append(
            ClosedInterval(
                key,
                template.facts,
                replace(interval, start=start, **grown),
                counters,
                start + SLOT - 1,
                start + WINDOW_SECONDS + 3 * SLOT,
            )
        )
    return closed


def pod_object(pod: FleetPod, port: int) -> Raw:
    """As the API server shows it: a running pod of a Deployment, admitted by the webhook."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": NAMESPACE,
            "uid": pod.uid,
            "creationTimestamp": datetime(2026, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "labels": {names.LABEL_INJECTED: "true", "pod-template-hash": "5d8f7", "app": pod.workload},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{pod.workload}-5d8f7",
                    "uid": "r",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "containers": [
                {
                    "name": "vllm",
                    "image": "vllm/vllm-openai:v0.32.0",
                    "command": ["vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct"],
                    "env": [{"name": names.ENV_PORT, "value": str(port)}],
                }
            ]
        },
        "status": {
            "phase": "Running",
            "podIP": pod.address,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def policy_object(**spec: object) -> Raw:
    """The default policy."""
    return {"apiVersion": names.API_VERSION, "kind": "VLLMPolicy", "metadata": {"name": "default"}, "spec": spec}


def settings() -> list[Raw]:
    """The namespace, automated by the default policy."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {names.LABEL_INJECT: "enabled"}},
        },
        policy_object(),
        {
            "apiVersion": names.API_VERSION,
            "kind": "AutomatedNamespace",
            "metadata": {"name": NAMESPACE},
            "spec": {"vllmOptimize": True, "defaultVllmPolicy": "default"},
        },
    ]


class MemoryStore:
    """Objects as the recommender keeps them from its watches: compact JSON by kind, namespace and name."""

    def __init__(self, objects: Sequence[Raw]) -> None:
        self._objects: dict[tuple[str, str | None, str], bytes] = {}
        self.written = 0
        for obj in objects:
            self.apply(obj)

    def list(self, kind: str, namespace: str | None = None) -> list[Raw]:
        keys = [key for key in self._objects if key[0] == kind and namespace in (None, key[1])]
        return [json.loads(self._objects[key]) for key in keys]

    def get(self, kind: str, namespace: str | None, name: str) -> Raw | None:
        found = self._objects.get((kind, namespace, name))
        return None if found is None else json.loads(found)

    def apply(self, obj: Raw) -> bool:
        metadata = obj["metadata"]
        key = (obj["kind"], metadata.get("namespace"), metadata["name"])
        text = json.dumps(obj).encode()
        if self._objects.get(key) == text:
            return False
        self._objects[key] = text
        self.written += 1
        return True

    def apply_status(self, obj: Raw) -> bool:
        metadata = obj["metadata"]
        current = self.get(obj["kind"], metadata.get("namespace"), metadata["name"])
        return current is not None and self.apply({**current, "status": obj["status"]})

    def delete(self, kind: str, namespace: str | None, name: str) -> bool:
        return self._objects.pop((kind, namespace, name), None) is not None
