"""The engine core: plans the KV cache at start-up, and knows its executor, which knows whether vLLM sleeps."""

from __future__ import annotations

import functools
import os
import weakref
from types import ModuleType
from typing import Any, Callable

from vllm_plugin import geometry, override, raising
from vllm_plugin.guard import MARK, Hook, hook, warn, wrap
from vllm_plugin.hooks.pool import tracker_of
from vllm_plugin.names import OVERRIDE_APPLIED, OVERRIDE_RAISED

_PLANS = ("get_kv_cache_configs", "get_kv_cache_config")
"""By what name the module has vLLM's function: for all workers since 0.11, for each of them before."""


def patch(module: ModuleType) -> None:
    """Wrap the planning function, which is a global of the module, and `EngineCore.__init__`."""
    of = hook("kv_sizes")
    name = next((name for name in _PLANS if callable(getattr(module, name, None))), None)
    if name is None:
        of.switch_off(f"{module.__name__} has none of {', '.join(_PLANS)}")
    elif not hasattr(getattr(module, name), MARK):
        setattr(module, name, _forgiving(getattr(module, name), of))
    wrap(module.EngineCore, "__init__", hook("engine_core"), after=_built)


def _forgiving(original: Callable[..., Any], of: Hook) -> Callable[..., Any]:
    """vLLM's function; where it refuses a size that the plugin set, the least that it accepts."""

    @functools.wraps(original)
    def plan(*args: Any, **kwargs: Any) -> Any:
        longest = of.run(_longest, *args, **kwargs)
        try:
            return original(*args, **kwargs)
        except ValueError as refusal:
            raised = of.run(_raise, original, refusal, longest, *args, **kwargs)
            if raised is None:
                raise
            return raised

    setattr(plan, MARK, True)
    return plan


def _longest(vllm_config: Any, *_: Any, **__: Any) -> int:
    return int(vllm_config.model_config.max_model_len)


def _raise(
    original: Callable[..., Any], refusal: ValueError, longest: int | None, vllm_config: Any, *args: Any, **kwargs: Any
) -> Any:
    outcome = override.recall(os.environ)
    cache = vllm_config.cache_config
    if longest is None or outcome is None or outcome.state not in (OVERRIDE_APPLIED, OVERRIDE_RAISED):
        return None
    if not outcome.decides(cache):
        return None
    raised = raising.least_accepted(original, longest, vllm_config, *args, **kwargs)
    if raised is None:
        return None
    by_bytes = getattr(cache, "kv_cache_memory_bytes", None) is not None
    if by_bytes and outcome.applied_kv_bytes is not None:
        # What vLLM keeps back of these bytes for multimodal inputs comes on top of the pool.
        size = max(outcome.applied_kv_bytes + raised.more_bytes, outcome.raised_kv_bytes or 0)
        cache.kv_cache_memory_bytes = size
    else:
        size = max(geometry.pool_bytes(config) for config in raised.configs)
    override.remember_raised(outcome, size)
    warn(
        "vllm-rightsizer raises the KV cache to %d bytes (%d blocks), %d more than %s=%s leaves for it: the least with "
        "which this vLLM starts. It had refused: %s",
        size,
        raised.blocks,
        raised.more_bytes,
        "kv_cache_memory_bytes" if by_bytes else "gpu_memory_utilization",
        outcome.applied_kv_bytes if by_bytes else outcome.applied_utilization,
        str(refusal).partition(". ")[0],
    )
    return raised.result


def _built(_result: Any, _noted: Any, core: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(getattr(core.scheduler, "kv_cache_manager", None))
    if tracker is not None:
        tracker.executor = weakref.ref(core.model_executor)
