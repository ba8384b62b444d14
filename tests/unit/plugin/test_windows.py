"""The estimator where a model has sliding windows, against a naive model of the pool that its groups share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.layout import Layout

from .replay import Job, Replay
from .traffic import mixed_traffic, play, scripts

LAYOUTS = [Layout(1, (2,)), Layout(1, (1, 3)), Layout(2, (2, 2)), Layout(2), Layout(0, (3,))]


def assert_sound(estimator: ReuseEstimator, chains: int) -> None:
    events = [*estimator._stack._tidied, *estimator._stack._order]
    assert estimator._stack.total == sum(event.weight for event in events if event.start < event.end)
    for event in events:
        assert event.weight >= chains * (event.end - event.start) >= 0 or event.past is None
    assert estimator._windows is None or estimator._windows._running.keys() <= estimator._held.keys()


@settings(max_examples=25, deadline=None)
@given(scripts(), st.sampled_from(LAYOUTS), st.sampled_from([127, 255]))
def test_at_the_observed_size_hits_are_those_of_the_pool(
    script: list[tuple[Job, int]], layout: Layout, observed: int
) -> None:
    replay = Replay([observed], observed, layout)
    play(replay, script)
    assert replay.estimator.histogram.total == replay.blocks
    assert replay.predicted(observed) == replay.observed.hit_blocks
    assert_sound(replay.estimator, layout.chains)


@pytest.mark.parametrize("layout", [Layout(1, (4,)), Layout(1, (8, 8, 8)), Layout(0, (6,))])
def test_other_sizes_are_some_points_off_at_most(layout: Layout) -> None:
    """Here chats and prompts are cut anywhere, and the pool keeps windows at each point: harder than what is usual."""
    replay = Replay((511, 1023, 2047), 1023, layout)
    play(replay, mixed_traffic(seed=3, requests=300, longest=40, cut=0.4))
    assert replay.estimator.histogram.total == replay.blocks
    assert_sound(replay.estimator, layout.chains)
    hits = {size: pool.hit_blocks / replay.blocks * 100 for size, pool in replay.pools.items()}
    errors = {size: replay.predicted(size) / replay.blocks * 100 - hit for size, hit in hits.items()}
    assert max(map(abs, errors.values())) < 5, (hits, errors)
