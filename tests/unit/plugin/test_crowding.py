"""Distances in pools too small for the requests that ran at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_plugin.crowding import add_crowded_run, crowded
from vllm_plugin.histogram import ReuseHistogram


@pytest.mark.parametrize(
    ("distance", "prompt", "demand", "expected"),
    [
        (120, 40, 100, 120),
        (100, 40, 100, 100),
        # 90 where 100 were wanted: 80 blocks lack 20, half of which count.
        (90, 40, 100, 80),
        (75, 40, 100, 50),
        (60, 40, 100, 40),
        (30, 40, 100, 30),
        (60, 80, 70, 60),
    ],
)
def test_a_smaller_pool_needs_half_of_what_it_cannot_hold_at_once(
    distance: int, prompt: int, demand: int, expected: int
) -> None:
    assert crowded(distance, prompt, demand) == expected


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2000), st.integers(1, 4000), st.integers(1, 6000))
def test_a_run_is_its_blocks_one_by_one(distance: int, blocks: int, prompt: int, demand: int) -> None:
    at_once, one_by_one = ReuseHistogram(100_000), ReuseHistogram(100_000)
    add_crowded_run(at_once, distance, blocks, prompt, demand)
    for block in range(distance, distance + blocks):
        one_by_one.add(crowded(block, prompt, demand), 1)
    assert at_once.counts == one_by_one.counts
    assert at_once.sum_bytes == one_by_one.sum_bytes
