"""The one place that knows what differs between vLLM's releases in the objects of its V1 engine that the plugin reads.

Told by what the objects have, never by a version: a release that nobody has seen is read like the newest. What is
looked for, and since or until which release it is there:

| object | what | releases |
|---|---|---|
| `KVCacheManager` | is the pool itself: `block_pool` is the list of blocks, `_get_new_blocks` hands them out | 0.7 |
| | `block_pool` is a `BlockPool` with `blocks` and `get_new_blocks` | 0.8.0 and later |
| | knows its `kv_cache_config` | 0.9.1 and later |
| | was given it when it was built | 0.8.3 and later |
| | knows sizes only; the executor saw the configuration before | 0.7 to 0.8.2 |
| `KVCacheConfig` | `groups` of layer names, with a `kv_cache_spec` by layer | 0.7 to 0.8.1 |
| | `kv_cache_groups` | 0.8.2 and later |
| | each spec knows its `max_memory_usage_bytes` | 0.8.5 and later |
| hashes of a request | `Request.kv_block_hashes` | 0.7.1, 0.7.2 |
| | `KVCacheManager.req_to_block_hashes[id]` | 0.7.3 to 0.10.0 |
| | `Request.block_hashes` | 0.10.1 and later |
| one hash | a tuple that holds the block's tokens too, with `hash_value` | 0.7 to 0.10.1 |
| | bytes | 0.10.2 and later |
| blocks of a request | `req_to_blocks` and `num_cached_block` (0.7.3 and later) of the manager | 0.7 to 0.8 |
| | the same of `single_type_manager` | 0.9.0 |
| | the same of each of `coordinator.single_type_managers` | 0.9.1 and later |
| found blocks, from `get_computed_blocks` | a list | 0.7 to 0.8 |
| | `KVCacheBlocks.blocks`, a list | 0.9.0 |
| | the same, a list for each group | 0.9.1 and later |
| hit, as `allocate_slots` gets it | third argument, a list of blocks | 0.7 to 0.8 |
| | third argument, or `num_new_computed_tokens` | 0.9 and later |
| null block | `BlockPool.null_block` | 0.8.3 and later |
| pool of a worker | `model_runner.kv_caches`, with its `kv_cache_config` | 0.9 and later |
| | `model_runner.kv_caches` alone | 0.7 to 0.8 |
| | `gpu_cache` or `cpu_cache` of the worker | V0, until 0.10 |
| order of free blocks | first to go: those without a hash (`FreeKVCacheBlockQueue.prepend_n`) | 0.24 and later |
| | only where the caller of `free_blocks` says so, as sliding windows do | 0.23 |
| | by the time of their release | before |
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from vllm_plugin.geometry import ceil_div, storage_bytes, tensors_in


def pool_of(manager: Any) -> Any:
    """What hands out the blocks."""
    pool = manager.block_pool
    return manager if isinstance(pool, list) else pool


def blocks_of(pool: Any) -> Sequence[Any]:
    """All blocks of what `pool_of` gave."""
    found: Sequence[Any] = pool.block_pool if hasattr(pool, "block_pool") else pool.blocks
    return found


def null_blocks(pool: Any) -> int:
    """How many blocks are never handed out."""
    return 1 if hasattr(pool, "null_block") else 0


def hand_out(pool: Any) -> str:
    """The name of the method that hands out free blocks."""
    return "get_new_blocks" if hasattr(pool, "get_new_blocks") else "_get_new_blocks"


def dead_blocks_go_first(pool: Any) -> bool:
    """Whether free blocks without a hash are handed out before the cached ones."""
    if not hasattr(pool.free_block_queue, "prepend_n"):
        return False
    return "prepend" not in inspect.signature(pool.free_blocks).parameters


def hashless_among_next(pool: Any, count: int) -> int:
    """How many of the next `count` blocks to be handed out have no hash."""
    queue = pool.free_block_queue
    # A sentinel stands before the first one since 0.10.2.
    sentinel = getattr(queue, "fake_free_list_head", None)
    block = sentinel.next_free_block if sentinel is not None else queue.free_list_head
    hashless = 0
    for _ in range(min(count, queue.num_free_blocks)):
        if block.block_hash is None:
            hashless += 1
        block = block.next_free_block
    return hashless


# --- Configuration ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """A layer's share of a block, as newer releases describe it."""

    block_size: int
    page_size_bytes: int
    max_model_len: int

    def max_memory_usage_bytes(self, _vllm_config: Any) -> int:
        """Bytes of the layer for one request of the longest kind."""
        return ceil_div(self.max_model_len, self.block_size) * self.page_size_bytes


@dataclass(frozen=True)
class Group:
    """Layers whose blocks are handed out together."""

    kv_cache_spec: Spec


@dataclass(frozen=True)
class Config:
    """What newer releases have as `KVCacheConfig`."""

    num_blocks: int
    kv_cache_tensors: tuple[Any, ...]
    kv_cache_groups: tuple[Group, ...]


_latest_configs: list[Any] = []
"""What the executor of this process was last given: its engine builds the manager right after, in the same thread."""


def note_config(configs: Any) -> None:
    """The executor allocates pools by these configurations, one or one for each worker."""
    _latest_configs[:] = [configs[0] if isinstance(configs, (list, tuple)) else configs]


def config_of(manager: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The `KVCacheConfig` of a manager that was built with these arguments, in the form of the newest release."""
    config = getattr(manager, "kv_cache_config", None)
    if config is None:
        config = kwargs.get("kv_cache_config", args[0] if args and hasattr(args[0], "num_blocks") else None)
    if config is None:
        (config,) = _latest_configs
    return newest_form(config, int(manager.max_model_len))


def newest_form(config: Any, longest: int) -> Any:
    """A `KVCacheConfig` of any release as the newest has it. `longest`: tokens of the longest request."""
    if hasattr(config, "kv_cache_groups"):
        return config
    specs = [config.kv_cache_spec[layers[0]] for layers in config.groups if layers]
    return Config(
        num_blocks=int(config.num_blocks),
        kv_cache_tensors=tuple(config.tensors.values()),
        kv_cache_groups=tuple(Group(Spec(int(spec.block_size), int(spec.page_size_bytes), longest)) for spec in specs),
    )


# --- Requests ---------------------------------------------------------------------------------------------------------


class HashValues(Sequence[Hashable]):
    """Hashes without the tokens that old releases keep in each: those would be held in memory as long as the hash."""

    def __init__(self, hashes: Sequence[Any]) -> None:
        self._hashes = hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[Hashable]:
        return (one.hash_value for one in self._hashes)

    def __getitem__(self, item: Any) -> Any:
        found = self._hashes[item]
        return [one.hash_value for one in found] if isinstance(item, slice) else found.hash_value


def hashes_of(manager: Any, request: Any) -> Sequence[Hashable]:
    """The chained hashes of a request's full blocks, as far as vLLM has made them."""
    hashes: Sequence[Any] | None = getattr(request, "block_hashes", None)
    if hashes is None:
        by_request = getattr(manager, "req_to_block_hashes", None)
        hashes = request.kv_block_hashes if by_request is None else by_request.get(request.request_id, ())
    return HashValues(hashes) if len(hashes) and hasattr(hashes[0], "hash_value") else hashes


def _managers_of_groups(manager: Any) -> Sequence[Any]:
    coordinator = getattr(manager, "coordinator", None)
    if coordinator is not None:
        return coordinator.single_type_managers  # type: ignore[no-any-return]  # of vLLM, untyped here
    return (getattr(manager, "single_type_manager", manager),)


def holdings_of(manager: Any, request_id: str) -> tuple[int, int]:
    """How many blocks a request holds, in all groups together, and how many of them have a hash."""
    held = cached = 0
    for group in _managers_of_groups(manager):
        blocks = group.req_to_blocks.get(request_id, ())
        held += len(blocks)
        counts = getattr(group, "num_cached_block", None)
        cached += _leading(blocks, _has_hash) if counts is None else counts.get(request_id, 0)
    return held, cached


def places_of(manager: Any, request_id: str) -> list[tuple[int, int, int]]:
    """By group: places of a request in its list of blocks, how many of them have a hash, how many lie before a window.

    In those before a window the null block stands, whatever stood there was released.
    """
    null = getattr(pool_of(manager), "null_block", None)
    found = []
    for group in _managers_of_groups(manager):
        blocks = group.req_to_blocks.get(request_id, ())
        passed = _leading(blocks, lambda block: block is null)
        counts = getattr(group, "num_cached_block", None)
        cached = passed + _leading(blocks[passed:], _has_hash) if counts is None else counts.get(request_id, 0)
        found.append((len(blocks), max(cached, passed), passed))
    return found


def hits_of(found: Any) -> Sequence[Sequence[Any]]:
    """The blocks that a lookup found, by group. `found`: the first of what `get_computed_blocks` returns."""
    blocks: Sequence[Any] = getattr(found, "blocks", found)
    return blocks if blocks and not hasattr(blocks[0], "ref_cnt") else (blocks,)


def reads_cache(request: Any) -> bool:
    """Whether the lookup of a request goes to the prefix cache: not where all of its prompt has to be computed."""
    skipped = getattr(request, "skip_reading_prefix_cache", None)
    if skipped is None:
        # Until 0.11.1 the manager looked at the request's parameters itself.
        return getattr(getattr(request, "sampling_params", None), "prompt_logprobs", None) is None
    return not skipped


def admitted_hit_tokens(args: Sequence[Any], kwargs: Mapping[str, Any], block_tokens: int, found_tokens: int) -> int:
    """What the scheduler finally takes as hit, from the arguments of `allocate_slots`.

    It may be less than the `found_tokens` of the lookup. `args`: the request first.
    """
    taken = kwargs.get("num_new_computed_tokens", args[2] if len(args) > 2 else found_tokens)
    return len(taken) * block_tokens if isinstance(taken, (list, tuple)) else int(taken)


def config_of_scheduler(scheduler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The `VllmConfig` of a scheduler that was built with these arguments; its parts where there are only those."""
    whole = getattr(scheduler, "vllm_config", None)
    if whole is None:
        whole = kwargs.get("vllm_config", args[0] if args and hasattr(args[0], "model_config") else None)
    if whole is not None:
        return whole
    names = ("scheduler_config", "model_config", "cache_config", "lora_config")
    return Parts({**dict(zip(names, args)), **{name: kwargs[name] for name in names if name in kwargs}})


class Parts:
    """Some of a `VllmConfig`'s fields."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        vars(self).update(parts)


def _leading(blocks: Sequence[Any], has: Callable[[Any], bool]) -> int:
    """How many blocks, from the first on, have what all before the last such one have."""
    low, high = 0, len(blocks)
    while low < high:
        middle = (low + high) // 2
        if has(blocks[middle]):
            low = middle + 1
        else:
            high = middle
    return low


def _has_hash(block: Any) -> bool:
    return block.block_hash is not None


# --- Workers ----------------------------------------------------------------------------------------------------------


def kv_tensors(worker: Any) -> Any:
    """The tensors of a worker's KV cache, nested as it keeps them; empty until they are allocated.

    V1 has them in its runner, V0 (until 0.10) in the worker, one list for each stage of a pipeline.
    """
    return (
        getattr(getattr(worker, "model_runner", None), "kv_caches", None)
        or getattr(worker, "gpu_cache", None)
        or getattr(worker, "cpu_cache", None)
        or ()
    )


def config_of_worker(worker: Any) -> Any:
    """The `KVCacheConfig` that a worker's pool follows; None until it is known.

    V1's runner knows it since 0.9; before, and with V0, there is only the number of blocks, once they are allocated.
    """
    runner = getattr(worker, "model_runner", None)
    config = getattr(runner, "kv_cache_config", None)
    if config is not None or hasattr(runner, "kv_cache_config"):
        return config
    tensors = kv_tensors(worker)
    if tensors:
        return Config(num_blocks=_blocks_of_worker(worker, tensors), kv_cache_tensors=(), kv_cache_groups=())
    if hasattr(runner, "model") and getattr(worker.model_config, "runner_type", "") == "pooling":
        return Config(num_blocks=0, kv_cache_tensors=(), kv_cache_groups=())
    return None


def _blocks_of_worker(worker: Any, tensors: Any) -> int:
    if not hasattr(worker, "get_kv_cache_spec"):
        return int(worker.cache_config.num_gpu_blocks)
    # V1's engine core tells only workers of its own process how many they are.
    block_bytes = sum(int(spec.page_size_bytes) for spec in worker.get_kv_cache_spec().values())
    return storage_bytes(tensors_in(tensors)) // block_bytes
