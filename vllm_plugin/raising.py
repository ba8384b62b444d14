"""The least KV cache that vLLM starts with, for sizes of ours that it refuses.

vLLM decides at start-up, when the layers' specs and the free memory are known, and its rules differ between releases
and kinds of attention. So its own function is asked, and nothing is assumed but what `kv_floor_bytes` says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

from vllm_plugin import geometry, releases

_PLENTY = 1 << 52
"""Bytes in which every model's longest request fits. Nothing is allocated of it."""

_PLANNING = "vllm.v1.core.kv_cache_utils"
"""Logs the size of each plan that it makes, in older releases."""

Plan = Callable[..., Any]
"""vLLM's `get_kv_cache_configs`, for all workers at once, or `get_kv_cache_config` (before 0.11), for one."""


class Raised(NamedTuple):
    """The plan that vLLM accepted."""

    result: Any
    """What the function returns."""
    configs: Sequence[Any]
    """The same, a `KVCacheConfig` for each rank asked about."""
    blocks: int
    more_bytes: int
    """What it needs beyond what was there, on the rank that lacks most."""


def least_accepted(
    plan: Plan, longest: int, vllm_config: Any, specs: Any, available: int | Sequence[int], *more: Any, **named: Any
) -> Raised | None:
    """The plan with the fewest blocks that vLLM accepts, the same for all ranks; None for a model without KV cache.

    `longest`: the `max_model_len` from before vLLM refused; where it does, 0.11 leaves the longest that would have
    fitted in its configuration. `specs` and `available`: as vLLM gave them to `plan`. Raises what vLLM raises if twice
    the floor is too little, too.
    """
    # 0.7 has one size for the specs of all ranks.
    several_sizes, several_specs = isinstance(available, Sequence), isinstance(specs, Sequence)
    there = list(available) if isinstance(available, Sequence) else [available]

    def ask(sizes: Sequence[int]) -> Any:
        # Planning may change the dictionaries, too.
        vllm_config.model_config.max_model_len = longest
        copies = [dict(of_rank) for of_rank in specs] if several_specs else dict(specs)
        return plan(vllm_config, copies, list(sizes) if several_sizes else max(sizes), *more, **named)

    with _silenced(_PLANNING):
        roomy = ask([_PLENTY] * len(there))
    configs = list(roomy) if several_specs else [roomy]
    bytes_of = [geometry.block_bytes(config) for config in configs]
    if not any(bytes_of):
        return None
    floors = [geometry.floor_blocks(releases.newest_form(one, longest), vllm_config, longest) for one in configs]

    def ask_for(blocks: int) -> Any:
        return ask([blocks * size for size in bytes_of])

    blocks = max(floors)
    try:
        result = ask_for(blocks)
    except ValueError:
        with _silenced(_PLANNING):
            blocks = _first_accepted(ask_for, blocks, 2 * blocks)
        # This plan is carried out, so it is the last one that vLLM makes.
        result = ask_for(blocks)
    lacking = max(blocks * size - there[rank if several_sizes else 0] for rank, size in enumerate(bytes_of))
    return Raised(result, result if several_specs else [result], blocks, lacking)


def _first_accepted(ask_for: Callable[[int], Any], refused: int, most: int) -> int:
    """The fewest blocks beyond `refused` that are accepted; `most` if none are that are fewer."""
    while most - refused > 1:
        middle = (refused + most) // 2
        try:
            ask_for(middle)
            most = middle
        except ValueError:
            refused = middle
    return most


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep a logger quiet about a plan that is not carried out."""
    planning = logging.getLogger(name)
    before, planning.disabled = planning.disabled, True
    try:
        yield
    finally:
        planning.disabled = before
