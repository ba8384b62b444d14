"""The scheduler knows the whole configuration; its KV cache manager, which is what gets measured, does not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vllm_plugin import releases
from vllm_plugin.guard import hook, wrap
from vllm_plugin.hooks.pool import ELASTIC, tracker_of


def patch(module: ModuleType) -> None:
    """Wrap `Scheduler.__init__`."""
    wrap(module.Scheduler, "__init__", hook("scheduler"), after=_built)


def _built(_result: Any, _noted: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
    tracker = tracker_of(scheduler.kv_cache_manager) or getattr(scheduler.kv_cache_manager, ELASTIC, None)
    if tracker is not None:
        tracker.vllm_config = releases.config_of_scheduler(scheduler, args, kwargs)
