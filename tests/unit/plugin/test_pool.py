"""Counting reusable blocks where the order of the free ones is not known."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_plugin import guard, pool
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
