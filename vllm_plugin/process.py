"""What this process has to show: its pools, workers and hooks. The first of them starts the exporter."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm_plugin import override
from vllm_plugin.guard import Hook, hook, hooks
from vllm_plugin.names import VERSION

if TYPE_CHECKING:
    from vllm_plugin.pool import PoolTracker
    from vllm_plugin.worker import WorkerTracker


class Process:
    """The tracked objects of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pools: list[PoolTracker] = []
        self.workers: list[WorkerTracker] = []
        self._lock = threading.Lock()
        self._exporting = False

    def export(self) -> None:
        """Start the exporter's thread, once. Not at registration: that also runs in processes that measure nothing."""
        from vllm_plugin.exporter import Exporter

        with self._lock:
            if not self._exporting:
                self._exporting = True
                Exporter(self.report).start()

    def report(self) -> dict[str, Any]:
        """This process's snapshot as plain values; engines and workers without figures yet are left out."""
        pools = [pool for pool in list(self.pools) if pool.alive()]
        workers = [worker for worker in list(self.workers) if worker.alive()]
        return {
            "pid": self.pid,
            "version": VERSION,
            "loaded_from": _loaded_from(),
            "engines": _reports(hook("engine_report"), pools),
            "workers": _reports(hook("worker_report"), workers),
            "hooks": {
                name: {"active": one.active, "errors": one.errors, "seconds": one.seconds}
                for name, one in list(hooks.items())
            },
        }


_process: Process | None = None


def current() -> Process:
    """This process's objects. After a fork the parent's belong to another process, and its thread is not running."""
    global _process
    if _process is None or _process.pid != os.getpid():
        _process = Process()
    return _process


def track_pool(pool: PoolTracker) -> None:
    """An engine has built its KV cache manager."""
    pools = current().pools
    pools[:] = [*(one for one in pools if one.alive()), pool]
    current().export()


def track_worker(worker: WorkerTracker) -> None:
    """A worker was constructed."""
    workers = current().workers
    workers[:] = [*(one for one in workers if one.alive()), worker]
    current().export()


def _loaded_from() -> str:
    spec = getattr(sys.modules.get("vllm_plugin"), "__spec__", None)
    return str(getattr(spec, "origin", "") or "")


def _reports(of: Hook, tracked: Sequence[PoolTracker | WorkerTracker]) -> list[dict[str, Any]]:
    """The reports of those that have one; one that fails must not take the others' from the page."""
    found = []
    for one in tracked:
        report = of.run(one.report)
        if report is not None:
            found.append(_with_identity(report, one.vllm_config, one.outcome))
    return found


def _with_identity(report: dict[str, Any], config: Any, outcome: override.Outcome) -> dict[str, Any]:
    """Which engine of which server this is, and how it was configured."""
    parallel = getattr(config, "parallel_config", None)
    index = getattr(parallel, "data_parallel_index", None)
    report["server"] = outcome.server
    report["engine"] = int(index if index is not None else getattr(parallel, "data_parallel_rank", 0) or 0)
    model = getattr(config, "model_config", None)
    cache = getattr(config, "cache_config", None)
    info = {
        "vllm_version": getattr(sys.modules.get("vllm"), "__version__", ""),
        "engine_version": "V1",
        "model": getattr(model, "served_model_name", None) or getattr(model, "model", ""),
        "dtype": str(getattr(model, "dtype", "")).replace("torch.", ""),
        "max_model_len": getattr(model, "max_model_len", ""),
        "requested_gpu_memory_utilization": outcome.requested_utilization,
        "requested_kv_cache_memory_bytes": outcome.requested_kv_bytes,
        "applied_gpu_memory_utilization": getattr(cache, "gpu_memory_utilization", None),
        "applied_kv_cache_memory_bytes": getattr(cache, "kv_cache_memory_bytes", None),
        "num_gpu_blocks": report.get("blocks", getattr(cache, "num_gpu_blocks", None)),
        "override": outcome.state,
    }
    report["info"] = {name: _text(value) for name, value in info.items()}
    return report


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return "" if value is None else str(value)
