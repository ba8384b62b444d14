"""The scheduler knows the whole configuration; its KV cache manager, which is what gets measured, does not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vllm_plugin.guard import hook, wrap
from vllm_plugin.hooks.pool import tracker_of


def patch(module: ModuleType) -> None:
    """Wrap `Scheduler.__init__`."""
    wrap(module.Scheduler, "__init__", hook("scheduler"), after=_built)


def _built(_result: Any, _noted: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
    tracker = tracker_of(scheduler.kv_cache_manager)
    if tracker is not None:
        given = kwargs.get("vllm_config", args[0] if args else None)
        tracker.vllm_config = getattr(scheduler, "vllm_config", given)
