"""vLLM warns of unknown `VLLM_` variables, and with --fail-on-environ-validation it refuses to start: hide ours."""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

from vllm_plugin.guard import MARK, hook
from vllm_plugin.names import ENV_PREFIX


def patch(module: ModuleType) -> None:
    """Wrap `Platform.validate_environ`, which looks at the names of all environment variables."""
    platform = module.Platform
    original = vars(platform).get("validate_environ")
    function = getattr(original, "__func__", None)
    if function is None or getattr(function, MARK, False):
        return

    of = hook("environ")

    @functools.wraps(function)
    def validate_environ(cls: Any, *args: Any, **kwargs: Any) -> Any:
        hidden = of.run(_hide) or {}
        try:
            return function(cls, *args, **kwargs)
        finally:
            os.environ.update(hidden)

    setattr(validate_environ, MARK, True)
    platform.validate_environ = classmethod(validate_environ)


def _hide() -> dict[str, str]:
    """Take our variables out of the environment; another thread may do so too."""
    ours = [name for name in list(os.environ) if name.startswith(ENV_PREFIX)]
    return {name: value for name in ours if (value := os.environ.pop(name, None)) is not None}
