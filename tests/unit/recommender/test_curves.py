"""The knee against counting by hand, on reuse distances of real LRU stacks."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from functools import cache
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from synthetic import BLOCK_BYTES, BLOCK_TOKENS, packed

from recommender.curves import HitRateCurve
from recommender.histograms import counts_of, pack, packed_of, smallest_type, unpack
from vllm_plugin.names import REUSE_BUCKET_BOUNDS

Distances = list[int | None]


def lru_distances(accesses: list[int]) -> Distances:
    """How many distinct blocks were touched since the last access to each: the stack distance, None when new."""
    stack: list[int] = []
    found: Distances = []
    for block in accesses:
        if block in stack:
            place = stack.index(block)
            found.append(len(stack) - place)
            del stack[place]
        else:
            found.append(None)
        stack.append(block)
    return found


def curve_of(distances: Distances) -> HitRateCurve:
    return HitRateCurve(unpack(packed(distances)), BLOCK_TOKENS, max(len(distances), 1) * BLOCK_TOKENS)


def hits(distances: Distances, blocks: int) -> int:
    """By hand: a block at distance d hits in a pool of d usable blocks and the null block."""
    return sum(d is not None and d + 1 <= blocks for d in distances)


def knee_by_hand(distances: Distances, allowed: float, own_blocks: int) -> int:
    wanted = hits(distances, own_blocks) - allowed * len(distances)
    # A larger pool hits no less: the smallest one that hits enough is found by halving.
    return bisect_left(range(own_blocks + 1), wanted, key=lambda blocks: hits(distances, blocks))


def zipf(draws: int, blocks: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    weights = list(accumulate(1 / (rank + 1) ** 0.7 for rank in range(blocks)))
    return draw.choices(range(blocks), cum_weights=weights, k=draws)


@cache
def zipf_distances(seed: int) -> Distances:
    return lru_distances(zipf(6000, 900, seed))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("allowed", [0.002, 0.01, 0.05])
def test_knee_is_within_three_percent_of_counting_by_hand(seed: int, allowed: float) -> None:
    distances = zipf_distances(seed)
    knee = curve_of(distances).knee(allowed, 800 * BLOCK_BYTES) / BLOCK_BYTES
    by_hand = knee_by_hand(distances, allowed, 800)
    assert knee == pytest.approx(by_hand, rel=0.03)


@pytest.mark.parametrize("round_blocks", [100, 333, 700, 777])
def test_a_loop_needs_all_of_its_round(round_blocks: int) -> None:
    """All distances are one number: a block less, and every lookup misses."""
    distances = lru_distances(list(range(round_blocks)) * 8)
    knee = curve_of(distances).knee(0.01, 800 * BLOCK_BYTES)
    assert knee >= (round_blocks + 1) * BLOCK_BYTES
    assert knee <= (round_blocks + 1) * BLOCK_BYTES * 2 ** (1 / 8)


def test_two_loops_of_different_length_keep_the_longer_one() -> None:
    distances: Distances = [500] * 300 + [60] * 5000 + [None] * 1000
    assert curve_of(distances).knee(0.01, 4000 * BLOCK_BYTES) >= 501 * BLOCK_BYTES


def test_a_spike_beside_todays_pool_counts_as_hit_today() -> None:
    own = 800
    distances: Distances = [790] * 500 + [50] * 500
    assert curve_of(distances).knee(0.01, own * BLOCK_BYTES) == own * BLOCK_BYTES


@given(
    distances=st.lists(st.one_of(st.none(), st.integers(0, 3000)), min_size=1, max_size=300),
    own_blocks=st.integers(2, 4000),
    allowed=st.floats(0.0001, 0.3),
)
@example(distances=[None, None, None, 181, 197], own_blocks=198, allowed=0.25)
@settings(max_examples=60, deadline=None)
def test_knee_keeps_what_its_bucket_shows(distances: Distances, own_blocks: int, allowed: float) -> None:
    """Never below the bucket in which counting by hand ends, and never above the own pool."""
    curve, own = curve_of(distances), own_blocks * BLOCK_BYTES
    knee = curve.knee(allowed, own)
    assert 0 <= knee <= own
    assert curve.loss(knee, own) <= allowed + 1e-9
    # What lies inside the own pool's bucket may count as hit today or not; what lies below it surely does.
    sure = bisect_right(REUSE_BUCKET_BOUNDS, own)
    sure_blocks = int(REUSE_BUCKET_BOUNDS[sure - 1] // BLOCK_BYTES) if sure else 0
    by_hand = knee_by_hand(distances, allowed, sure_blocks) * BLOCK_BYTES
    # The answer lies in the bucket in which counting by hand ends, or above it.
    assert bisect_left(REUSE_BUCKET_BOUNDS, knee) >= bisect_left(REUSE_BUCKET_BOUNDS, by_hand) or by_hand <= BLOCK_BYTES


@given(
    distances=st.lists(st.one_of(st.none(), st.integers(0, 3000)), min_size=1, max_size=200),
    sizes=st.lists(st.integers(1, 4000), min_size=2, max_size=8),
    allowed=st.lists(st.floats(0.0001, 0.5), min_size=2, max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_monotone(distances: Distances, sizes: list[int], allowed: list[float]) -> None:
    curve = curve_of(distances)
    own = 3000 * BLOCK_BYTES
    rates = [curve.hit_rate(size * BLOCK_BYTES) for size in sorted(sizes)]
    assert rates == sorted(rates)
    assert all(0 <= rate <= 1 for rate in rates)
    losses = [curve.loss(size * BLOCK_BYTES, own) for size in sorted(sizes)]
    assert losses == sorted(losses, reverse=True)
    knees = [curve.knee(loss, own) for loss in sorted(allowed)]
    assert knees == sorted(knees, reverse=True)


def test_hit_rate_at_a_bound_is_exact() -> None:
    distances = lru_distances(zipf(4000, 900, 7))
    curve = curve_of(distances)
    for bound in REUSE_BUCKET_BOUNDS[8:90:8]:
        blocks = int(bound // BLOCK_BYTES)
        assert curve.hit_rate(bound) == pytest.approx(hits(distances, blocks) / len(distances))


def test_nothing_looked_up_needs_nothing() -> None:
    curve = HitRateCurve((0,) * 146, BLOCK_TOKENS, 0)
    assert curve.hit_rate(1e9) == 0.0
    assert curve.knee(0.01, 1e9) == 0.0


def test_beyond_the_last_bound_the_curve_is_flat() -> None:
    curve = curve_of([5, 10, None])
    assert curve.hit_rate(1e15) == pytest.approx(2 / 3)
    assert curve.knee(1e-9, 1e15) < 1e9


@given(st.lists(st.integers(0, 2**40), min_size=146, max_size=146))
@settings(max_examples=30, deadline=None)
def test_packing_is_lossless_and_adds(counts: list[int]) -> None:
    cumulative = list(accumulate(counts))
    both = pack(cumulative) + pack(cumulative)
    assert unpack(both) == tuple(2 * count for count in cumulative)
    single = counts_of([both, pack(cumulative)], 2**60)
    assert single.tolist() == [[2 * count for count in counts], counts]
    assert packed_of(single.astype(smallest_type(single))[0, :-1], 2 * counts[-1]) == both


@pytest.mark.parametrize(("largest", "width"), [(0, 2), (65_535, 2), (65_536, 4), (2**32 - 1, 4), (2**32, 8)])
def test_a_stored_histogram_is_as_wide_as_its_counts(largest: int, width: int) -> None:
    counts = np.zeros((1, 146), np.int64)
    counts[0, 7] = largest
    narrow = counts.astype(smallest_type(counts))
    assert narrow.itemsize == width
    assert narrow.tolist() == counts.tolist()
