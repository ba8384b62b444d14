"""The knees of a window and of its rolling parts, each that of the worst pod, all at once. Pure.

A window of ten pods has 450 curves. Counts are summed up once over time, so that a curve is the difference of two
rows, and all knees are looked for side by side. The arithmetic is that of `HitRateCurve.knee`, operation by operation,
and so are the results; only the last step, from a place in a bucket to bytes, is left for the one that decides.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.windows import ROLLING_PARTS, Window, rank_of
from vllm_plugin.names import REUSE_BUCKET_BOUNDS

_BOUNDS: tuple[float, ...] = REUSE_BUCKET_BOUNDS
_WHOLE_BUCKET = 2.0
"""A share that no place within a bucket has: only its upper end will do."""

_BLOCK_ROWS = 10

Array = NDArray[Any]


@dataclass(frozen=True)
class WorstKnees:
    """Bytes. `rolling` is the percentile over `parts` rolling parts; None where none is covered."""

    whole: float
    rolling: float | None
    parts: int


def worst_knees(
    window: Window, allowed_loss: float, today_bytes: float, coverage_percent: float, percentile: float
) -> WorstKnees:
    """The largest knee of the window, and of its rolling parts: of the curve of all pods together, and of that of each
    pod that was there for `coverage_percent` of the time.

    Distances scale with a pod's own traffic, so that the sum alone would hide a pod that is busier than the rest.
    """
    parts = _Parts(window, coverage_percent)
    buckets, shares = _Curves(window, parts, allowed_loss, today_bytes).worst_places()
    covered = parts.counts.nonzero()[0] + 1
    rolling = None
    if len(covered):
        order = covered[np.lexsort((shares[covered], buckets[covered]))]
        decides = order[rank_of(len(order), percentile)]
        rolling = _size_of(int(buckets[decides]), float(shares[decides]), today_bytes)
    return WorstKnees(_size_of(int(buckets[0]), float(shares[0]), today_bytes), rolling, len(covered))


def _size_of(bucket: int, share: float, today_bytes: float) -> float:
    """Bytes of a place: `HitRateCurve.knee` from where its bucket is known."""
    if bucket < 0:
        return 0.0
    if bucket == len(_BOUNDS):
        return today_bytes
    below, above = _BOUNDS[bucket - 1] if bucket else 0.0, _BOUNDS[bucket]
    if share == _WHOLE_BUCKET:
        size = above
    else:
        size = below * (above / below) ** share if bucket else above * share
    return min(size, today_bytes)


class _Parts:
    """The window itself, then its rolling parts: which rows of each series belong to it, and which curves count."""

    def __init__(self, window: Window, coverage_percent: float) -> None:
        lengths = window.lengths
        middles, rows_before = window.rows_by_interval()
        ends = np.array(window.part_ends())
        length = window.seconds / ROLLING_PARTS
        begins = ends - length
        first = lengths.cumsum() - lengths
        self.low: Array = first + np.vstack((rows_before[0], rows_before[np.searchsorted(middles, begins, "right")]))
        self.high: Array = first + np.vstack((lengths, rows_before[np.searchsorted(middles, ends, "right")]))
        """Rows [low, high) of each part and series."""
        tokens = self._sums(np.concatenate(([0], window.columns.rows["lookup_tokens"].cumsum())))
        self.tokens: Array = np.concatenate((tokens, tokens.sum(axis=1, keepdims=True)), axis=1)
        """Looked up, of each part and series, and last of all series together."""
        seen = window.covered_by_interval
        inside = np.vstack((np.ones(len(middles)), (begins[:, None] < middles) & (middles <= ends[:, None])))
        lasts = np.concatenate(([window.seconds], np.full(len(ends), length)))[:, None]
        seen = np.vstack((seen, seen.max(axis=0)))
        covered = 100 * np.minimum(inside @ seen.T, lasts) / lasts >= coverage_percent
        self.counts = covered[1:, -1] & (self.tokens[1:, -1] > 0)
        """Which rolling parts are covered as the policy asks."""
        covered[:, -1] = True
        self.curves = covered
        """Which curves count in a part: of series that are covered by themselves, and that of all together."""

    def hits(self, counts: Array, of: type[np.signedinteger[Any]]) -> Array:
        """Blocks of each part and curve up to each of some buckets; `counts` of each row and single bucket. `of`: the
        type that holds them all."""
        alone = self._sums(_running_sums(counts, of))
        found = np.concatenate((alone, alone.sum(axis=1, keepdims=True, dtype=of)), axis=1)
        return np.cumsum(found, axis=2, out=found)

    def _sums(self, before: Array) -> Array:
        """Sums over the rows of each part and series, from the sums of all rows before each."""
        sums: Array = before[self.high] - before[self.low]
        return sums


def _running_sums(counts: Array, of: type[np.signedinteger[Any]]) -> Array:
    """The sums of all rows before each, and, last, of all: (rows + 1, columns).

    In blocks, the same row of all at once: NumPy's own sum along this axis goes column by column, in twice the time.
    """
    rows, columns = counts.shape
    blocks = np.zeros((rows // _BLOCK_ROWS + 1, _BLOCK_ROWS, columns), of)
    sums = blocks.reshape(-1, columns)
    sums[1 : rows + 1] = counts
    for place in range(1, _BLOCK_ROWS):
        here = blocks[:, place]
        np.add(here, blocks[:, place - 1], out=here)
    if len(blocks) > 1:
        blocks[1:] += _running_sums(blocks[:-1, -1], of)[1:, None]
    return sums[: rows + 1]


class _Curves:
    """The curves of all parts: of each series by itself, and, last, of all together (parts, series + 1)."""

    def __init__(self, window: Window, parts: _Parts, allowed_loss: float, today_bytes: float) -> None:
        self._parts = parts
        self._allowed = allowed_loss
        self._block_tokens = np.array([*window.block_tokens_of_each, window.block_tokens], np.float64)
        # Where nothing was looked up nothing is lost.
        self._tokens = np.where(parts.tokens > 0, parts.tokens, np.inf)
        self._own_bucket = bisect_left(_BOUNDS, today_bytes)
        # A knee needs the buckets from the first one that anything lies in to the one after today's pool.
        cumulative = window.curve().cumulative
        self._first = min(bisect_right(cumulative, 0), self._own_bucket)
        used = window.columns.counts[:, self._first : min(self._own_bucket + 2, len(_BOUNDS))]
        # A window's counts nearly always have room in half the memory, which is what all this waits for.
        self._table = parts.hits(used, np.int32 if cumulative[-1] < 1 << 31 else np.int64)
        shape = self._table.shape
        self._curve_starts = np.arange(0, shape[0] * shape[1] * shape[2], max(shape[2], 1)).reshape(shape[:2])
        self._today = self._hits_today(today_bytes)

    def worst_places(self) -> tuple[Array, Array]:
        """Of each part: the largest bucket that a knee lies in, and of those in it, the largest share of it."""
        searched = self._table[:, :, : self._own_bucket - self._first]
        lost = (self._today[:, :, None] - searched) * self._block_tokens[:, None] / self._tokens[:, :, None]
        # The loss never rises with the size: the knee lies in the first bucket at whose upper end it is allowed.
        found = self._first + (lost > self._allowed).sum(axis=2)
        shares = self._shares(found)
        counted = self._parts.curves & (self._loss(self._today) > self._allowed)
        buckets = np.where(counted, found, -1)
        worst = buckets.max(axis=1)
        return worst, np.where(counted & (buckets == worst[:, None]), shares, 0.0).max(axis=1)

    def _shares(self, buckets: Array) -> Array:
        """How far into its bucket each knee lies, by the logarithm of the size."""
        inside = np.minimum(buckets, len(_BOUNDS) - 1)
        missing = self._loss(self._today - self._hits(inside - 1)) - self._allowed
        smooth = self._rate(self._smooth(inside))
        partly = (missing <= smooth) & (smooth > 0)
        return np.where(partly, missing / np.where(partly, smooth, 1.0), _WHOLE_BUCKET)

    def _smooth(self, buckets: Array) -> Array:
        """The part of a bucket that its larger neighbour bears out."""
        last = len(_BOUNDS) - 1
        before, below, here, above = (self._hits(buckets + step) for step in (-2, -1, 0, 1))
        held = here - below
        alone = (buckets == 0) | (buckets == last)
        smooth: Array = np.where(alone, held, np.minimum(held, np.maximum(below - before, above - here)))
        return smooth

    def _hits(self, buckets: Array) -> Array:
        """Blocks of each curve that hit in a pool of the bucket's upper bound."""
        width = self._table.shape[2]
        if not width:
            return np.zeros(buckets.shape, np.int64)
        place = buckets - self._first
        hits = self._table.reshape(-1)[self._curve_starts + np.minimum(np.maximum(place, 0), width - 1)]
        return np.where(place < 0, 0, hits)

    def _hits_today(self, today_bytes: float) -> Array:
        """Blocks that hit today; what sticks out of the pool's own bucket counts in full, as in `HitRateCurve.loss`."""
        own, shape = self._own_bucket, self._tokens.shape
        if own == len(_BOUNDS):
            return self._hits(np.full(shape, own - 1)).astype(np.float64)
        above = self._hits(np.full(shape, own))
        if today_bytes == _BOUNDS[own]:
            return above.astype(np.float64)
        if own == 0:
            first: Array = above * today_bytes / _BOUNDS[0]
            return first
        below = self._hits(np.full(shape, own - 1))
        share = math.log(today_bytes / _BOUNDS[own - 1]) / math.log(_BOUNDS[own] / _BOUNDS[own - 1])
        smooth = self._smooth(np.full(shape, own))
        today: Array = below + smooth * share + (above - below - smooth) * 1.0
        return today

    def _loss(self, blocks: Array) -> Array:
        return np.maximum(self._rate(blocks), 0.0)

    def _rate(self, blocks: Array) -> Array:
        rate: Array = blocks * self._block_tokens / self._tokens
        return rate
