"""The hit-rate curve: which share of the tokens looked up a pool of a given size would have hit. Pure arithmetic.

Bounds of the reuse histogram are bytes of the pool, null block included, so sizes here are too. Where between two
bounds an observation lies is not known. For an estimate it is taken to be spread evenly over the logarithm of the size.
A knee must not rest on that alone: traffic that comes back after exactly one round puts all its mass on one point of a
bucket that is 9 % wide. Neighbours tell: what a bucket holds beyond the larger of its neighbours is taken to lie where
it harms most: for the pool that is asked for at the bucket's upper end (needs all of it), for the pool that one has at
its lower end (hits today). On smooth curves this changes nothing, at a spike it moves the knee to the bucket's end.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from vllm_plugin.names import REUSE_BUCKET_BOUNDS

_BOUNDS: tuple[float, ...] = REUSE_BUCKET_BOUNDS


@dataclass(frozen=True)
class HitRateCurve:
    """`cumulative[k]` blocks out of `lookup_tokens` tokens would hit in a pool of `REUSE_BUCKET_BOUNDS[k]` bytes."""

    cumulative: tuple[int, ...]
    block_tokens: int
    lookup_tokens: int

    def hit_rate(self, pool_bytes: float) -> float:
        """Share of tokens, 0 to 1, that a pool of this size would have hit: the best estimate."""
        return min(self._rate(self._blocks(pool_bytes, spike=None)), 1.0)

    def loss(self, pool_bytes: float, today_bytes: float) -> float:
        """Hit rate that `pool_bytes` loses against `today_bytes`; where a spike leaves doubt, the larger answer."""
        if pool_bytes >= today_bytes:
            return 0.0
        lost = self._blocks(today_bytes, spike=1.0) - self._blocks(pool_bytes, spike=0.0)
        return max(self._rate(lost), 0.0)

    def knee(self, allowed_loss: float, today_bytes: float) -> float:
        """The smallest pool, in bytes, that loses at most `allowed_loss` of hit rate against `today_bytes`."""
        if self.loss(0.0, today_bytes) <= allowed_loss:
            return 0.0
        # loss() never rises with the size: first the bucket at whose upper end it is low enough, then the place in it.
        low, high = 0, bisect_left(_BOUNDS, today_bytes)
        while low < high:
            middle = (low + high) // 2
            if self.loss(_BOUNDS[middle], today_bytes) <= allowed_loss:
                high = middle
            else:
                low = middle + 1
        if low == len(_BOUNDS):
            return today_bytes
        return min(self._place(low, allowed_loss, today_bytes), today_bytes)

    def restart_cost(self, pool_bytes: float, block_bytes: int) -> float:
        """Blocks that hit in a warm pool of this size and miss once it has been emptied.

        Of the blocks at depth x of the eviction order, (H(C) - H(x)) / (1 - H(x)) are asked for again before they leave
        a pool of C, where H is the share of lookups that hit in a pool of that size: those with a longer way back than
        x are still there, those with one of at most C come back in time. One block lies at each depth (docs/sizing.md).
        """
        in_time = self.hit_rate(pool_bytes)
        depths = [0.0, *_BOUNDS[: bisect_left(_BOUNDS, pool_bytes)], pool_bytes]
        shares = []
        for depth in depths:
            hit = self.hit_rate(depth)
            shares.append((in_time - hit) / (1 - hit) if hit < 1 else 0.0)
        return (
            sum(
                (deeper - depth) * (share + following) / 2
                for depth, deeper, share, following in zip(depths, depths[1:], shares, shares[1:], strict=False)
            )
            / block_bytes
        )

    def _place(self, bucket: int, allowed_loss: float, today_bytes: float) -> float:
        """Where in `bucket` the loss has come down to what is allowed; its upper end where only that will do."""
        below = _BOUNDS[bucket - 1] if bucket else 0.0
        above = _BOUNDS[bucket]
        missing = self.loss(below, today_bytes) - allowed_loss
        smooth = self._rate(self._smooth(bucket))
        if missing > smooth or smooth <= 0:
            return above
        share = missing / smooth
        return below * (above / below) ** share if bucket else above * share

    def _blocks(self, pool_bytes: float, spike: float | None) -> float:
        """Blocks that hit. `spike`: how much of what sticks out of the pool's bucket counts; None: by interpolation."""
        bucket = bisect_left(_BOUNDS, pool_bytes)
        if bucket == len(_BOUNDS):
            return float(self.cumulative[bucket - 1])
        above = _BOUNDS[bucket]
        if pool_bytes == above:
            return float(self.cumulative[bucket])
        if bucket == 0:
            return self.cumulative[0] * pool_bytes / above
        below = _BOUNDS[bucket - 1]
        share = math.log(pool_bytes / below) / math.log(above / below)
        smooth = self._smooth(bucket)
        sticking_out = self._held(bucket) - smooth
        return self.cumulative[bucket - 1] + smooth * share + sticking_out * (share if spike is None else spike)

    def _smooth(self, bucket: int) -> int:
        """The part of a bucket that its larger neighbour bears out."""
        held = self._held(bucket)
        if bucket in (0, len(_BOUNDS) - 1):
            return held
        return min(held, max(self._held(bucket - 1), self._held(bucket + 1)))

    def _held(self, bucket: int) -> int:
        return self.cumulative[bucket] - (self.cumulative[bucket - 1] if bucket else 0)

    def _rate(self, blocks: float) -> float:
        return blocks * self.block_tokens / self.lookup_tokens if self.lookup_tokens else 0.0
