"""What is counted of one engine's KV pool, whichever generation of vLLM the engine belongs to.

`pool` feeds it from a V1 engine, `block_manager` from a V0 engine; the exporter reads it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Sequence
from typing import Any, Callable

from vllm_plugin import curve, override
from vllm_plugin.backlog import Backlog
from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.guard import hook
from vllm_plugin.layout import Layout
from vllm_plugin.peaks import RollingPeak

_PATIENCE_SECONDS = 5.0
_OF_REQUESTS = ("active_bytes", "active_peak_bytes", "demand_peak_bytes", "reusable_bytes", "headroom_bytes")


class EngineTracker:
    """Counters, peaks and reuse distances of one KV pool, in blocks and tokens.

    Everything runs in the scheduler's thread but `report`, which reads, and makes the estimator's calls that wait.
    """

    engine_version = "V1"
    window_groups = 0
    """KV cache groups with a sliding window: their curve is an approximation."""

    def __init__(
        self, *, blocks: int, block_bytes: int, block_tokens: int, caching: bool, layout: Layout | None
    ) -> None:
        """`layout`: None where the pool does not evict in one order, that of release: then distances say nothing."""
        self.vllm_config: Any | None = None
        self.executor: Callable[[], Any] | None = None
        """Gives vLLM's executor, which knows whether the engine sleeps."""
        self.outcome = override.recall(os.environ) or override.Outcome()
        self.blocks = blocks
        self.block_bytes = block_bytes
        self.block_tokens = block_tokens
        self.caching = caching
        self._backlog = Backlog(hook("reuse"))
        self._estimator: ReuseEstimator | None = None
        if layout is not None and block_bytes > 0 and block_tokens > 0:
            self._estimator = ReuseEstimator(
                block_bytes=block_bytes, block_tokens=block_tokens, pool_blocks=blocks, layout=layout
            )
        self.requests = self.lookup_tokens = self.hit_tokens = 0
        self.preemptions = self.admissions_blocked = 0
        self._active_peak = RollingPeak()
        self._demand_peak = RollingPeak()
        self._waited: set[str] = set()
        self._preempted: set[str] = set()

    # --- What an engine's generation knows ------------------------------------------------------------------------

    def active_and_free(self) -> tuple[int, int]:
        """Blocks that requests hold, and free ones; the null block is neither."""
        raise NotImplementedError

    def reusable(self) -> int:
        """Cached blocks that no request holds."""
        raise NotImplementedError

    def alive(self) -> bool:
        """False once vLLM has dropped the pool."""
        raise NotImplementedError

    def floor_blocks(self) -> int:
        """The least number of blocks that vLLM starts with."""
        raise NotImplementedError

    # --- In the scheduler's thread --------------------------------------------------------------------------------

    def note_active(self, active: int) -> None:
        """So many blocks are held, and fewer will be after this."""
        self._active_peak.note(active, time.monotonic())

    def note_demand(self, blocks: int) -> None:
        """So many blocks are held or needed by the request that is to be admitted."""
        self._demand_peak.note(blocks, time.monotonic())

    def refused(self, request_id: str) -> None:
        """A request found too few free blocks."""
        if request_id not in self._waited:
            self._waited.add(request_id)
            self.admissions_blocked += 1

    def count_admission(self, request_id: str, tokens: int, hit_tokens: int, looked_up: bool) -> bool:
        """A request got its blocks; says whether that counts as a lookup, which a preempted request's does not."""
        again = request_id in self._preempted
        self._waited.discard(request_id)
        if again:
            return False
        self.requests += 1
        if looked_up or not self.caching:
            self.lookup_tokens += tokens
            self.hit_tokens += hit_tokens
        return looked_up

    def count_release(self, request_id: str, preempted: bool) -> None:
        """A request's blocks went back to the pool."""
        self.gone(request_id)
        if preempted:
            self.preemptions += 1
            self._preempted.add(request_id)

    def gone(self, request_id: str) -> None:
        """A request ended that held no blocks."""
        self._waited.discard(request_id)
        self._preempted.discard(request_id)

    # --- In any thread --------------------------------------------------------------------------------------------

    @property
    def estimator(self) -> ReuseEstimator | None:
        """The pool's estimator, None where reuse distances say nothing.

        It knows all that it was told so far: another thread that is about to tell it is waited for, but not for ever.
        What the scheduler itself calls does not ask.
        """
        self._backlog.clear(_PATIENCE_SECONDS)
        return self._estimator

    def report(self) -> dict[str, Any]:
        """Everything as plain values, sizes in bytes."""
        now = time.monotonic()
        active, _ = self.active_and_free()
        active_peak = max(self._active_peak.peak(now), active)
        estimator = self.estimator
        counts = list(estimator.histogram.counts) if estimator is not None else []
        capacity = self.blocks * self.block_bytes
        headroom: int | None = None
        if counts and self.block_tokens:
            knee = curve.knee_bytes(counts, self.lookup_tokens / self.block_tokens, capacity)
            headroom = int(max(knee - active_peak * self.block_bytes, 0.0))
        floor = hook("floor").within(self.floor_blocks)
        asleep = bool(getattr(self.executor() if self.executor is not None else None, "is_sleeping", False))
        report = {
            "engine_version": self.engine_version,
            "window_groups": self.window_groups,
            "blocks": self.blocks,
            "block_bytes": self.block_bytes,
            "block_tokens": self.block_tokens,
            "capacity_bytes": capacity,
            "active_bytes": active * self.block_bytes,
            "active_peak_bytes": active_peak * self.block_bytes,
            "demand_peak_bytes": max(self._demand_peak.peak(now), active_peak) * self.block_bytes,
            "reusable_bytes": self.reusable() * self.block_bytes,
            "headroom_bytes": headroom,
            "floor_bytes": None if floor is None else floor * self.block_bytes,
            "preemptions": self.preemptions,
            "admissions_blocked": self.admissions_blocked,
            "requests": self.requests,
            "lookup_tokens": self.lookup_tokens,
            "hit_tokens": self.hit_tokens,
            "reuse_counts": counts,
            "reuse_sum_bytes": estimator.histogram.sum_bytes if estimator is not None else 0,
            "asleep": int(asleep),
        }
        # An engine whose KV cache is gone serves nobody: that it holds nothing is no demand.
        return {**report, **dict.fromkeys(_OF_REQUESTS)} if asleep else report


Hashes = Sequence[Hashable]
"""Chained hashes of a request's full blocks."""
