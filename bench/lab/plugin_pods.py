"""vLLM pods as a scraper sees them: the plugin's own pages, in every form it has, without a vLLM behind them."""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_plugin import names
from vllm_plugin.exporter import Exporter, _Server

MIB = 1 << 20
_HOOKS = ("kv_cache_manager", "lookup", "admission", "free", "reuse", "worker", "engine_args", "exporter")


@dataclass
class PluginPod:
    """One engine on one GPU, and what it has counted so far. `served` gives it a port; then it can be counted on."""

    name: str
    blocks: int = 4096
    block_bytes: int = 2 * MIB
    block_tokens: int = 16
    weights_bytes: int = 16 << 30
    overhead_bytes: int = 2 << 30
    total_bytes: int = 80 << 30
    floor_blocks: int = 257
    demand_blocks: int = 0
    requests: int = 0
    lookup_tokens: int = 0
    hit_tokens: int = 0
    preemptions: int = 0
    admissions_blocked: int = 0
    hooks_off: tuple[str, ...] = ()
    reuse: list[int] = field(default_factory=lambda: [0] * (len(names.REUSE_BUCKET_BOUNDS) + 1))
    port: int = 0

    @property
    def uid(self) -> str:
        """The pod's UID, made of its name."""
        return f"uid-of-{self.name}"

    def look_up(self, distances: Iterable[int | None], requests: int = 1) -> None:
        """Full blocks looked up by some requests. Each at its distance in usable blocks; None: never seen before."""
        found = list(distances)
        for distance in found:
            if distance is None:
                self.reuse[-1] += 1
            else:
                self.reuse[bisect_left(names.REUSE_BUCKET_BOUNDS, (distance + 1) * self.block_bytes)] += 1
        self.requests += requests
        self.lookup_tokens += len(found) * self.block_tokens
        self.hit_tokens += sum(one is not None and one < self.blocks for one in found) * self.block_tokens

    def report(self) -> dict[str, Any]:
        """What the processes of its vLLM would have reported together."""
        capacity = self.blocks * self.block_bytes
        held = self.demand_blocks * self.block_bytes
        engine = {
            "engine": 0,
            "server": "lab",
            "block_bytes": self.block_bytes,
            "block_tokens": self.block_tokens,
            "capacity_bytes": capacity,
            "floor_bytes": self.floor_blocks * self.block_bytes,
            "active_bytes": held,
            "active_peak_bytes": held,
            "demand_peak_bytes": held,
            "reusable_bytes": capacity - held,
            "headroom_bytes": 0,
            "asleep": 0,
            "requests": self.requests,
            "lookup_tokens": self.lookup_tokens,
            "hit_tokens": self.hit_tokens,
            "preemptions": self.preemptions,
            "admissions_blocked": self.admissions_blocked,
            "reuse_counts": list(self.reuse),
            "reuse_sum_bytes": 0,
            "info": {"vllm_version": "0.32.0", "model": "lab/llama", "override": names.OVERRIDE_NONE},
        }
        worker = {
            "engine": 0,
            "rank": 0,
            "server": "lab",
            "weights_bytes": self.weights_bytes,
            "capacity_bytes": capacity,
            "block_bytes": self.block_bytes,
            "total_bytes": self.total_bytes,
            "allocated_bytes": self.weights_bytes + self.overhead_bytes + capacity,
            "overhead_bytes": {
                component: self.overhead_bytes if component == "other" else 0 for component in names.OVERHEAD_COMPONENTS
            },
        }
        hooks: Mapping[str, Any] = {
            name: {"seconds": 0.25, "errors": 0, "active": name not in self.hooks_off} for name in _HOOKS
        }
        about = {"pid": os.getpid(), "version": names.VERSION, "loaded_from": "lab", "pod_uid": self.uid}
        return {**about, "engines": [engine], "workers": [worker], "hooks": hooks}

    @contextlib.contextmanager
    def served(self) -> Iterator[int]:
        """The plugin's exporter on a port of all addresses, for the length of the block; the port."""
        server = _Server(self.port, Exporter(self.report).page)
        self.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name=f"page of {self.name}", daemon=True)
        thread.start()
        try:
            yield self.port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
