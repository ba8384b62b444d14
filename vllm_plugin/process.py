"""What this process has to show: its pools, workers and hooks. The first of them starts the exporter."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm_plugin import override
from vllm_plugin.guard import Hook, hook, hooks
from vllm_plugin.names import ENV_POD_UID, ENV_PORT, VERSION

if TYPE_CHECKING:
    from vllm_plugin.exporter import Exporter
    from vllm_plugin.snapshots import SnapshotFolder
    from vllm_plugin.tracker import EngineTracker
    from vllm_plugin.worker import WorkerTracker


class Process:
    """The tracked objects of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pools: list[EngineTracker] = []
        self.workers: list[WorkerTracker] = []
        self._lock = threading.Lock()
        self._exporter: Exporter | None = None
        self._folder: SnapshotFolder | None = None

    def export(self) -> None:
        """Start the exporter's thread, once. Not at registration: that also runs in processes that measure nothing."""
        from vllm_plugin.exporter import Exporter

        with self._lock:
            if self._exporter is None:
                self._exporter = Exporter(self.report, self._folder)
                self._exporter.start()

    def announce(self) -> None:
        """Leave a snapshot of a process that measures nothing, but has a start and errors to show.

        No thread: such a process may fork its engine next.
        """
        if self._exporter is None:
            try:
                self._shared_folder().write(self.report())
            except OSError as error:
                hook("snapshots").count(error)

    def snapshots(self) -> list[dict[str, Any]]:
        """What this process has to show, as of now, and all others of this vLLM; OSError if it cannot find them."""
        if self._exporter is not None:
            return self._exporter.snapshots()
        folder = self._shared_folder()
        return [folder.complete(self.report()), *folder.others()]

    def _shared_folder(self) -> SnapshotFolder:
        from vllm_plugin.snapshots import SnapshotFolder, default_folder, port_of

        if self._folder is None:
            self._folder = SnapshotFolder(default_folder(os.environ, port_of(os.environ.get(ENV_PORT))))
        return self._folder

    def report(self) -> dict[str, Any]:
        """This process's snapshot as plain values; engines and workers without figures yet are left out."""
        pools = [pool for pool in list(self.pools) if pool.alive()]
        workers = [worker for worker in list(self.workers) if worker.alive()]
        return {
            "pid": self.pid,
            "version": VERSION,
            "loaded_from": _loaded_from(),
            "pod_uid": os.environ.get(ENV_POD_UID, ""),
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
        if _process is not None:
            for one in hooks.values():
                one.errors, one.seconds = 0, 0.0
        _process = Process()
    return _process


def track_pool(pool: EngineTracker) -> None:
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


def _reports(of: Hook, tracked: Sequence[EngineTracker | WorkerTracker]) -> list[dict[str, Any]]:
    """The reports of those that have one; one that fails must not take the others' from the page."""
    found = []
    of.clock = time.thread_time
    for one in tracked:
        report = of.run(one.report)
        if report is not None:
            found.append(_with_identity(report, one.vllm_config, one.outcome))
    return found


def _with_identity(report: dict[str, Any], config: Any, outcome: override.Outcome) -> dict[str, Any]:
    """Which engine of which server this is, and how it was configured."""
    parallel = getattr(config, "parallel_config", None)
    index = getattr(parallel, "data_parallel_index", None)
    report["server"] = _server(parallel, outcome)
    report["engine"] = int(index if index is not None else getattr(parallel, "data_parallel_rank", 0) or 0)
    model = getattr(config, "model_config", None)
    cache = getattr(config, "cache_config", None)
    info = {
        "vllm_version": getattr(sys.modules.get("vllm"), "__version__", ""),
        "engine_version": report.pop("engine_version", "V1"),
        "sliding_window_groups": report.pop("window_groups", 0),
        "model": getattr(model, "served_model_name", None) or getattr(model, "model", ""),
        "dtype": str(getattr(model, "dtype", "")).replace("torch.", ""),
        "max_model_len": getattr(model, "max_model_len", ""),
        "requested_gpu_memory_utilization": outcome.requested_utilization,
        "requested_kv_cache_memory_bytes": outcome.requested_kv_bytes,
        "applied_gpu_memory_utilization": getattr(cache, "gpu_memory_utilization", None),
        "applied_kv_cache_memory_bytes": getattr(cache, "kv_cache_memory_bytes", None),
        "raised_kv_cache_memory_bytes": outcome.raised_kv_bytes,
        "num_gpu_blocks": report.get("blocks", getattr(cache, "num_gpu_blocks", None)),
        "override": outcome.state,
    }
    report["info"] = {name: _text(value) for name, value in info.items()}
    return report


def _server(parallel: Any, outcome: override.Outcome) -> str:
    """What the processes of one vLLM have in common.

    torchrun starts each rank by itself, and none is another's parent: they share where they meet.
    """
    if getattr(parallel, "distributed_executor_backend", None) == "external_launcher":
        return ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return outcome.server


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return "" if value is None else str(value)
