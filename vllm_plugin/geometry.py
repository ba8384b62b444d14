"""Bytes and blocks of a pool, read off vLLM's own objects. Releases are told apart by attributes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def ceil_div(dividend: int, divisor: int) -> int:
    """Division, rounded up."""
    return -(-dividend // divisor)


def pool_bytes(config: Any) -> int:
    """Bytes of the device pool that a `KVCacheConfig` describes, the null block included.

    Layers that share a tensor are listed once. Where entries carry strides they are views of one backing allocation
    (vLLM 0.24-0.28 packed layouts, and all since 0.30), so their sizes must not be added up.
    """
    tensors = getattr(config, "kv_cache_tensors", None)
    if tensors is None:
        tensors = getattr(config, "tensors", {}).values()
    sizes = [tensor.size for tensor in tensors if not getattr(tensor, "host_resident", False)]
    if any(getattr(tensor, "block_stride", 0) for tensor in tensors):
        return int(max(sizes, default=0))
    return int(sum(sizes))


def block_bytes(config: Any) -> int:
    """Bytes per block on this rank; blocks of all groups have one size, since they share the pool."""
    return pool_bytes(config) // int(config.num_blocks)


def device_groups(config: Any) -> list[Any]:
    """The cache groups whose blocks come from the device pool."""
    return [group for group in config.kv_cache_groups if not getattr(group, "host_resident", False)]


def floor_blocks(config: Any, vllm_config: Any, max_model_len: int) -> int:
    """Blocks of one request of `max_model_len` and the null block; with fewer vLLM refuses to start.

    Every group's own limit counts (a sliding window needs less than its context), as vLLM's start-up check does it.
    """
    blocks = 1
    for group in device_groups(config):
        spec = group.kv_cache_spec
        if vllm_config is not None:
            blocks += ceil_div(int(spec.max_memory_usage_bytes(vllm_config)), int(spec.page_size_bytes))
        else:
            blocks += ceil_div(max_model_len, int(spec.block_size))
    return blocks


def tensors_in(value: Any) -> Iterable[Any]:
    """Every tensor in nested lists, tuples and dicts."""
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, (list, tuple)) or value.__class__.__name__ == "dict_values":
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "untyped_storage"):
        yield value


def storage_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the distinct storages behind the tensors."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    storages.pop(0, None)
    return sum(storages.values())


def model_bytes(model: Any) -> int:
    """Bytes of a module's parameters, buffers and LoRA slots, shared ones once."""
    return storage_bytes([*model.parameters(), *model.buffers(), *lora_slots(model)])


def lora_slots(model: Any) -> Iterable[Any]:
    """The tensors that vLLM's LoRA layers hold for adapters, loaded or not: plain attributes, no parameters."""
    for module in model.modules():
        if hasattr(module, "lora_a_stacked"):
            yield from tensors_in([value for name, value in vars(module).items() if not name.startswith("_")])


def first_attribute(owner: Any, *names: str) -> Any | None:
    """The first of these attributes that is there and not None."""
    for name in names:
        value = getattr(owner, name, None)
        if value is not None:
            return value
    return None
