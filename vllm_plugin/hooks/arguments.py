"""Override on `EngineArgs`: the one place that every way of starting vLLM passes before its configuration exists."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from vllm_plugin import override
from vllm_plugin.guard import hook, wrap


def patch(module: ModuleType) -> None:
    """Wrap `EngineArgs.create_engine_config`."""

    def before(arguments: Any, *_: Any, **__: Any) -> None:
        override.remember(override.apply(arguments, os.environ, _device_total_bytes))

    wrap(module.EngineArgs, "create_engine_config", hook("engine_args"), before=before)


def _device_total_bytes() -> int:
    """Through vLLM's own platform, which asks NVML: no CUDA context before vLLM makes one, and a slice is the total."""
    return int(sys.modules["vllm.platforms"].current_platform.get_device_total_memory(0))
