"""A V1 engine's KV pool as the plugin sees it: fed by `hooks.pool`, read by the exporter."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import Any

from vllm_plugin import geometry, releases
from vllm_plugin.guard import hook
from vllm_plugin.layout import PLAIN, layout_of_pool
from vllm_plugin.tracker import EngineTracker, Hashes

_SCAN_SECONDS = 60.0


class PoolTracker(EngineTracker):
    """Counters, peaks and reuse distances of one `KVCacheManager`."""

    def __init__(self, manager: Any, max_model_len: int, config: Any = None) -> None:
        """`config`: the manager's `KVCacheConfig`, for releases whose manager has none."""
        config = manager.kv_cache_config if config is None else config
        pool = releases.pool_of(manager)
        specs = [group.kv_cache_spec for group in geometry.device_groups(config)]
        layout = layout_of_pool(config)
        if specs and layout is None:
            kinds = ", ".join(sorted({type(spec).__name__ for spec in specs}))
            hook("reuse").switch_off(f"reuse distances are not known for this model's KV cache groups ({kinds})")
        super().__init__(
            blocks=int(config.num_blocks),
            block_bytes=geometry.block_bytes(config),
            block_tokens=int(getattr(specs[0], "block_size", 0)) if specs else 0,
            caching=bool(getattr(manager, "enable_caching", True)),
            layout=layout,
        )
        self._manager = weakref.ref(manager)
        self._pool = weakref.ref(pool)
        self.config = config
        self.max_model_len = max_model_len
        # The hashes of a request may be finer than its blocks (hybrid models): then every n-th one is a block's.
        hash_tokens = int(getattr(pool, "hash_block_size", 0) or self.block_tokens)
        self._hash_step = max(self.block_tokens // hash_tokens, 1) if hash_tokens else 1
        self._group_tokens = [int(getattr(spec, "block_size", self.block_tokens)) for spec in specs]
        self._null_blocks = releases.null_blocks(pool)
        self.dead_first = releases.dead_blocks_go_first(pool)
        # Released blocks without a hash that were not handed out again yet.
        self._spare = 0
        self._hand_outs = hook("hand_outs")
        # Free blocks without a hash, the never used ones included: what is free besides them is reusable.
        self._hashless = self.active_and_free()[1]
        # Where a connector or a window frees blocks in ways that are not followed, they have to be counted out.
        self._followed = layout == PLAIN
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

    def hashless_among_next(self, blocks: int) -> int:
        """How many of the blocks that the pool is about to give have no hash; not needed where `dead_first`."""
        return releases.hashless_among_next(self._pool(), blocks)

    def handed_out(self, blocks: int, hashless: int | None = None) -> None:
        """The pool gave blocks to a request. `hashless` of them had no hash; None: those went first."""
        if hashless is None:
            self._spare = self._spare - blocks if self._spare > blocks else 0
            hashless = blocks
        self._hashless = self._hashless - hashless if self._hashless > hashless else 0

    def sought(self, request: Any, found: Sequence[Any]) -> tuple[int, int]:
        """The scheduler looks whether a request can be admitted. `found`: what its lookup gave.

        Says how many blocks requests hold, and how many are spare: what the distances of the lookup begin with.
        """
        active = self.active_and_free()[0]
        held = leading_held(releases.hits_of(found[0])[0])
        wanted = 0
        for tokens in self._group_tokens:
            wanted += max(-(-request.num_tokens // tokens) - held, 0)
        self._demand_peak.note(active + wanted, time.monotonic())
        return active, self.spare()

    def spare(self) -> int:
        """Dead blocks that are handed out before all others; none where nobody sees when they are."""
        return self._spare if self._hand_outs.active else 0

    def admitted(self, request: Any, active: int, spare: int, hit_tokens: int) -> None:
        """A request got its blocks. `active` and `spare`: before it did."""
        looked_up = self.caching and releases.reads_cache(request)
        counted = self.count_admission(request.request_id, request.num_tokens, hit_tokens, looked_up)
        if self._estimator is not None and self.caching:
            self._backlog.add(
                0,
                self._estimator.lookup,
                request.request_id,
                self._hashes(request),
                request.num_tokens,
                active,
                hit_blocks=hit_tokens // self.block_tokens,
                spare=spare,
                counted=counted,
            )

    def before_free(self, request: Any) -> tuple[int, int, int]:
        """What is lost when a request is freed: active blocks, and the request's own blocks with a hash and in all."""
        active = self.active_and_free()[0]
        self._active_peak.note(active, time.monotonic())
        held, cached = releases.holdings_of(self._manager(), request.request_id)
        return active, cached, held

    def freed(self, request: Any, before: tuple[int, int, int]) -> None:
        """A request's blocks went back to the pool. `before`: from `before_free`."""
        request_id = request.request_id
        active_before, cached, held = before
        self._count_release_of(request)
        hashless = max(held - cached, 0) if self.caching else held
        released = max(active_before - self.active_and_free()[0] - hashless, 0)
        self._hashless += hashless
        if self.dead_first:
            self._spare += hashless
        if self._estimator is not None and self.caching:
            if not self.dead_first:
                self._backlog.add(0, self._estimator.bury, hashless)
            self._backlog.add(
                cached,
                self._estimator.free,
                request_id,
                self._hashes(request),
                cached * self.block_tokens,
                released=released,
            )

    def popped(self, request: Any, before: tuple[int, int, int]) -> None:
        """A request's blocks will go back later (KV connectors): its place in the order is taken as of now."""
        _, cached, _ = before
        self._followed = False
        self._count_release_of(request)
        if self._estimator is not None and self.caching:
            hashes = self._hashes(request)
            self._backlog.add(cached, self._estimator.free, request.request_id, hashes, cached * self.block_tokens)

    def _count_release_of(self, request: Any) -> None:
        running = not request.is_finished() and getattr(request.status, "name", "") == "RUNNING"
        self.count_release(request.request_id, preempted=running)

    def reset(self) -> None:
        """The prefix cache was emptied."""
        self._scanned = None
        self._hashless = self.active_and_free()[1]
        self._spare = 0
        if self._estimator is not None:
            self._backlog.add(0, self._estimator.reset)

    def uncounted(self) -> None:
        """Blocks changed hands in a way that is not followed: count reusable ones by looking at them."""
        self._followed = False

    def _hashes(self, request: Any) -> Hashes:
        hashes = releases.hashes_of(self._manager(), request)
        return hashes if self._hash_step == 1 else hashes[self._hash_step - 1 :: self._hash_step]

    # --- In any thread --------------------------------------------------------------------------------------------

    def reusable(self) -> int:
        """Cached blocks that no request holds; up to a minute old where they have to be counted out one by one."""
        pool = self._pool()
        if pool is None or not self.caching:
            return 0
        if self._followed:
            return max(self.active_and_free()[1] - self._hashless, 0)
        now = time.monotonic()
        if self._scanned is None or now - self._scanned[0] >= _SCAN_SECONDS:
            blocks = releases.blocks_of(pool)
            found = int(sum(block.ref_cnt == 0 and block.block_hash is not None for block in blocks))
            self._scanned = now, found
            return found
        return self._scanned[1]

    def alive(self) -> bool:
        """False once vLLM has dropped the pool."""
        return self._pool() is not None

    def floor_blocks(self) -> int:
        """The least number of blocks that vLLM starts with; one less where no block is the null block."""
        return geometry.floor_blocks(self.config, self.vllm_config, self.max_model_len) - 1 + self._null_blocks


def leading_held(hits: Sequence[Any]) -> int:
    """How many of the found blocks, from the first on, running requests hold: a request holds its whole prefix."""
    low, high = 0, len(hits)
    while low < high:
        middle = (low + high) // 2
        if hits[middle].ref_cnt > 0:
            low = middle + 1
        else:
            high = middle
    return low
