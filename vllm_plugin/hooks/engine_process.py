"""V1's engine process until 0.8: it loads no plugins, so a scheduler in a spawned one would go unseen.

Its worker loads them, which suffices where that runs in the engine's own process; not with several GPUs. So the process
gets another function to run: the child imports this module to find it.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any, Callable

from vllm_plugin.guard import hook

_original: Callable[..., Any] | None = None


def patch(module: ModuleType) -> None:
    """Replace `EngineCoreProc.run_engine_core` where `EngineCore` does not load plugins itself, as since 0.9.

    `module`: the one that starts the process. Newer ones start it elsewhere.
    """
    global _original
    if not hasattr(module, "EngineCoreProc") or _loads_plugins(module.EngineCore):
        return
    function = module.EngineCoreProc.run_engine_core
    if function is not run_engine_core:
        _original = function
        module.EngineCoreProc.run_engine_core = staticmethod(run_engine_core)
        hook("engine_process")


def _loads_plugins(engine_core: Any) -> bool:
    return "load_general_plugins" in inspect.unwrap(engine_core.__init__).__code__.co_names


def run_engine_core(*args: Any, **kwargs: Any) -> Any:
    """Install the hooks, then run vLLM's own function. Found by this name in a spawned process."""
    from vllm_plugin import register

    register()
    core = import_module("vllm.v1.engine.core")
    return (_original or core.EngineCoreProc.run_engine_core)(*args, **kwargs)
