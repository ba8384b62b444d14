"""Override on `EngineArgs`: the one place that every way of starting vLLM passes before its configuration exists."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from vllm_plugin import devices, override, process
from vllm_plugin.guard import hook, wrap


def patch(module: ModuleType) -> None:
    """Wrap `EngineArgs.create_engine_config`."""

    def before(arguments: Any, *_: Any, **__: Any) -> None:
        override.remember(override.apply(arguments, os.environ, devices.total_bytes))

    def after(*_: Any, **__: Any) -> None:
        process.current().announce()

    wrap(module.EngineArgs, "create_engine_config", hook("engine_args"), before=before, after=after)
