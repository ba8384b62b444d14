"""Where vLLM is hooked: which module, and what is patched in it once somebody imports it.

Each entry names the class attributes that it wraps. What a vLLM release lacks is reported as `hooks_active 0`; the
rest goes on.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from vllm_plugin.imports import Patch, watch

PATCHES = {
    "vllm.platforms.interface": "environ",
    "vllm.engine.arg_utils": "arguments",
    "vllm.v1.core.kv_cache_manager": "pool",
    "vllm.v1.core.sched.scheduler": "scheduler",
    "vllm.v1.worker.worker_base": "worker",
    "vllm.model_executor.model_loader.base_loader": "weights",
}
"""Module of vLLM -> the module of this folder whose `patch` wraps it."""


def install() -> None:
    """Prepare every hook. Imports neither vLLM nor, until they are needed, the hooks themselves."""
    for module, hook in PATCHES.items():
        watch(module, _lazily(hook))


def _lazily(hook: str) -> Patch:
    def patch(module: ModuleType) -> None:
        try:
            import_module(f"vllm_plugin.hooks.{hook}").patch(module)
        except Exception:
            from vllm_plugin.guard import logger

            logger.warning("vllm-rightsizer cannot hook %s", module.__name__, exc_info=True)

    return patch
