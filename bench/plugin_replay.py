"""What the plugin would have exported while the judge's simulator ran: its event log in, the recommender's samples out.

The log says when a request was admitted or freed, with the blocks active just before. The rest of what the hooks see
in vLLM follows from it: which blocks two requests share, how many a release gives back, how many were handed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from bench.referee import BLOCK_TOKENS
from recommender.histograms import pack
from recommender.samples import Counters, EngineFacts, EngineSample, Rank
from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.peaks import RollingPeak

_ADMITTED = 0
_OWN = 1 << 24
"""Distance between the names of two requests' own blocks: more blocks than a request can have."""


def facts_of(workload: Any, pool_blocks: int) -> EngineFacts:
    """The engine that the judge simulates. `pool_blocks` with the null block, as vLLM counts."""
    hardware = workload.hardware
    block_bytes = int(hardware.block_bytes)
    default_bytes = (int(hardware.default_blocks) + 1) * block_bytes
    weights = int(hardware.weights)
    allocated = weights + pool_blocks * block_bytes
    rank = Rank(
        rank="0",
        weights_bytes=weights,
        overhead_bytes=0,
        capacity_bytes=pool_blocks * block_bytes,
        block_bytes=block_bytes,
        total_bytes=int((weights + default_bytes) / 0.9),
        allocated_bytes=allocated,
    )
    return EngineFacts(
        vllm_version="0.32.0",
        model=str(hardware.name),
        block_bytes=block_bytes,
        block_tokens=BLOCK_TOKENS,
        capacity_bytes=pool_blocks * block_bytes,
        floor_bytes=(-(-int(workload.max_model_len) // BLOCK_TOKENS) + 1) * block_bytes,
        ranks=(rank,),
    )


@dataclass(frozen=True)
class _Held:
    """A running request: its tokens when it was admitted, the blocks that others may share with it."""

    tokens: int
    chain: Any


class PluginReplay:
    """`vllm_plugin.pool.PoolTracker` on a simulated pool: the same estimator, the same peaks, the same counters."""

    def __init__(self, workload: Any, run: Any) -> None:
        """`run`: what the judge's `simulate` gave for the pool that is observed."""
        self._workload = workload
        self._run = run
        self._usable = int(run["C"])
        self.facts = facts_of(workload, self._usable + 1)
        self.estimator = ReuseEstimator(
            block_bytes=self.facts.block_bytes, block_tokens=BLOCK_TOKENS, pool_blocks=self._usable + 1
        )
        self._holders = np.zeros(max(int(workload.n_content), 1), np.int32)
        self._held: dict[int, _Held] = {}
        self._preempted: dict[int, int] = {}
        self._active = self._spare = 0
        self.largest_gap = 0
        """Blocks by which what follows from the log and what stands in it differed at most."""
        self._active_peak = RollingPeak()
        self._demand_peak = RollingPeak()
        self._requests = self._lookup_tokens = self._hit_tokens = 0
        self._preemptions = self._admissions_blocked = 0

    def samples(self, period: float, until: float) -> Iterator[tuple[float, EngineSample]]:
        """A sample every `period` seconds from 0 to `until`, each knowing only events before it."""
        events, times = self._run["ev"], self._run["evt"]
        place = 0
        for step in range(int(until // period) + 1):
            at = step * period
            while place < len(times) and times[place] < at:
                self._event(float(times[place]), *(int(value) for value in events[place]))
                place += 1
            yield at, self._sample(at)

    def _event(self, at: float, kind: int, request: int, active: int, count: int) -> None:
        # What became active since the last event was handed out to running requests, dead blocks first.
        self.largest_gap = max(self.largest_gap, self._active - active)
        self._spare = max(self._spare - max(active - self._active, 0), 0)
        self._active = active
        if kind == _ADMITTED:
            self._admit(at, request, hits=count)
        else:
            self._free(at, request, computed_tokens=count)

    def _admit(self, at: float, request: int, hits: int) -> None:
        again = request in self._preempted
        tokens = self._preempted.pop(request, 0) or int(self._workload.inl[request])
        chain = self._chain(request)
        shared = self._holders[chain[:hits]] > 0
        leading_held = hits if shared.all() else int(np.argmin(shared))
        demand = self._active + -(-tokens // BLOCK_TOKENS) - leading_held
        if self._run["kvblk"][request] and again == bool(self._run["npre"][request]):
            # It had to wait, so at some moment it asked for more than there is.
            self._admissions_blocked += 1
            demand = max(demand, self._usable + 1)
        self._demand_peak.note(demand, at)
        if not again:
            self._requests += 1
            self._lookup_tokens += tokens
            self._hit_tokens += hits * BLOCK_TOKENS
        self.estimator.lookup(
            str(request),
            self._hashes(request, tokens // BLOCK_TOKENS),
            tokens,
            self._active,
            hit_blocks=hits,
            spare=self._spare,
            counted=not again,
        )
        # What another request computes at the same time gets a block of its own, that nobody else will share.
        new = chain[hits:]
        first = new[self._holders[new] == 0]
        holds = np.concatenate((chain[:hits], first))
        self._holders[holds] += 1
        self._held[request] = _Held(tokens, holds)
        self._active += int(hits - shared.sum())

    def _free(self, at: float, request: int, computed_tokens: int) -> None:
        self._active_peak.note(self._active, at)
        held = self._held.pop(request)
        self._holders[held.chain] -= 1
        full = computed_tokens // BLOCK_TOKENS
        freed = int((self._holders[held.chain[:full]] == 0).sum())
        alone = max(full - len(held.chain), 0)
        dead = -(-computed_tokens // BLOCK_TOKENS) - full
        self._active -= freed + alone + dead
        self._spare += dead
        if at < float(self._run["tfin"][request]) or self._run["tfin"][request] < 0:
            self._preemptions += 1
            self._preempted[request] = max(held.tokens, computed_tokens + 1)
        self.estimator.free(str(request), self._hashes(request, full), computed_tokens, released=freed + alone)

    def _chain(self, request: int) -> Any:
        offsets = self._workload.off
        return self._workload.ids[offsets[request] : offsets[request + 1]]

    def _hashes(self, request: int, blocks: int) -> list[int]:
        """Names of the first blocks: the recorded ones, then those that nobody else ever has."""
        hashes: list[int] = self._chain(request)[:blocks].tolist()
        own = -(request + 1) * _OWN
        hashes.extend(range(own + len(hashes), own + blocks))
        return hashes

    def _sample(self, at: float) -> EngineSample:
        block_bytes = self.facts.block_bytes
        active_peak = max(self._active_peak.peak(at), self._active)
        return EngineSample(
            engine="0",
            facts=self.facts,
            active_bytes=self._active * block_bytes,
            active_peak_bytes=active_peak * block_bytes,
            reusable_bytes=0,
            demand_peak_bytes=max(self._demand_peak.peak(at), active_peak) * block_bytes,
            counters=Counters(
                requests=self._requests,
                lookup_tokens=self._lookup_tokens,
                hit_tokens=self._hit_tokens,
                preemptions=self._preemptions,
                admissions_blocked=self._admissions_blocked,
                reuse=pack(tuple(accumulate(self.estimator.histogram.counts))),
            ),
        )
