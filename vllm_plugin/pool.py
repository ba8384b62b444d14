"""One engine's KV pool as the plugin sees it: fed by `hooks.pool`, read by the exporter."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from typing import Any

from vllm_plugin import curve, geometry, override
from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.guard import hook
from vllm_plugin.peaks import RollingPeak

_SCAN_SECONDS = 60.0


class PoolTracker:
    """Counters, peaks and reuse distances of one `KVCacheManager`.

    Everything runs in the scheduler's thread except `report`, which only reads.
    """

    def __init__(self, manager: Any, max_model_len: int) -> None:
        config = manager.kv_cache_config
        self._manager = weakref.ref(manager)
        self._pool = weakref.ref(manager.block_pool)
        self.config = config
        self.vllm_config: Any | None = None
        self.outcome = override.recall(os.environ) or override.Outcome()
        self.max_model_len = max_model_len
        self.blocks = int(config.num_blocks)
        self.block_bytes = geometry.block_bytes(config)
        specs = [group.kv_cache_spec for group in geometry.device_groups(config)]
        self.block_tokens = int(getattr(specs[0], "block_size", 0)) if specs else 0
        # The hashes of a request may be finer than its blocks (hybrid models): then every n-th one is a block's.
        hash_tokens = int(getattr(manager.block_pool, "hash_block_size", 0) or self.block_tokens)
        self._hash_step = max(self.block_tokens // hash_tokens, 1) if hash_tokens else 1
        self._group_tokens = [int(getattr(spec, "block_size", self.block_tokens)) for spec in specs]
        self.caching = bool(getattr(manager, "enable_caching", True))
        self.estimator: ReuseEstimator | None = None
        reuse = hook("reuse")
        if len(specs) > 1:
            # Windows free blocks while requests run, and each group has an order of its own: one curve would be wrong.
            reuse.switch_off(f"the model has {len(specs)} KV cache groups, so its reuse distances are not known")
        elif self.block_bytes > 0 and self.block_tokens > 0:
            self.estimator = ReuseEstimator(
                block_bytes=self.block_bytes, block_tokens=self.block_tokens, pool_blocks=self.blocks
            )
        self._null_blocks = 1 if hasattr(manager.block_pool, "null_block") else 0
        self.requests = self.lookup_tokens = self.hit_tokens = 0
        self.preemptions = self.admissions_blocked = 0
        self._active_peak = RollingPeak()
        self._demand_peak = RollingPeak()
        self._waited: set[str] = set()
        self._preempted: set[str] = set()
        # Released blocks without a hash that were not handed out again yet.
        self._spare = 0
        # Free blocks without a hash, the never used ones included.
        self._hashless = self.active_and_free()[1]
        # Since 0.24 vLLM puts such blocks before the cached ones and hands them out first; that order makes the
        # count above exact. Where a connector or a window frees blocks in other ways, it has to be counted out.
        self._ordered = hasattr(manager.block_pool.free_block_queue, "prepend_n") and len(specs) == 1
        self._scanned: tuple[float, int] | None = None
        """When the reusable blocks were last counted out, and how many they were."""

    # --- In the scheduler's thread -----------------------------------------------------------------------------

    def active_and_free(self) -> tuple[int, int]:
        """Blocks that requests hold, and free ones; the null block is neither."""
        pool = self._pool()
        if pool is None:
            return 0, 0
        free = int(pool.free_block_queue.num_free_blocks)
        return self.blocks - self._null_blocks - free, free

    def handed_out(self, blocks: int) -> None:
        """The pool gave blocks to a request: those without a hash went first."""
        self._spare = max(self._spare - blocks, 0)
        self._hashless = max(self._hashless - blocks, 0)

    def sought(self, request: Any, hits: Sequence[Any]) -> None:
        """The scheduler looks whether a request can be admitted. `hits`: the blocks found, of one group."""
        active, _ = self.active_and_free()
        wanted = sum(geometry.ceil_div(request.num_tokens, tokens) for tokens in self._group_tokens)
        now = time.monotonic()
        self._demand_peak.note(active + max(wanted - _leading_held(hits) * len(self._group_tokens), 0), now)

    def refused(self, request_id: str) -> None:
        """A request found too few free blocks."""
        if request_id not in self._waited:
            self._waited.add(request_id)
            self.admissions_blocked += 1

    def admitted(self, request: Any, active: int, spare: int, hit_tokens: int, looked_up: bool) -> None:
        """A request got its blocks. `active` and `spare`: before it did."""
        request_id = request.request_id
        again = request_id in self._preempted
        self._waited.discard(request_id)
        if not again:
            self.requests += 1
            if looked_up or not self.caching:
                self.lookup_tokens += request.num_tokens
                self.hit_tokens += hit_tokens
        if self.estimator is not None and self.caching:
            self.estimator.lookup(
                request_id,
                self._hashes(request),
                request.num_tokens,
                active,
                hit_blocks=hit_tokens // self.block_tokens,
                spare=spare,
                counted=looked_up and not again,
            )

    def before_free(self, request: Any) -> tuple[int, int, int]:
        """What is lost when a request is freed: active blocks, and the request's own blocks with a hash and in all."""
        active, _ = self.active_and_free()
        self._active_peak.note(active, time.monotonic())
        manager = self._manager()
        managers = getattr(getattr(manager, "coordinator", None), "single_type_managers", ())
        held = cached = 0
        for group in managers:
            held += len(group.req_to_blocks.get(request.request_id, ()))
            cached += group.num_cached_block.get(request.request_id, 0)
        return active, cached, held

    def freed(self, request: Any, before: tuple[int, int, int]) -> None:
        """A request's blocks went back to the pool. `before`: from `before_free`."""
        request_id = request.request_id
        active_before, cached, held = before
        finished = request.is_finished()
        self._waited.discard(request_id)
        self._preempted.discard(request_id)
        if not finished and getattr(request.status, "name", "") == "RUNNING":
            self.preemptions += 1
            self._preempted.add(request_id)
        hashless = max(held - cached, 0) if self.caching else held
        released = active_before - self.active_and_free()[0] - hashless
        self._spare += hashless
        self._hashless += hashless
        if self.estimator is not None and self.caching:
            self.estimator.free(
                request_id, self._hashes(request), cached * self.block_tokens, released=max(released, 0)
            )

    def popped(self, request: Any, before: tuple[int, int, int]) -> None:
        """A request's blocks will go back later (KV connectors): its place in the order is taken as of now."""
        self._ordered = False
        if self.estimator is not None and self.caching:
            self.estimator.free(request.request_id, self._hashes(request), before[1] * self.block_tokens)
        self._waited.discard(request.request_id)

    def reset(self) -> None:
        """The prefix cache was emptied."""
        self._scanned = None
        self._hashless = self.active_and_free()[1]
        self._spare = 0
        if self.estimator is not None:
            self.estimator.reset()

    def standing(self) -> tuple[int, int]:
        """Blocks that requests hold, and spare ones: what a lookup's distances begin with."""
        return self.active_and_free()[0], self._spare

    def uncounted(self) -> None:
        """Blocks changed hands in a way that is not followed: count reusable ones by looking at them."""
        self._ordered = False

    def _hashes(self, request: Any) -> Sequence[Any]:
        hashes: Sequence[Any] = request.block_hashes
        return hashes if self._hash_step == 1 else hashes[self._hash_step - 1 :: self._hash_step]

    # --- In any thread --------------------------------------------------------------------------------------------

    def reusable(self) -> int:
        """Cached blocks that no request holds; up to a minute old where they have to be counted out one by one."""
        pool = self._pool()
        if pool is None or not self.caching:
            return 0
        if self._ordered:
            return max(self.active_and_free()[1] - self._hashless, 0)
        now = time.monotonic()
        if self._scanned is None or now - self._scanned[0] >= _SCAN_SECONDS:
            found = int(sum(block.ref_cnt == 0 and block.block_hash is not None for block in pool.blocks))
            self._scanned = now, found
            return found
        return self._scanned[1]

    def alive(self) -> bool:
        """False once vLLM has dropped the pool."""
        return self._pool() is not None

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
        floor = hook("floor").run(geometry.floor_blocks, self.config, self.vllm_config, self.max_model_len)
        return {
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
        }


def _leading_held(hits: Sequence[Any]) -> int:
    """How many of the found blocks, from the first on, running requests hold: a request holds its whole prefix."""
    low, high = 0, len(hits)
    while low < high:
        middle = (low + high) // 2
        if hits[middle].ref_cnt > 0:
            low = middle + 1
        else:
            high = middle
    return low
