"""In a worker's process: what a model takes as its loader leaves it, before the CPU backend packs it and drops parts.

Imported by vLLM itself, as `worker_extension_cls`, before the worker loads its model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

_sizes: list[int] = []
"""Bytes of each model of this process."""

_load_weights = DummyModelLoader.load_weights


@functools.wraps(_load_weights)
def _counted(loader: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    result = _load_weights(loader, model, *args, **kwargs)
    _sizes.append(unique_bytes([*model.parameters(), *model.buffers()]))
    return result


DummyModelLoader.load_weights = _counted


class Loaded:
    """What a worker can be asked besides."""

    def loaded_bytes(self) -> list[int]:
        """Of each model that it has loaded."""
        return _sizes


def unique_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the storages behind these tensors, shared ones once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
