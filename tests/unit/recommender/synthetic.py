"""Engines, pods and pages made by hand: what the recommender meets, without vLLM."""

from __future__ import annotations

import contextlib
import json
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import Any

from recommender.api.objects import ObjectMeta
from recommender.api.policies import AutomatedNamespace, AutomatedNamespaceSpec, VLLMPolicy
from recommender.api.workloads import WorkloadRef
from recommender.histograms import BUCKETS, pack
from recommender.intervals import Interval, Series, interval_seconds
from recommender.keys import SeriesKey, WorkloadKey
from recommender.samples import EngineFacts, Rank
from vllm_plugin import names

MiB, GiB = 1 << 20, 1 << 30
BLOCK_BYTES, BLOCK_TOKENS = 2 * MiB, 16
KEY = WorkloadKey("chat", WorkloadRef("apps", "Deployment", "llama"), "vllm")


def buckets_of(distances: Sequence[int | None], block_bytes: int = BLOCK_BYTES) -> list[int]:
    """Blocks per bucket, not cumulative, of looked-up blocks at these distances (usable blocks; None: never seen)."""
    counts = [0] * BUCKETS
    for distance in distances:
        if distance is None:
            counts[-1] += 1
        else:
            counts[bisect_left(names.REUSE_BUCKET_BOUNDS, (distance + 1) * block_bytes)] += 1
    return counts


def packed(distances: Sequence[int | None], block_bytes: int = BLOCK_BYTES) -> int:
    return pack(list(accumulate(buckets_of(distances, block_bytes))))


@dataclass
class SyntheticEngine:
    """An engine whose page can be asked for at any time."""

    blocks: int = 4096
    block_bytes: int = BLOCK_BYTES
    vllm_version: str = "0.32.0"
    weights_bytes: int = 16 * GiB
    overhead_bytes: int = 2 * GiB
    total_bytes: int = 80 * GiB
    reserved_bytes: int = 0
    info: dict[str, str] = field(default_factory=dict)
    """More labels of the engine's info metric."""
    floor_blocks: int = 257
    active_blocks: int = 0
    demand_blocks: int = 0
    requests: int = 0
    lookup_tokens: int = 0
    hit_tokens: int = 0
    preemptions: int = 0
    admissions_blocked: int = 0
    reuse: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def look_up(self, distances: Sequence[int | None], requests: int = 1) -> None:
        """Blocks looked up at these distances, a tenth of a block's tokens besides, as partial tails are."""
        for index, count in enumerate(buckets_of(distances, self.block_bytes)):
            self.reuse[index] += count
        self.requests += requests
        self.lookup_tokens += len(distances) * BLOCK_TOKENS + requests * BLOCK_TOKENS // 2
        self.hit_tokens += sum(d is not None and d < self.blocks for d in distances) * BLOCK_TOKENS

    def page(self) -> str:
        of_engine = '{engine="0"}'
        of_rank = '{engine="0",rank="0"}'
        capacity = self.blocks * self.block_bytes
        lines = [
            f"{names.MODEL_WEIGHTS_BYTES}{of_rank} {self.weights_bytes}",
            f"{names.KV_CACHE_CAPACITY_BYTES}{of_rank} {capacity}",
            f"{names.KV_CACHE_BLOCK_BYTES}{of_rank} {self.block_bytes}",
            f"{names.GPU_MEMORY_TOTAL_BYTES}{of_rank} {self.total_bytes}",
            f"{names.GPU_MEMORY_ALLOCATED_BYTES}{of_rank} {self.weights_bytes + self.overhead_bytes + capacity}",
            f'{names.RUNTIME_OVERHEAD_BYTES}{{engine="0",rank="0",component="other"}} {self.overhead_bytes}',
            f"{names.KV_CACHE_BLOCK_TOKENS}{of_engine} {BLOCK_TOKENS}",
            f"{names.KV_CACHE_ACTIVE_BYTES}{of_engine} {self.active_blocks * self.block_bytes}",
            f"{names.KV_CACHE_ACTIVE_PEAK_BYTES}{of_engine} {self.active_blocks * self.block_bytes}",
            f"{names.KV_CACHE_REUSABLE_BYTES}{of_engine} 0",
            f"{names.KV_DEMAND_PEAK_BYTES}{of_engine} {self.demand_blocks * self.block_bytes}",
            f"{names.KV_FLOOR_BYTES}{of_engine} {self.floor_blocks * self.block_bytes}",
            f"{names.PREEMPTIONS}{of_engine} {self.preemptions}",
            f"{names.ADMISSIONS_BLOCKED}{of_engine} {self.admissions_blocked}",
            f"{names.REQUESTS}{of_engine} {self.requests}",
            f"{names.LOOKUP_TOKENS}{of_engine} {self.lookup_tokens}",
            f"{names.HIT_TOKENS}{of_engine} {self.hit_tokens}",
            f'{names.BUILD_INFO}{{version="0.1.0"}} 1',
            f'{names.ENGINE_INFO}{{engine="0",vllm_version="{self.vllm_version}",model="llama"}} 1',
        ]
        bounds = [repr(bound) for bound in names.REUSE_BUCKET_BOUNDS] + ["+Inf"]
        lines.append(f"# TYPE {names.KV_REUSE_DISTANCE_BYTES} histogram")
        lines += [
            f'{names.KV_REUSE_DISTANCE_BYTES}_bucket{{engine="0",le="{bound}"}} {count}'
            for bound, count in zip(bounds, accumulate(self.reuse), strict=True)
        ]
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def served(page: Callable[[], bytes], status: int = 200) -> Iterator[int]:
    """A real HTTP server on loopback; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def facts(
    blocks: int = 4096,
    block_bytes: int = BLOCK_BYTES,
    floor_blocks: int = 257,
    total_bytes: int = 80 * GiB,
    vllm_version: str = "0.32.0",
) -> EngineFacts:
    capacity = blocks * block_bytes
    rank = Rank("0", 16 * GiB, 2 * GiB, capacity, block_bytes, total_bytes, 18 * GiB + capacity)
    return EngineFacts(vllm_version, "llama", block_bytes, BLOCK_TOKENS, capacity, floor_blocks * block_bytes, (rank,))


def series(
    distances: Sequence[Sequence[int | None]],
    window_seconds: float,
    end: float,
    engine: EngineFacts | None = None,
    pod: str = "llama-0",
    demand_blocks: Sequence[int] | int = 600,
    preemptions: int = 0,
    blocked: int = 0,
    requests: int = 100,
) -> Series:
    """One pod's window that ends at `end`: for each of the last intervals the distances looked up in it."""
    engine = engine or facts()
    seconds = interval_seconds(window_seconds)
    demands = [demand_blocks] * len(distances) if isinstance(demand_blocks, int) else list(demand_blocks)
    intervals = []
    for index, looked_up in enumerate(distances):
        tokens = len(looked_up) * BLOCK_TOKENS
        last = index == len(distances) - 1
        intervals.append(
            Interval(
                start=end - (len(distances) - index) * seconds,
                seconds=seconds,
                covered_seconds=seconds,
                samples=2,
                capacity_bytes=engine.capacity_bytes,
                active_peak_bytes=demands[index] * engine.block_bytes // 2,
                demand_peak_bytes=demands[index] * engine.block_bytes,
                requests=requests,
                lookup_tokens=tokens,
                hit_tokens=sum(d is not None and d < engine.blocks for d in looked_up) * BLOCK_TOKENS,
                preemptions=preemptions if last else 0,
                admissions_blocked=blocked if last else 0,
                reuse=packed(looked_up, engine.block_bytes),
            )
        )
    return Series(SeriesKey(KEY, "f" * 16, pod, "", "0"), engine, tuple(intervals))


def policy_object(name: str = "default", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": names.API_VERSION, "kind": "VLLMPolicy", "metadata": {"name": name}, "spec": spec}


def cluster_objects(policy: str = "default") -> list[dict[str, Any]]:
    """An opted-in namespace with automation, and a Deployment."""
    automation = AutomatedNamespace(
        metadata=ObjectMeta(name=KEY.namespace),
        spec=AutomatedNamespaceSpec(vllm_optimize=True, default_vllm_policy=policy),
    )
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": KEY.namespace, "labels": {names.LABEL_INJECT: "enabled"}},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": KEY.workload.name, "namespace": KEY.namespace, "uid": "d-1", "annotations": {}},
    }
    return [namespace, automation.to_json(), deployment]


def pod_object(
    port: int,
    name: str = "llama-abc-1",
    uid: str = "p-1",
    arguments: Sequence[str] = ("vllm", "serve", "llama"),
    applied: bool = False,
    ready: bool = True,
    created_at: float | None = None,
) -> dict[str, Any]:
    created = datetime.fromtimestamp(created_at, UTC) if created_at is not None else datetime.now(UTC)
    written = json.dumps({KEY.container: ["--kv-cache-memory-bytes=1"]})
    annotations = {names.ANNOTATION_APPLIED: written} if applied else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": KEY.namespace,
            "uid": uid,
            "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "labels": {names.LABEL_INJECTED: "true", "pod-template-hash": "abc"},
            "annotations": annotations,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "llama-abc", "uid": "r-1", "controller": True}
            ],
        },
        "spec": {
            "containers": [
                {"name": "proxy", "image": "envoy"},
                {
                    "name": KEY.container,
                    "image": "vllm/vllm-openai:v0.32.0",
                    "command": list(arguments),
                    "env": [{"name": names.ENV_PORT, "value": str(port)}],
                },
            ]
        },
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def default_policy() -> VLLMPolicy:
    return VLLMPolicy(metadata=ObjectMeta(name="default"))
