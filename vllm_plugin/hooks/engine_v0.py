"""V0's engine (vLLM up to 0.10): only it knows at once its schedulers, its configuration and its workers."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from vllm_plugin import process
from vllm_plugin.block_manager import BlockManagerTracker
from vllm_plugin.guard import hook, shown, wrap
from vllm_plugin.hooks.block_manager import ATTRIBUTE


def patch(module: ModuleType) -> None:
    """Wrap `LLMEngine.__init__`; later releases have only another name for V1's engine there."""
    if module.LLMEngine.__module__ == module.__name__:
        wrap(module.LLMEngine, "__init__", hook("block_manager"), after=_built)


def _built(_result: Any, _noted: Any, engine: Any, *_: Any, **__: Any) -> None:
    try:
        _track(engine)
    except Exception as error:
        # There is one engine in a process: this was the only chance, and nobody sees it in a count of errors.
        hook("block_manager").switch_off(f"the pool of this vLLM cannot be read: {shown(error)}")
        raise


def _track(engine: Any) -> None:
    schedulers = [one for one in engine.scheduler if hasattr(one.block_manager, "block_allocator")]
    if schedulers:
        tracker = BlockManagerTracker(schedulers, engine.vllm_config, _block_bytes(engine))
        for scheduler in schedulers:
            setattr(scheduler.block_manager, ATTRIBUTE, tracker)
        process.track_pool(tracker)


def _block_bytes(engine: Any) -> int:
    """Bytes of one block on the engine's own rank."""
    driver = getattr(engine.model_executor, "driver_worker", None)
    worker: Any = getattr(driver, "worker", driver)
    if hasattr(worker, "get_cache_block_size_bytes"):
        return int(worker.get_cache_block_size_bytes())
    # Ray's driver may have no worker of its own.
    size_of = import_module("vllm.worker.cache_engine").CacheEngine.get_cache_block_size
    return int(size_of(engine.cache_config, engine.model_config, engine.parallel_config))
