"""One rank's memory: weights, pool, overhead and what vLLM claims in all; read from the worker's attributes."""

from __future__ import annotations

import math
import os
import sys
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vllm_plugin import geometry, override, releases
from vllm_plugin.names import OVERHEAD_COMPONENTS, OVERRIDE_APPLIED, OVERRIDE_RAISED

_WEIGHTS, _KV_CACHE = "weights", "kv_cache"
"""vLLM's own tags for what it lets go of in its sleep."""

_PLENTY = 1 << 52


def _kept_for_pictures(vllm_config: Any) -> int:
    """Bytes that vLLM takes off what would become KV cache, by its own rule; 0 where it has none."""
    keep_back = getattr(sys.modules.get("vllm.multimodal.gpu_ipc_memory"), "reserve_mm_ipc_gpu_memory", None)
    multimodal = getattr(getattr(vllm_config, "model_config", None), "multimodal_config", None)
    if keep_back is None or multimodal is None:
        return 0
    servers = getattr(getattr(vllm_config, "parallel_config", None), "_api_process_count", 1)
    return _PLENTY - int(keep_back(_PLENTY, multimodal, servers))


class WorkerTracker:
    """Looks at one worker whenever it is asked, without keeping it alive.

    What differs between vLLM's releases (see the attributes read in `_components` and `_requested`) is found by
    looking: an attribute that is missing counts into the overhead's `other`.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = weakref.ref(worker)
        self.vllm_config: Any = worker.vllm_config
        self.outcome = override.recall(os.environ) or override.Outcome()
        self.rank = int(getattr(worker, "rank", 0))
        self.on_cpu = str(getattr(worker.vllm_config.device_config, "device_type", "")) == "cpu"
        self._elastic = override.kvcached(os.environ)
        self._resident_bytes: int | None = None
        self._total_bytes: int | None = None
        self._reserved_bytes: int | None = None
        self._available_bytes: int | None = None
        self._graph_bytes: int | None = None
        self._gone: set[str] = set()

    # --- What happens to the worker -----------------------------------------------------------------------------

    def note_available(self, available: int) -> None:
        """The worker has found out how many bytes may become KV cache; none or fewer than none are possible."""
        self._available_bytes = int(available)
        self._resident_bytes = self._resident()

    def shortfall(self) -> int | None:
        """What is left for the KV cache of a size that the plugin set, where nothing is; else None.

        For workers that refuse that by themselves: the CPU's, of a utilization, which contains its resident size; and
        since 0.32 any that keeps back memory for decoding pictures.
        """
        kv_bytes = getattr(self.vllm_config.cache_config, "kv_cache_memory_bytes", None)
        worker: Any = self._worker()
        if not self._set_here() or (self.on_cpu and kv_bytes is not None):
            return None
        if self.on_cpu:
            left = int(worker.requested_cpu_memory) - self._resident()
        else:
            had = kv_bytes if kv_bytes is not None else worker.available_kv_cache_memory_bytes
            left = int(had) - _kept_for_pictures(self.vllm_config)
        return left if left <= 0 else None

    def note_graphs(self, graph_bytes: Any) -> None:
        """CUDA graphs were captured."""
        self._graph_bytes = int(graph_bytes) if graph_bytes else 0

    def note_warm(self) -> None:
        """The worker has warmed up: note what torch holds for this process, CUDA graphs' pools included.

        What is free on the device would tell of neighbours too.
        """
        worker: Any = self._worker()
        if self.on_cpu:
            if self._available_bytes is None:
                # A model without KV cache: nothing was measured before.
                self._resident_bytes = self._resident()
            return
        kind = str(getattr(worker.vllm_config.device_config, "device_type", ""))
        device: Any = getattr(sys.modules["torch"], kind, None)
        self._reserved_bytes = int(device.memory_reserved(worker.device)) if hasattr(device, "memory_reserved") else 0

    def note_sleep(self, *_: Any, **__: Any) -> None:
        """Weights and KV cache were taken off the device."""
        self._gone = {_WEIGHTS, _KV_CACHE}

    def note_wake(self, tags: Iterable[str] | None = None) -> None:
        """All of it is back, or what has these tags."""
        self._gone = self._gone - set(tags) if tags else set()

    def note_discard(self, tags: Iterable[str]) -> None:
        """What has these tags was taken off the device."""
        self._gone = self._gone | set(tags)

    # --- What is there ---------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """False once vLLM has dropped the worker."""
        return self._worker() is not None

    def report(self) -> dict[str, Any] | None:
        """All figures in bytes; None until the pool is allocated, or for a model that keeps none, loaded."""
        worker: Any = self._worker()
        runner = getattr(worker, "model_runner", None)
        config, tensors = releases.config_of_worker(worker), releases.kv_tensors(worker)
        # vLLM lets go of its model when it is shut down, and the process may live on.
        if config is None or getattr(runner, "model", runner) is None or self._is_loading(config, tensors):
            return None
        weights, total = self._weights(runner), self._total(worker)
        found: dict[str, Any] = {
            "rank": self.rank,
            "weights_bytes": weights,
            "total_bytes": total,
            "overhead_bytes": {},
        }
        if self._elastic:
            return found
        pool = geometry.storage_bytes(geometry.tensors_in(tensors))
        blocks = int(config.num_blocks)
        added = self._added(config)
        components = self._components(worker, weights)
        reserved = 0 if self.on_cpu else _kept_for_pictures(self.vllm_config)
        allocated: int | None = None
        if total is not None and pool and self._by_utilization(worker.cache_config):
            allocated = self._requested(worker, total) + added
        else:
            # vLLM ignores the utilization then, so what it claims is what it took.
            overhead = self._overhead(worker, weights, pool)
            if overhead is not None:
                allocated = weights + pool + reserved + max(overhead, sum(components.values()))
        if allocated is None:
            components = {}
        else:
            components["other"] = max(allocated - weights - pool - sum(components.values()), 0)
            allocated -= (weights if _WEIGHTS in self._gone else 0) + (pool if _KV_CACHE in self._gone else 0)
        return {
            **found,
            "weights_bytes": 0 if _WEIGHTS in self._gone else weights,
            "capacity_bytes": 0 if _KV_CACHE in self._gone else pool,
            "reserved_bytes": reserved or None,
            "block_bytes": pool // blocks if blocks else 0,
            "allocated_bytes": allocated,
            "overhead_bytes": components,
        }

    @staticmethod
    def _by_utilization(cache: Any) -> bool:
        return geometry.first_attribute(cache, "kv_cache_memory_bytes", "num_gpu_blocks_override") is None

    def _set_here(self) -> bool:
        of_ours = self.outcome.state in (OVERRIDE_APPLIED, OVERRIDE_RAISED)
        return of_ours and self.outcome.decides(self.vllm_config.cache_config)

    def _added(self, config: Any) -> int:
        """Bytes by which the engine core raised the pool above what this worker had left for it."""
        latest = override.recall(os.environ)
        if latest is not None and latest.server == self.outcome.server:
            # Where the engine core lives in this process it has told.
            self.outcome = latest
        if self._available_bytes is None or not self._set_here():
            return 0
        pool = geometry.pool_bytes(config)
        added = max(pool - self._available_bytes, 0)
        if added and self.outcome.state != OVERRIDE_RAISED:
            kv_bytes = self.outcome.applied_kv_bytes
            size = pool if self._by_utilization(self.vllm_config.cache_config) or kv_bytes is None else kv_bytes + added
            self.outcome = replace(self.outcome, state=OVERRIDE_RAISED, raised_kv_bytes=size)
        return added

    @staticmethod
    def _is_loading(config: Any, tensors: Any) -> bool:
        return bool(geometry.first_attribute(config, "kv_cache_tensors", "tensors")) and not tensors

    def _weights(self, runner: Any) -> int:
        if self.on_cpu:
            from vllm_plugin.hooks.weights import cpu_weight_bytes

            packed_before = cpu_weight_bytes()
            if packed_before:
                return packed_before + geometry.storage_bytes(geometry.lora_slots(runner.model))
        used = getattr(runner, "model_memory_usage", None)
        return int(used) if used else geometry.model_bytes(runner.model)

    def _total(self, worker: Any) -> int | None:
        if self._total_bytes is None:
            # Once: on the CPU vLLM asks a program of the system for it.
            self._total_bytes = self._device_total(worker)
        return self._total_bytes

    def _device_total(self, worker: Any) -> int:
        snapshot = getattr(worker, "init_snapshot", None)
        if snapshot is not None:
            return int(snapshot.total_memory)
        platform = sys.modules["vllm.platforms"].current_platform
        device = worker.local_rank
        if self.on_cpu:
            # There the device is the memory node of the first core that this process may use.
            cpus = getattr(sys.modules.get("vllm.v1.worker.cpu_worker"), "get_allowed_cpu_list", None)
            device = cpus()[0].numa_node if cpus is not None else 0
        return int(platform.get_device_total_memory(device))

    @staticmethod
    def _requested(worker: Any, total: int) -> int:
        requested = geometry.first_attribute(worker, "requested_memory", "requested_cpu_memory")
        if requested is not None:
            return int(requested)
        return math.ceil(total * float(worker.cache_config.gpu_memory_utilization))

    def _components(self, worker: Any, weights: int) -> dict[str, int]:
        activations = int(getattr(worker, "peak_activation_memory", 0) or 0)
        estimate = int(getattr(worker, "cudagraph_memory_estimate", 0) or 0)
        graphs = estimate if self._graph_bytes is None else self._graph_bytes
        non_torch = int(getattr(worker, "non_torch_memory", 0) or 0)
        consumed = getattr(worker, "total_consumed", None)
        if consumed is not None:
            # Since 0.27 the activations' peak contains the graphs' estimate where it is taken off the KV cache, and
            # what is neither weights nor activations is told together with the weights.
            envs = sys.modules.get("vllm.envs")
            if getattr(envs, "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", True):
                activations = max(activations - estimate, 0)
            non_torch = max(int(consumed) - weights, 0)
        return dict(zip(OVERHEAD_COMPONENTS, (activations, graphs, non_torch, 0)))

    def _overhead(self, worker: Any, weights: int, pool: int) -> int | None:
        """What this rank took besides weights and pool, where vLLM did not measure it; None while not known."""
        if self.on_cpu:
            # Noted before there was a pool.
            return None if self._resident_bytes is None else max(self._resident_bytes - weights, 0)
        if self._reserved_bytes is None:
            return None
        non_torch = int(getattr(worker, "non_torch_memory", 0) or 0)
        return max(self._reserved_bytes - weights - pool, 0) + non_torch

    @staticmethod
    def _resident() -> int:
        """Bytes of this process in memory, as the CPU worker counts them."""
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
