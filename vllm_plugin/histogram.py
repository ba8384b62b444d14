"""The reuse histogram: how large a pool must be for each block looked up to have been a hit."""

from __future__ import annotations

from bisect import bisect_left

from vllm_plugin.names import REUSE_BUCKET_BOUNDS


class ReuseHistogram:
    """Observations in bytes of the pool, null block included; distances come in as usable blocks.

    A block at distance `d` needs `d` usable blocks, hence a pool of `(d + 1) * block_bytes`.
    """

    __slots__ = ("_limits", "block_bytes", "counts", "sum_bytes")

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.counts = [0] * (len(REUSE_BUCKET_BOUNDS) + 1)
        """Blocks per bucket, not cumulative; the last one is +Inf."""
        self.sum_bytes = 0
        """Sum of the finite observations."""
        # The largest distance in blocks that still falls below each bound, so that observing needs integers only.
        self._limits = [int(bound // block_bytes) - 1 for bound in REUSE_BUCKET_BOUNDS]

    @property
    def total(self) -> int:
        """All blocks observed."""
        return sum(self.counts)

    def add(self, distance: int, blocks: int) -> None:
        """`blocks` blocks at one distance."""
        self.counts[bisect_left(self._limits, distance)] += blocks
        self.sum_bytes += (distance + 1) * self.block_bytes * blocks

    def add_run(self, distance: int, blocks: int, step: int = 1) -> None:
        """Consecutive blocks of a chain: the first at `distance`, each next one `step` blocks further."""
        self.sum_bytes += blocks * (2 * (distance + 1) + (blocks - 1) * step) * self.block_bytes // 2
        counts = self.counts
        limits = self._limits
        bucket = bisect_left(limits, distance)
        last = bisect_left(limits, distance + (blocks - 1) * step, bucket)
        before = 0
        while bucket < last:
            # Steps that still fall below the bucket's bound.
            below = (limits[bucket] - distance) // step + 1
            counts[bucket] += below - before
            before = below
            bucket += 1
        counts[last] += blocks - before

    def add_unseen(self, blocks: int) -> None:
        """Blocks that no pool would have kept: never seen, or forgotten."""
        self.counts[-1] += blocks
