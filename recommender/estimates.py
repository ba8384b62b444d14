"""What can be said of a pool without the plugin: an interval, from what vLLM shows of itself (docs/sizing.md §5).

Pure: samples in, an estimate out. Nothing is sized by it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from recommender.api.policies import HitRateLoss
from recommender.vllm_pages import VLLMSample

_LOW_PERCENTILE = 99
_UNSEEN_SHARE = 0.001
"""Of the time. The SLO allows so many admissions to wait."""
_LARGEST_CONFIDENCE = 0.95
_CELLS = 1000
"""Usage is kept by the tenth of a percent."""
_PARTS = 6
"""The window is forgotten in so many parts."""


@dataclass(frozen=True)
class Estimate:
    """The smallest pool that would do lies between `low_blocks` and `high_blocks`, with probability `confidence`.

    Blocks include the null block. `since` is in seconds since the epoch; `hit_rate` is None where it is not known.
    """

    blocks: int
    block_tokens: int
    low_blocks: int
    high_blocks: int
    confidence: float
    hit_rate: float | None
    preemptions: int
    samples: int
    since: float

    @property
    def message(self) -> str:
        """The estimate in a sentence."""
        low, high = self.low_blocks / self.blocks, self.high_blocks / self.blocks
        return (
            f"estimated from vLLM's own metrics: {low:.0%} to {high:.0%} of the KV cache is needed "
            f"(confidence {self.confidence:.2f}, {self.samples} samples); an estimate is never applied"
        )


@dataclass
class _Part:
    """A sixth of the window."""

    start: float
    usage: Counter[int] = field(default_factory=Counter)
    queries: int = 0
    hits: int = 0
    preemptions: int = 0
    hit_rate: float = 0.0


class Sightings:
    """What was seen of one engine during its policy's window, and up to a sixth of it more."""

    def __init__(self, window_seconds: float) -> None:
        self._part_seconds = window_seconds / _PARTS
        self._parts: list[_Part] = []
        self._last: VLLMSample | None = None

    def take(self, sample: VLLMSample, at: float) -> None:
        """Count a sample. What vLLM counted before the first one counts, too: it was under the same arguments."""
        # A clock that was set back begins a part, too: the last one would not end before it has come so far again.
        if not self._parts or not 0 <= at - self._parts[-1].start < self._part_seconds:
            self._parts = [*self._parts[-_PARTS:], _Part(at)]
        last, part = self._last, self._parts[-1]
        if last is None or (sample.queries, sample.preemptions) < (last.queries, last.preemptions):
            # The first, or of a process that was started anew.
            last = None
        part.usage[math.ceil(sample.usage * _CELLS)] += 1
        part.queries += sample.queries - (last.queries if last else 0)
        part.hits += max(sample.hits - (last.hits if last else 0), 0)
        part.preemptions += max(sample.preemptions - (last.preemptions if last else 0), 0)
        part.hit_rate = max(part.hit_rate, sample.hit_rate or 0.0)
        self._last = sample

    def estimate(self, tolerated: HitRateLoss) -> Estimate | None:
        """The interval of the smallest pool that loses no more hits than `tolerated`; None without a sample."""
        last = self._last
        if last is None:
            return None
        usage = sum((part.usage for part in self._parts), Counter[int]())
        count = usage.total()
        queries, hits = sum(part.queries for part in self._parts), sum(part.hits for part in self._parts)
        preemptions = sum(part.preemptions for part in self._parts)
        hit_rate = hits / queries if queries else max(part.hit_rate for part in self._parts)
        shortest, longest = (math.ceil(tokens / last.block_tokens) + 1 for tokens in last.context_tokens)
        # vLLM refuses to start with less than one request of its longest context.
        low = max(_percentile(usage, count) * last.blocks // _CELLS, shortest)
        high = last.blocks
        lost = last.shows_hits and _may_be_lost(hit_rate, tolerated)
        if lost and not preemptions and last.largest_tokens:
            # Without a cache to keep, what requests hold decides. The most of them may have run between two samples:
            # leave room for one more.
            request = math.ceil(last.largest_tokens / last.block_tokens)
            high = max(math.ceil(max(usage) * last.blocks / _CELLS) + request + 1, longest)
        return Estimate(
            blocks=last.blocks,
            block_tokens=last.block_tokens,
            low_blocks=min(low, last.blocks),
            high_blocks=min(high, last.blocks),
            confidence=min(1 - (1 - _UNSEEN_SHARE) ** count, _LARGEST_CONFIDENCE),
            hit_rate=hit_rate if last.shows_hits and last.largest_tokens else None,
            preemptions=preemptions,
            samples=count,
            since=self._parts[0].start,
        )


def worst(estimates: Iterable[Estimate]) -> Estimate | None:
    """One for several engines: one flag serves them all, so the largest of each bound, and the least confidence."""
    found = sorted(estimates, key=lambda one: one.high_blocks)
    if not found:
        return None
    last = found[-1]
    return Estimate(
        blocks=last.blocks,
        block_tokens=last.block_tokens,
        low_blocks=min(max(one.low_blocks for one in found), last.high_blocks),
        high_blocks=last.high_blocks,
        confidence=min(one.confidence for one in found),
        hit_rate=last.hit_rate,
        preemptions=sum(one.preemptions for one in found),
        samples=min(one.samples for one in found),
        since=min(one.since for one in found),
    )


def _percentile(usage: Counter[int], count: int) -> int:
    """The cell that all but one percent of the samples do not exceed. Cells are rounded up: the one below is sure."""
    beyond = count * (100 - _LOW_PERCENTILE) // 100
    for cell in sorted(usage, reverse=True):
        beyond -= usage[cell]
        if beyond < 0:
            return max(cell - 1, 0)
    return 0


def _may_be_lost(hit_rate: float, tolerated: HitRateLoss) -> bool:
    """Would a pool without any hit still lose no more than the policy tolerates?"""
    return hit_rate <= min(tolerated.points / 100, tolerated.miss_ratio_percent / 100 * (1 - hit_rate))
