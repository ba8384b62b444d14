"""Workers: one per GPU. All of vLLM's and of other vendors' derive from `WorkerBase`, so its constructor suffices."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vllm_plugin import process
from vllm_plugin.guard import hook, wrap
from vllm_plugin.worker import WorkerTracker


def patch(module: ModuleType) -> None:
    """Wrap `WorkerBase.__init__`; nearly everything else is read from the worker later, by polling its attributes."""
    wrap(module.WorkerBase, "__init__", hook("worker"), after=_built)


def _built(_result: Any, _noted: Any, worker: Any, *_: Any, **__: Any) -> None:
    tracker = WorkerTracker(worker)
    if tracker.on_cpu and hasattr(worker, "determine_available_memory"):

        def measured(*_: Any, **__: Any) -> None:
            tracker.note_resident()

        wrap(worker, "determine_available_memory", hook("worker_memory"), before=measured)
    elif not tracker.on_cpu:

        def warmed_up(*_: Any, **__: Any) -> None:
            tracker.note_reserved()

        wrap(worker, "compile_or_warm_up_model", hook("worker_memory"), after=warmed_up)
    process.track_worker(tracker)
