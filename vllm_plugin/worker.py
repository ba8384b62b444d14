"""One rank's memory: weights, pool, overhead and what vLLM claims in all; read from the worker's attributes."""

from __future__ import annotations

import math
import os
import sys
import weakref
from typing import Any

from vllm_plugin import geometry, override
from vllm_plugin.names import OVERHEAD_COMPONENTS


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
        self._resident_bytes: int | None = None
        self._reserved_bytes: int | None = None

    def note_resident(self) -> None:
        """The CPU worker is about to subtract its resident size from what it may claim: note it as vLLM sees it."""
        with open("/proc/self/statm", encoding="ascii") as statm:
            self._resident_bytes = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def note_reserved(self) -> None:
        """The worker has warmed up: note what torch holds for this process, CUDA graphs' pools included.

        What is free on the device would tell of neighbours too.
        """
        worker: Any = self._worker()
        kind = str(getattr(worker.vllm_config.device_config, "device_type", ""))
        device: Any = getattr(sys.modules["torch"], kind, None)
        self._reserved_bytes = int(device.memory_reserved(worker.device)) if hasattr(device, "memory_reserved") else 0

    def alive(self) -> bool:
        """False once vLLM has dropped the worker."""
        return self._worker() is not None

    def report(self) -> dict[str, Any] | None:
        """All figures in bytes; None until the pool is allocated, or for a model that keeps none, loaded."""
        worker: Any = self._worker()
        runner = getattr(worker, "model_runner", None)
        if runner is None:
            return None
        config = getattr(runner, "kv_cache_config", None)
        if config is None or self._is_loading(runner):
            return None
        capacity = geometry.storage_bytes(geometry.tensors_in(getattr(runner, "kv_caches", ())))
        weights = self._weights(runner)
        total = self._total(worker)
        components = self._components(worker)
        cache = worker.cache_config
        allocated: int | None = None
        if (
            geometry.first_attribute(cache, "kv_cache_memory_bytes", "num_gpu_blocks_override") is None
            and total is not None
        ):
            allocated = self._requested(worker, total)
        else:
            # vLLM ignores the utilization then, so what it claims is what it took.
            overhead = self._overhead(weights, capacity, components)
            if overhead is not None:
                allocated = weights + capacity + max(overhead, sum(components.values()))
        if allocated is None:
            components = {}
        else:
            components["other"] = max(allocated - weights - capacity - sum(components.values()), 0)
        blocks = int(config.num_blocks)
        return {
            "rank": self.rank,
            "weights_bytes": weights,
            "capacity_bytes": capacity,
            "block_bytes": capacity // blocks if blocks else 0,
            "total_bytes": total,
            "allocated_bytes": allocated,
            "overhead_bytes": components,
        }

    def _is_loading(self, runner: Any) -> bool:
        groups = getattr(runner.kv_cache_config, "kv_cache_groups", ())
        return bool(groups) and not getattr(runner, "kv_caches", None)

    def _weights(self, runner: Any) -> int:
        if self.on_cpu:
            from vllm_plugin.hooks.weights import cpu_weight_bytes

            packed_before = cpu_weight_bytes()
            if packed_before:
                return packed_before
        used = getattr(runner, "model_memory_usage", None)
        return int(used) if used else geometry.model_bytes(runner.model)

    def _total(self, worker: Any) -> int | None:
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

    @staticmethod
    def _components(worker: Any) -> dict[str, int]:
        activations = int(getattr(worker, "peak_activation_memory", 0) or 0)
        graphs = int(getattr(worker, "cudagraph_memory_estimate", 0) or 0)
        if hasattr(worker, "total_consumed"):
            # Since 0.27 the activations' peak contains the graphs' estimate.
            activations = max(activations - graphs, 0)
        non_torch = int(getattr(worker, "non_torch_memory", 0) or 0)
        return dict(zip(OVERHEAD_COMPONENTS, (activations, graphs, non_torch, 0)))

    def _overhead(self, weights: int, capacity: int, components: dict[str, int]) -> int | None:
        """What this rank took besides weights and pool, where vLLM did not measure it; None while not known."""
        if self.on_cpu:
            return max((self._resident_bytes or 0) - weights, 0)
        if self._reserved_bytes is None:
            return None
        return max(self._reserved_bytes - weights - capacity, 0) + components["non_torch"]
