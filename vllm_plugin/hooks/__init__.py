"""Where vLLM is hooked: which module, and what is patched in it once somebody imports it.

Each entry names the class attributes that it wraps. What a vLLM release lacks is reported as `hooks_active 0`; the
rest goes on.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from time import thread_time
from types import ModuleType

from vllm_plugin.imports import Patch, watch

PATCHES = {
    "vllm.platforms.interface": "environ",
    "vllm.engine.arg_utils": "arguments",
    "vllm.v1.core.kv_cache_manager": "pool",
    "vllm.v1.core.sched.scheduler": "scheduler",
    "vllm.v1.engine.core": "kv_sizes",
    "vllm.v1.worker.worker_base": "worker",
    "vllm.model_executor.model_loader.base_loader": "weights",
    "prometheus_client.registry": "metrics",
    "prometheus_client.multiprocess": "metrics",
    # Until 0.8, and with V0 until 0.10.
    "vllm.v1.core.scheduler": "scheduler",
    "vllm.v1.engine.core_client": "engine_process",
    "vllm.v1.worker.gpu_worker": "worker",
    "vllm.engine.llm_engine": "engine_v0",
    "vllm.core.block_manager": "block_manager",
    "vllm.worker.worker_base": "worker",
    "vllm.model_executor.model_loader.loader": "weights",
}
"""Module of vLLM -> the module of this folder whose `patch` wraps it."""


def install() -> None:
    """Prepare every hook. Imports neither vLLM nor, until they are needed, the hooks themselves."""
    for module, hook in PATCHES.items():
        watch(module, guarded(hook))


def guarded(hook: str) -> Patch:
    """The `patch` of that module of this folder, imported only when needed: what it raises ends that hook alone."""

    def patch(module: ModuleType) -> None:
        began = thread_time()
        try:
            import_module(f"vllm_plugin.hooks.{hook}").patch(module)
        except Exception as error:
            _lost(hook, module, error)
        _count(thread_time() - began)

    return patch


def _count(seconds: float) -> None:
    """Part of what the plugin costs vLLM's start: the processor's time, since others start at the same moment."""
    with suppress(Exception):
        from vllm_plugin.guard import hook

        hook("start").seconds += seconds


def _lost(name: str, module: ModuleType, error: Exception) -> None:
    """A module that cannot be hooked. The file that the plugin comes from may be gone, and its guard with it."""
    with suppress(Exception):
        from vllm_plugin.guard import hook, shown

        of = hook(name)
        of.count(error)
        of.switch_off(f"{module.__name__} cannot be hooked: {shown(error)}")
