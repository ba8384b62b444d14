"""Plays the same requests to pools of several sizes and to an estimator that observes one of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.layout import PLAIN, Layout
from vllm_plugin.names import REUSE_BUCKET_BOUNDS

from .poolmodel import PoolModel
from .windowmodel import WindowModel

BLOCK_TOKENS = 4
BLOCK_BYTES = 1 << 20
"""So that pools of 2^n - 1 usable blocks, the null block added, end exactly at a bucket's bound."""


@dataclass(frozen=True)
class Job:
    """A request: its prompt's content block by block, further tokens, and what it generates."""

    prompt: tuple[Hashable, ...]
    rest: int
    output: tuple[Hashable, ...]
    output_rest: int


def chain(content: Sequence[Hashable]) -> list[Hashable]:
    """Hashes that fix the whole prefix, as vLLM's do."""
    hashes: list[Hashable] = []
    for part in content:
        hashes.append(hash((hashes[-1] if hashes else None, part)))
    return hashes


class Replay:
    """One run. `sizes`: usable blocks; the estimator sees only the pool of the `observed` size."""

    def __init__(self, sizes: Sequence[int], observed: int, layout: Layout = PLAIN) -> None:
        self.pools: dict[int, PoolModel | WindowModel] = {
            size: PoolModel(size, BLOCK_TOKENS) if layout == PLAIN else WindowModel(size, BLOCK_TOKENS, layout)
            for size in sizes
        }
        self.observed = self.pools[observed]
        self.estimator = ReuseEstimator(
            block_bytes=BLOCK_BYTES, block_tokens=BLOCK_TOKENS, pool_blocks=observed + 1, layout=layout
        )
        self.blocks = 0
        self.peak = 0
        self._jobs: dict[str, Job] = {}

    def admit(self, name: str, job: Job) -> None:
        """Start a request on all pools."""
        hashes, tokens = chain(job.prompt), len(job.prompt) * BLOCK_TOKENS + job.rest
        active, spare = self.observed.active, self.observed.spare
        hits = {size: pool.admit(name, hashes, tokens) for size, pool in self.pools.items()}
        self.estimator.lookup(name, hashes, tokens, active, hit_blocks=hits[self.observed.size], spare=spare)
        self.blocks += min(len(hashes), (tokens - 1) // BLOCK_TOKENS)
        self.peak = max(self.peak, self.observed.active)
        self._jobs[name] = job

    def finish(self, name: str) -> None:
        """Let a request generate its output and end."""
        job = self._jobs.pop(name)
        content = job.prompt + job.output
        hashes, tokens = chain(content), len(content) * BLOCK_TOKENS + job.output_rest
        released = {}
        for size, pool in self.pools.items():
            pool.extend(name, hashes, tokens)
            self.peak = max(self.peak, pool.active)
            released[size] = pool.free(name)
        self.estimator.free(name, hashes, tokens, **released[self.observed.size])

    def predicted(self, size: int) -> int:
        """Blocks that the estimator says hit in a pool of `size` usable blocks."""
        counts = self.estimator.histogram.counts
        return sum(
            n for n, bound in zip(counts, REUSE_BUCKET_BOUNDS, strict=False) if bound <= (size + 1) * BLOCK_BYTES
        )
