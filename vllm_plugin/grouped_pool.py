"""The KV pool of a V1 engine whose model has several KV cache groups, or one with a sliding window."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from vllm_plugin import geometry, releases
from vllm_plugin.layout import Layout, window_of
from vllm_plugin.pool import PoolTracker, leading_held


class GroupedPoolTracker(PoolTracker):
    """Counts what a chain takes in all groups, and what windows released while its request ran.

    When they did is not followed, for that would cost something at each step: it counts as released with the rest.
    """

    def __init__(self, manager: Any, max_model_len: int, config: Any, layout: Layout) -> None:
        """`layout`: `layout_of_pool(config)`."""
        super().__init__(manager, max_model_len, config)
        self._chains = layout.chains
        self.window_groups = len(layout.windows)
        self._specs = [group.kv_cache_spec for group in config.kv_cache_groups]
        self._windows = [window_of(spec) for spec in self._specs]
        self._most: list[int] | None = None
        self._hit_blocks: dict[str, int] = {}
        """Of each running request: what its lookup found."""

    def sought(self, request: Any, found: Sequence[Any]) -> tuple[int, int]:
        """The scheduler looks whether a request can be admitted; of a window it needs no more than that, and a step."""
        active = self.active_and_free()[0]
        length = geometry.ceil_div(request.num_tokens, self.block_tokens)
        wanted = 0
        for hits, window, most in zip(releases.hits_of(found[0]), self._windows, self._most_blocks()):
            held = sum(block.ref_cnt > 0 for block in hits[-window:]) if window else leading_held(hits)
            wanted += max(min(length, most) - held, 0)
        self._demand_peak.note(active + wanted, time.monotonic())
        return active, self.spare()

    def _most_blocks(self) -> list[int]:
        """By group: blocks of one request of the longest kind, as vLLM's start-up check counts them."""
        if self._most is None:
            config = self.vllm_config
            if config is None:
                return [geometry.ceil_div(self.max_model_len, self.block_tokens)] * len(self._specs)
            self._most = [
                geometry.ceil_div(int(spec.max_memory_usage_bytes(config)), int(spec.page_size_bytes))
                for spec in self._specs
            ]
        return self._most

    def admitted(self, request: Any, active: int, spare: int, hit_tokens: int) -> None:
        """A request got its blocks. `active` and `spare`: before it did."""
        self._hit_blocks[request.request_id] = hit_tokens // self.block_tokens
        super().admitted(request, active, spare, hit_tokens)

    def before_free(self, request: Any) -> Any:
        """What is lost when a request is freed: active blocks, and the request's places by group."""
        active = self.active_and_free()[0]
        self._active_peak.note(active, time.monotonic())
        return active, releases.places_of(self._manager(), request.request_id)

    def freed(self, request: Any, before: Any) -> None:
        """A request's blocks went back to the pool. `before`: from `before_free`."""
        active_before, places = before
        self._count_release_of(request)
        length, hashless, in_windows, passed = self._summed(request, places)
        if self._estimator is None or not self.caching:
            return
        released = max(active_before - self.active_and_free()[0] - hashless, 0)
        whole = max(released - in_windows, 0) // self._chains if self._chains else length
        if self.dead_first:
            self._spare += hashless
        else:
            self._backlog.add(0, self._estimator.bury, hashless)
        self._release(request, length, released=whole, weight=released, passed=passed)

    def popped(self, request: Any, before: Any) -> None:
        """A request's blocks will go back later (KV connectors): its place in the order is taken as of now."""
        _, places = before
        self._count_release_of(request)
        length, _, _, passed = self._summed(request, places)
        if self._estimator is not None and self.caching:
            self._release(request, length, passed=passed)

    def _summed(self, request: Any, places: Sequence[tuple[int, int, int]]) -> tuple[int, int, int, int]:
        """Of a request that ends: blocks of its chain, and in all groups those without a hash, in windows, and passed.

        `places`: from `releases.places_of`.
        """
        hits = self._hit_blocks.pop(request.request_id, 0)
        length = hashless = in_windows = passed_by = 0
        for (held, cached, passed), window in zip(places, self._windows):
            length = max(length, cached)
            hashless += held - cached
            if window:
                in_windows += cached - passed
                passed_by += max(passed - max(hits - window, 0), 0)
        return length, hashless, in_windows, passed_by

    def _release(self, request: Any, length: int, **how: int) -> None:
        estimator: Any = self._estimator
        hashes = self._hashes(request)
        self._backlog.add(length, estimator.free, request.request_id, hashes, length * self.block_tokens, **how)
