"""Workers: one per GPU. All of vLLM's and of other vendors' derive from `WorkerBase`, so its constructor suffices."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any, Callable

from vllm_plugin import process
from vllm_plugin.guard import hook, wrap
from vllm_plugin.worker import WorkerTracker


def patch(module: ModuleType) -> None:
    """Wrap `WorkerBase.__init__`; nearly everything else is read from the worker later, by polling its attributes."""
    if hasattr(module, "WorkerBase"):
        base = module.WorkerBase
    else:
        # V1's worker had no base in 0.7.1 and 0.7.2.
        base = module.Worker
    wrap(base, "__init__", hook("worker"), after=_built if base.__module__.startswith("vllm.v1.") else _built_v0)


def _built_v0(result: Any, noted: Any, worker: Any, *args: Any, **kwargs: Any) -> None:
    """The base of V0's workers (until 0.10), and until 0.11 that of V1's base, whose constructor goes on after this."""
    v1 = getattr(sys.modules.get("vllm.v1.worker.worker_base"), "WorkerBase", ())
    if not isinstance(worker, v1):
        _built(result, noted, worker, *args, **kwargs)


def _built(_result: Any, _noted: Any, worker: Any, *_: Any, **__: Any) -> None:
    tracker = WorkerTracker(worker)
    if hasattr(worker, "determine_available_memory"):
        _follow_measuring(worker, tracker)
    if hasattr(worker, "compile_or_warm_up_model"):
        wrap(
            worker,
            "compile_or_warm_up_model",
            hook("worker_memory"),
            before=lambda *_, **__: _follow_capture(worker, tracker),
            after=lambda *_, **__: tracker.note_warm(),
        )
    elif hasattr(worker, "initialize_cache") and not tracker.on_cpu:
        # V0 warms up there.
        wrap(worker, "initialize_cache", hook("worker_memory"), after=lambda *_, **__: tracker.note_warm())
    notes = {"sleep": tracker.note_sleep, "wake_up": tracker.note_wake, "discard": tracker.note_discard}
    for name, note in notes.items():
        # The CPU worker has these, and keeps its memory.
        if hasattr(worker, name) and not tracker.on_cpu:
            wrap(worker, name, hook("sleep"), after=_told(note))
    process.track_worker(tracker)


def _follow_measuring(worker: Any, tracker: WorkerTracker) -> None:
    """What the worker leaves for the KV cache.

    On the CPU it refuses by itself where nothing is left; a GPU's worker says so by a number, and the engine core
    refuses. For a size that the plugin set do the same here, since there the least is known.
    """
    original = worker.determine_available_memory
    of = hook("worker_memory")

    @functools.wraps(original)
    def determine_available_memory(*args: Any, **kwargs: Any) -> Any:
        try:
            available = original(*args, **kwargs)
        except ValueError:
            available = of.run(tracker.shortfall)
            if available is None:
                raise
        of.run(tracker.note_available, available)
        return available

    worker.determine_available_memory = determine_available_memory


def _follow_capture(worker: Any, tracker: WorkerTracker) -> None:
    """vLLM says how much its CUDA graphs took, and keeps it nowhere."""
    runner = getattr(worker, "model_runner", None)
    if hasattr(runner, "capture_model"):
        wrap(runner, "capture_model", hook("worker_memory"), after=lambda graphs, *_, **__: tracker.note_graphs(graphs))


def _told(note: Callable[..., None]) -> Callable[..., None]:
    """The call's own arguments, without what `wrap` puts before them."""

    def after(_result: Any, _noted: Any, *args: Any, **kwargs: Any) -> None:
        note(*args, **kwargs)

    return after
