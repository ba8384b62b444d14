"""Override on `EngineArgs`: the one place that every way of starting vLLM passes before its configuration exists."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from vllm_plugin import devices, override, process
from vllm_plugin.guard import hook, wrap


def patch(module: ModuleType) -> None:
    """Wrap `EngineArgs.create_engine_config`."""
    wrap(module.EngineArgs, "create_engine_config", hook("engine_args"), before=_override, after=_configured)


def _override(arguments: Any, *_: Any, **__: Any) -> None:
    override.remember(override.apply(arguments, os.environ, devices.total_bytes))


def _configured(*_: Any, **__: Any) -> None:
    process.current().announce()
