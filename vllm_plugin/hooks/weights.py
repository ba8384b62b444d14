"""Weights on the CPU backend: it packs them into its kernels' layout and drops the originals, so measure before."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

from vllm_plugin import geometry
from vllm_plugin.guard import hook, wrap

_models: dict[weakref.ref[Any], int] = {}


def patch(module: ModuleType) -> None:
    """Wrap the function by which a loader finishes a model: a global of its module, which is `loader` until 0.8."""
    before = "_process_weights_after_loading"
    name = before if hasattr(module, before) else "process_weights_after_loading"
    wrap(module, name, hook("weights"), before=_before_packing)


def cpu_weight_bytes() -> int:
    """Bytes of all models that this process has loaded to the CPU: the model, and a draft model beside it."""
    return sum(size for model, size in list(_models.items()) if model() is not None)


def _before_packing(model: Any, _config: Any = None, device: Any = None, *_: Any, **__: Any) -> None:
    if getattr(device, "type", "") == "cpu":
        _models[weakref.ref(model)] = geometry.model_bytes(model)
