"""Counting reusable blocks where the order of the free ones is not known."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_plugin import guard, pool
from vllm_plugin.block_manager import BlockManagerTracker
from vllm_plugin.grouped_pool import GroupedPoolTracker
from vllm_plugin.layout import layout_of_pool
from vllm_plugin.pool import PoolTracker


class Object(SimpleNamespace):
    """Something of vLLM's that can be referred to weakly."""

    __hash__ = object.__hash__


class Blocks(list[Any]):
    """Counts how often it is gone through."""

    scans = 0

    def __iter__(self) -> Iterator[Any]:
        self.scans += 1
        return super().__iter__()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(pool.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(guard, "hooks", {})
    return now


def new_manager(groups: int = 1) -> Any:
    blocks = Blocks(Object(ref_cnt=0, block_hash=number) for number in range(7))
    queue = Object(num_free_blocks=9)
    spec = Object(block_size=16)
    return Object(
        block_pool=Object(blocks=blocks, free_block_queue=queue, null_block=None),
        kv_cache_config=Object(
            num_blocks=10,
            kv_cache_tensors=[Object(size=1000)],
            kv_cache_groups=[Object(kv_cache_spec=spec) for _ in range(groups)],
        ),
    )


def test_blocks_are_gone_through_once_a_minute(clock: Any) -> None:
    manager = new_manager()
    tracker = PoolTracker(manager, 100)
    tracker.uncounted()
    for second in range(120):
        clock.seconds = 1000.0 + second
        assert tracker.reusable() == 7
    assert manager.block_pool.blocks.scans == 2


@pytest.mark.usefixtures("clock")
def test_a_reset_is_seen_at_once() -> None:
    manager = new_manager()
    tracker = PoolTracker(manager, 100)
    tracker.uncounted()
    assert tracker.reusable() == 7
    for block in list(manager.block_pool.blocks):
        block.block_hash = None
    tracker.reset()
    assert tracker.reusable() == 0


@pytest.mark.usefixtures("clock")
def test_groups_of_other_kinds_have_no_curve_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    managers = [new_manager(groups) for groups in (2, 3)]
    trackers = [PoolTracker(manager, 100) for manager in managers]
    for tracker in trackers:
        report = tracker.report()
        assert (report["reuse_counts"], report["reuse_sum_bytes"], report["headroom_bytes"]) == ([], 0, None)
        assert report["capacity_bytes"] == 1000
    assert not guard.hooks["reuse"].active
    assert len([record for record in caplog.records if "group" in record.getMessage()]) == 1


@pytest.mark.usefixtures("clock")
def test_one_group_has_one() -> None:
    manager = new_manager()
    assert sum(PoolTracker(manager, 100).report()["reuse_counts"]) == 0
    assert guard.hooks["reuse"].active


@pytest.mark.usefixtures("clock")
def test_dead_blocks_are_left_out_once_nobody_sees_them_go() -> None:
    """They would seem to be more and more."""
    manager = new_manager()
    manager.block_pool.free_block_queue.prepend_n = manager.block_pool.free_blocks = list
    manager.req_to_blocks, manager.num_cached_block = {"a": [None] * 5}, {"a": 3}
    tracker = PoolTracker(manager, 100)
    assert tracker.dead_first
    request = Object(request_id="a", status=None, is_finished=lambda: True, block_hashes=[])
    tracker.freed(request, tracker.before_free(request))
    assert tracker.spare() == 2
    guard.hooks["hand_outs"].switch_off("a test")
    assert tracker.spare() == 0


class SlidingWindowSpec(SimpleNamespace):
    """As vLLM calls it."""


@pytest.mark.usefixtures("clock")
def test_one_group_with_a_window_as_older_releases_have_it() -> None:
    """Found blocks are no list of lists, and no block says that it is the null block."""
    manager = new_manager()
    null, held, free = Object(ref_cnt=0), Object(ref_cnt=1), Object(ref_cnt=0)
    manager.block_pool.null_block = null
    (group,) = manager.kv_cache_config.kv_cache_groups
    group.kv_cache_spec = SlidingWindowSpec(block_size=16, sliding_window=33)
    manager.req_to_blocks, manager.num_cached_block = {"a": [null, null, null, held, free]}, {"a": 4}
    tracker = GroupedPoolTracker(manager, 100, manager.kv_cache_config, layout_of_pool(manager.kv_cache_config))
    assert (tracker.window_groups, tracker.block_tokens) == (1, 16)
    request = Object(request_id="a", num_tokens=70)
    tracker.sought(request, ([null, free, held], 48))
    # Of the last two blocks one is held already, and the prompt has five; none is active.
    assert tracker.report()["demand_peak_bytes"] == 4 * tracker.block_bytes
    tracker.sought(request, ([], 0))
    assert tracker.report()["demand_peak_bytes"] == 5 * tracker.block_bytes
    assert tracker.before_free(request) == (0, [(5, 4, 3)])


@pytest.mark.usefixtures("clock")
def test_a_sequence_of_v0_that_is_given_up_before_it_ran_is_not_remembered() -> None:
    allocator = Object(get_num_free_blocks=lambda: 5)
    manager = Object(num_total_gpu_blocks=10, block_size=16, enable_caching=True, max_block_sliding_window=None)
    manager.block_allocator, manager.block_tables = Object(_allocators={Object(name="GPU"): allocator}), {}
    schedulers = [Object(block_manager=manager)]
    tracker = BlockManagerTracker(schedulers, None, 100)
    sequence = Object(seq_id=3, get_len=lambda: 40)
    tracker.sought(manager, Object(get_seqs=lambda: [sequence]), refused=True)
    assert tracker._waited == {"3"}
    assert tracker.before_free(manager, sequence) is None
    assert not tracker._waited
