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
_LEAST = 2
"""Buckets before the one of a knee that say how much of it is smooth."""

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
    pod that was there for `coverage_percent` of the time, with gaps or without.

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
        inside = np.vstack((np.ones(len(middles)), (begins[:, None] < middles) & (middles <= ends[:, None])))
        lasts = np.concatenate(([window.seconds], np.full(len(ends), length)))

        def is_enough(seconds: Array, of: Array) -> Array:
            enough: Array = 100 * np.minimum(seconds, of) / of >= coverage_percent
            return enough

        covered = is_enough(inside @ window.covered_by_interval.max(axis=0), lasts)
        self.counts = covered[1:] & (self.tokens[1:, -1] > 0)
        """Which rolling parts are covered as the policy asks."""
        self.curves = np.column_stack((is_enough(self._spans(window), lasts[:, None]), np.ones(len(lasts), np.bool_)))
        """Which curves count in a part: of series that were there for long enough, and that of all together."""

    def hits(self, counts: Array, of: type[np.signedinteger[Any]]) -> Array:
        """Blocks of each part and curve up to each of some buckets; `counts` of each row and single bucket. `of`: the
        type that holds them all. `_LEAST` buckets come before them, in which nothing lies, and one after them."""
        before = _running_sums(counts, of)
        parts, series = self.high.shape
        hits = np.zeros((parts, series + 1, _LEAST + counts.shape[1] + 1), of)
        held = hits[:, :, _LEAST:-1]
        np.subtract(before[self.high], before[self.low], out=held[:, :-1])
        held[:, :-1].sum(axis=1, dtype=of, out=held[:, -1])
        return np.cumsum(hits, axis=2, out=hits)

    def _spans(self, window: Window) -> Array:
        """Seconds from the first to the last interval of each part and series. What lies between and was not seen
        counts, as its tokens do where the gap ends: the pod that needs most does not lose its say by a gap."""
        rows, any_rows = window.columns.rows, self.high > self.low
        first, last = np.where(any_rows, self.low, 0), np.where(any_rows, self.high - 1, 0)
        spans: Array = np.where(any_rows, window.columns.ends[last] - rows["start"][first], 0.0)
        return spans

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
    sums = blocks.reshape(len(blocks) * _BLOCK_ROWS, columns)
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
        self._hits = parts.hits(used, np.int32 if cumulative[-1] < 1 << 31 else np.int64)
        """Blocks that hit in a pool of each bucket's upper bound, from `_LEAST` before the first one on."""
        parts_and_curves = self._hits.shape[0] * self._hits.shape[1]
        self._curve_starts = np.arange(parts_and_curves).reshape(self._tokens.shape) * self._hits.shape[2]
        self._today = self._hits_today(today_bytes)

    def worst_places(self) -> tuple[Array, Array]:
        """Of each part: the largest bucket that a knee lies in, and of those in it, the largest share of it."""
        buckets = np.where(self._parts.curves & (self._loss(self._today) > self._allowed), self._knees(), -1)
        worst = buckets.max(axis=1)
        shares = np.zeros(buckets.shape)
        deciding = (buckets == worst[:, None]) & (buckets >= 0)
        shares[deciding] = self._shares(deciding.nonzero(), buckets[deciding])
        return worst, shares.max(axis=1)

    def _knees(self) -> Array:
        """The bucket that each curve's knee lies in: the first one at whose upper end the loss is allowed.

        The loss never rises with the size: halves are looked for, of all curves at once.
        """
        low, high = np.full(self._tokens.shape, self._first), np.full(self._tokens.shape, self._own_bucket)
        for _ in range((self._own_bucket - self._first).bit_length()):
            middle = (low + high) >> 1
            lost = (self._today - self._hits_at(self._curve_starts, middle)) * self._block_tokens / self._tokens
            allowed = (lost <= self._allowed) | (middle == high)
            high = np.where(allowed, middle, high)
            low = np.where(allowed, low, middle + 1)
        return high

    def _shares(self, places: tuple[Array, ...], buckets: Array) -> Array:
        """How far into its bucket each knee lies, by the logarithm of the size; of the curves at `places`."""
        inside = np.minimum(buckets, len(_BOUNDS) - 1)
        starts, tokens = self._curve_starts[places], self._tokens[places]
        block_tokens = self._block_tokens[places[1]]
        before, below, here, above = (self._hits_at(starts, inside + step) for step in (-2, -1, 0, 1))
        missing = np.maximum((self._today[places] - below) * block_tokens / tokens, 0.0) - self._allowed
        smooth = _smooth(inside, before, below, here, above) * block_tokens / tokens
        partly = (missing <= smooth) & (smooth > 0)
        shares: Array = np.where(partly, missing / np.where(partly, smooth, 1.0), _WHOLE_BUCKET)
        return shares

    def _hits_at(self, starts: Array, buckets: Array) -> Array:
        """Blocks of the curves that begin at `starts`, in pools of the buckets' upper bounds."""
        hits: Array = self._hits.reshape(-1).take(starts + (buckets - (self._first - _LEAST)))
        return hits

    def _hits_today(self, today_bytes: float) -> Array:
        """Blocks that hit today; what sticks out of the pool's own bucket counts in full, as in `HitRateCurve.loss`."""
        own = self._own_bucket
        place = own - self._first + _LEAST
        before, below, above = (self._hits[:, :, place + step] for step in (-2, -1, 0))
        if own == len(_BOUNDS):
            return below.astype(np.float64)
        if today_bytes == _BOUNDS[own]:
            return above.astype(np.float64)
        if own == 0:
            first: Array = above * today_bytes / _BOUNDS[0]
            return first
        share = math.log(today_bytes / _BOUNDS[own - 1]) / math.log(_BOUNDS[own] / _BOUNDS[own - 1])
        smooth = _smooth(own, before, below, above, self._hits[:, :, place + 1])
        today: Array = below + smooth * share + (above - below - smooth) * 1.0
        return today

    def _loss(self, blocks: Array) -> Array:
        loss: Array = np.maximum(blocks * self._block_tokens / self._tokens, 0.0)
        return loss


def _smooth(buckets: Array | int, before: Array, below: Array, here: Array, above: Array) -> Array:
    """The part of each bucket that its larger neighbour bears out, from the hits up to those around it."""
    held = here - below
    alone = (buckets == 0) | (buckets == len(_BOUNDS) - 1)
    smooth: Array = np.where(alone, held, np.minimum(held, np.maximum(below - before, above - here)))
    return smooth
