"""What one look at a pod's plugin says: plain values, checked, in bytes and counts since the process started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recommender.histograms import EMPTY, increase

LARGEST_COUNT = 2**53
"""Above it a double no longer counts by one: no honest counter is there."""

LARGEST_BYTES = 2**50
"""A pebibyte: more than any process sees as one device."""


MOST_ENGINES = 256
"""Of one pod: more than run in any."""

LONGEST_TEXT = 4096
"""Of what a page calls things: models are named by paths."""


class RefusedSampleError(ValueError):
    """A page that cannot be believed; the message says what is wrong with it."""


ASLEEP, KVCACHED, NO_KV_CACHE = "Asleep", "ManagedByKvcached", "NoKVCache"


class NothingToSizeError(RefusedSampleError):
    """A page that is as it should be, and says nothing of a pool's size. `reason`: why, in a word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Counters:
    """Counters of one engine since it started. `reuse` is the packed histogram (`histograms.pack`)."""

    requests: int
    lookup_tokens: int
    hit_tokens: int
    preemptions: int
    admissions_blocked: int
    reuse: int = EMPTY

    def since(self, earlier: Counters) -> Counters:
        """What was counted after `earlier`. Where a counter went down the engine was started anew: then all of it."""
        scalars = [now - then for now, then in zip(self._scalars(), earlier._scalars(), strict=True)]
        reuse = increase(self.reuse, earlier.reuse)
        if min(scalars) < 0 or reuse is None:
            return self
        requests, lookup_tokens, hit_tokens, preemptions, admissions_blocked = scalars
        return Counters(requests, lookup_tokens, hit_tokens, preemptions, admissions_blocked, reuse)

    def _scalars(self) -> tuple[int, ...]:
        return (self.requests, self.lookup_tokens, self.hit_tokens, self.preemptions, self.admissions_blocked)


@dataclass(frozen=True)
class Rank:
    """One worker on one GPU, bytes. `allocated_bytes` is what vLLM claims: utilization × total."""

    rank: str
    weights_bytes: int
    overhead_bytes: int
    capacity_bytes: int
    block_bytes: int
    total_bytes: int
    allocated_bytes: int
    reserved_bytes: int = 0
    """What vLLM takes off the bytes that it is told for the KV cache, to decode pictures."""

    @property
    def outside_pool_bytes(self) -> int:
        """What of the allocation is no pool: it stays when the pool changes.

        Where a user set the pool's bytes, vLLM ignores utilization, and the claim says nothing of what is used: then
        weights and overhead as measured.
        """
        claimed = self.allocated_bytes - self.capacity_bytes
        return claimed if claimed >= self.weights_bytes else self.weights_bytes + self.overhead_bytes


@dataclass(frozen=True)
class EngineFacts:
    """What holds of an engine for as long as it runs. Sizes of blocks and pool are those of its first rank."""

    vllm_version: str
    model: str
    block_bytes: int
    block_tokens: int
    capacity_bytes: int
    floor_bytes: int
    ranks: tuple[Rank, ...]
    windows: bool = False
    """Some KV cache groups have a sliding window: the curve is an approximation."""
    max_model_len: int = 0
    """Tokens of the longest request that is taken; 0 where it is not known."""
    override: str = ""
    """What became of the sizes that the plugin was to set: one of `names.OVERRIDE_…`, empty where it is not known."""

    @property
    def blocks(self) -> int:
        """Blocks of the pool, the null block included."""
        return self.capacity_bytes // self.block_bytes


@dataclass(frozen=True)
class EngineSample:
    """One engine at one moment."""

    engine: str
    facts: EngineFacts
    active_bytes: int
    active_peak_bytes: int
    reusable_bytes: int
    demand_peak_bytes: int
    counters: Counters


@dataclass(frozen=True)
class PodSample:
    """All engines of a pod at one moment."""

    plugin_version: str
    engines: tuple[EngineSample, ...]
    hooks: Mapping[str, bool] = field(default_factory=dict)
    """Which of the plugin's hooks are active, by name."""
    members: Mapping[str, tuple[Rank, ...]] = field(default_factory=dict)
    """Ranks of engines whose scheduler runs in another pod, by engine; then there are no `engines`."""
