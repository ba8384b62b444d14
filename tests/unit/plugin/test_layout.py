"""What a chain takes of the pool where several groups share it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_plugin.layout import PLAIN, Layout, layout_of, layout_of_pool


class FullAttentionSpec:
    block_size = 16


class MLAAttentionSpec(FullAttentionSpec):
    pass


class RSWASpec(FullAttentionSpec):
    pass


class MambaSpec:
    block_size = 16


class SlidingWindowSpec:
    def __init__(self, sliding_window: int, block_size: int = 16) -> None:
        self.sliding_window = sliding_window
        self.block_size = block_size


class UniformTypeKVCacheSpecs:
    block_size = 16

    def __init__(self, *layers: Any) -> None:
        self.kv_cache_specs = dict(enumerate(layers))


@pytest.mark.parametrize(
    ("specs", "layout"),
    [
        ([FullAttentionSpec()], PLAIN),
        ([MambaSpec()], PLAIN),
        ([MLAAttentionSpec(), MLAAttentionSpec()], Layout(2)),
        ([FullAttentionSpec(), SlidingWindowSpec(128)], Layout(1, (8,))),
        ([SlidingWindowSpec(129), FullAttentionSpec(), SlidingWindowSpec(1)], Layout(1, (8, 1))),
        ([SlidingWindowSpec(130)], Layout(0, (9,))),
        ([UniformTypeKVCacheSpecs(FullAttentionSpec(), MLAAttentionSpec()), SlidingWindowSpec(128)], Layout(1, (8,))),
        ([FullAttentionSpec(), UniformTypeKVCacheSpecs(SlidingWindowSpec(128))], Layout(1, (8,))),
        ([FullAttentionSpec(), MambaSpec()], None),
        ([FullAttentionSpec(), RSWASpec()], None),
        ([FullAttentionSpec(), SlidingWindowSpec(128, 32)], None),
        ([], None),
    ],
)
def test_the_kinds_of_groups(specs: list[Any], layout: Layout | None) -> None:
    assert layout_of(specs) == layout


def test_what_lies_in_the_hosts_memory_too_has_no_one_order() -> None:
    device = SimpleNamespace(kv_cache_spec=FullAttentionSpec())
    host = SimpleNamespace(kv_cache_spec=FullAttentionSpec(), host_resident=True)
    assert layout_of_pool(SimpleNamespace(kv_cache_groups=[device, device])) == Layout(2)
    assert layout_of_pool(SimpleNamespace(kv_cache_groups=[device, host])) is None


def test_a_chain_takes_all_its_blocks_of_full_groups_and_the_last_ones_of_windows() -> None:
    layout = Layout(2, (4, 8))
    assert layout.blocks(20, 20) == 2 * 20 + 4 + 8
    assert layout.blocks(20, 5) == 2 * 5 + 4 + 8
    assert layout.blocks(3, 3) == 2 * 3 + 3 + 3


def brute(window: int, stop: int, end: int) -> tuple[int, int, int]:
    """Blocks passed after those that a hit at `stop` needs; of these, how many are still held, and passed."""
    held = set(range(max(end - window, 0), end))
    passed = [block for block in range(end) if block not in held]
    needed = set(range(max(stop - window, 0), stop))
    first = min((passed.index(block) for block in needed if block in passed), default=None)
    after = 0 if first is None else len(passed) - first
    return after, len(needed & held), len(needed - held)


@pytest.mark.parametrize("end", range(1, 14))
def test_what_was_released_after_a_point(end: int) -> None:
    for window in (1, 3, 5, 20):
        for stop in range(1, end + 1):
            after, held, passed = brute(window, stop, end)
            assert Layout(1, (window,)).passed_after(stop, end) == after
            assert Layout(1, (window,)).taken(stop, end) == (held, passed)
