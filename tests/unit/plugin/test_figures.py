"""Peaks, the histogram's buckets, and the headroom that follows from them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from vllm_plugin.curve import hits_at, knee_bytes
from vllm_plugin.geometry import block_bytes, pool_bytes
from vllm_plugin.histogram import ReuseHistogram
from vllm_plugin.names import REUSE_BUCKET_BOUNDS
from vllm_plugin.peaks import RollingPeak

MIB = 1 << 20


def test_peak_of_the_last_minute() -> None:
    peak = RollingPeak()
    assert peak.peak(0.0) == 0
    peak.note(7, 100.2)
    peak.note(3, 100.9)
    peak.note(5, 130.0)
    assert peak.peak(160.0) == 7
    assert peak.peak(161.5) == 5
    assert peak.peak(300.0) == 0


def test_a_distance_falls_into_the_bucket_of_the_pool_that_it_needs() -> None:
    histogram = ReuseHistogram(MIB)
    for distance in (0, 1, 2, 3, 100, 1 << 18):
        before = list(histogram.counts)
        histogram.add(distance, 1)
        (bucket,) = (index for index, count in enumerate(histogram.counts) if count != before[index])
        needed = (distance + 1) * MIB
        bounds = (0.0, *REUSE_BUCKET_BOUNDS, float("inf"))
        assert bounds[bucket] < needed <= bounds[bucket + 1]


@pytest.mark.parametrize(("distance", "blocks"), [(0, 1), (0, 50), (5, 1000), (1 << 17, 1 << 18), (3, 0)])
def test_a_run_is_as_many_single_observations(distance: int, blocks: int) -> None:
    together, single = ReuseHistogram(MIB), ReuseHistogram(MIB)
    together.add_run(distance, blocks)
    for index in range(blocks):
        single.add(distance + index, 1)
    assert together.counts == single.counts
    assert together.sum_bytes == single.sum_bytes


def counts_of(*distances: int) -> list[int]:
    histogram = ReuseHistogram(MIB)
    for distance in distances:
        histogram.add(distance, 1)
    return histogram.counts


def test_hits_grow_with_the_pool_and_agree_with_the_bounds() -> None:
    counts = counts_of(0, 1, 3, 7, 7, 15, 200, 3000)
    for bucket, bound in enumerate(REUSE_BUCKET_BOUNDS):
        assert hits_at(counts, bound) == pytest.approx(sum(counts[: bucket + 1]))
    sizes = [MIB * 1.03**step for step in range(-10, 450)]
    hits = [hits_at(counts, size) for size in sizes]
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(hits))
    assert hits_at(counts, 0) == 0
    assert hits_at(counts, 1e15) == 8


def test_the_knee_is_the_smallest_pool_within_the_tolerance() -> None:
    counts = counts_of(*([15] * 900), *([1023] * 5), *([2047] * 90))
    size = 4096 * MIB
    knee = knee_bytes(counts, 1000, size)
    allowed = 1000 * min(0.01, 0.05 * 0.005)
    assert hits_at(counts, knee) == pytest.approx(hits_at(counts, size) - allowed)
    assert 1024 * MIB < knee < 2048 * MIB
    # With many misses one point may go, and with it the five blocks in the middle.
    assert knee_bytes(counts_of(*([15] * 900), *([1023] * 5)), 2000, size) < 17 * MIB


def test_without_traffic_there_is_no_knee() -> None:
    assert knee_bytes(counts_of(), 0, MIB) == 0
    assert knee_bytes(counts_of(), 10, MIB) == 0


def tensor(size: int, **layout: object) -> SimpleNamespace:
    return SimpleNamespace(size=size, **layout)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        # 0.7 and 0.8: a tensor a layer.
        (SimpleNamespace(tensors={"a": tensor(5 * MIB), "b": tensor(5 * MIB)}), 10 * MIB),
        # 0.9 to 0.23: layers that share a tensor are listed once.
        (SimpleNamespace(kv_cache_tensors=[tensor(5 * MIB, shared_by=["a", "b"]), tensor(5 * MIB)]), 10 * MIB),
        # 0.24 to 0.28, packed: views of one allocation.
        (
            SimpleNamespace(kv_cache_tensors=[tensor(10 * MIB, block_stride=4096, offset=at) for at in (0, 64)]),
            10 * MIB,
        ),
        # And not packed.
        (SimpleNamespace(kv_cache_tensors=[tensor(5 * MIB, block_stride=0, offset=0) for _ in "ab"]), 10 * MIB),
        # Since 0.30 each says how large the whole is; what lies on the host is no part of it.
        (
            SimpleNamespace(
                kv_cache_tensors=[
                    tensor(10 * MIB, block_stride=4096, layers=["a"]),
                    tensor(10 * MIB, block_stride=4096, layers=["b"]),
                    tensor(99 * MIB, block_stride=4096, layers=["c"], host_resident=True),
                ]
            ),
            10 * MIB,
        ),
        # A model without a KV cache.
        (SimpleNamespace(kv_cache_tensors=[]), 0),
    ],
)
def test_the_pool_by_each_releases_own_words(config: SimpleNamespace, size: int) -> None:
    config.num_blocks = 10
    assert pool_bytes(config) == size
    assert block_bytes(config) == size // 10
