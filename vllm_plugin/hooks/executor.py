"""Where V1's managers do not know their `KVCacheConfig` (until 0.8.2), the executor was told it just before."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vllm_plugin import releases
from vllm_plugin.guard import hook, wrap


def patch(module: ModuleType) -> None:
    """Wrap the method of `Executor` that allocates the pools."""
    name = "initialize_from_config" if hasattr(module.Executor, "initialize_from_config") else "initialize"
    wrap(module.Executor, name, hook("executor"), before=_configured)


def _configured(_executor: Any, configs: Any, *_: Any, **__: Any) -> None:
    releases.note_config(configs)
