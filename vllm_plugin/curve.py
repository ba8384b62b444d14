"""From a reuse histogram to the pool that keeps the hit rate: the estimate that the plugin exports itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vllm_plugin.names import BUCKET_LOW_EXPONENT, BUCKETS_PER_OCTAVE, REUSE_BUCKET_BOUNDS

LOSS_POINTS = 0.01
LOSS_OF_MISSES = 0.05


def hits_at(counts: Sequence[int], kv_bytes: float) -> float:
    """Blocks that hit in a pool of `kv_bytes`; `counts` per bucket, log-linear inside one."""
    if kv_bytes <= 0:
        return 0.0
    place = (math.log2(kv_bytes) - BUCKET_LOW_EXPONENT) * BUCKETS_PER_OCTAVE
    # Bucket k ends at bound k: everything up to the whole part hits, and of the next bucket the fraction.
    whole = math.floor(place)
    if whole < 0:
        return counts[0] * max(place + 1, 0.0) if whole == -1 else 0.0
    hits = float(sum(counts[: min(whole + 1, len(REUSE_BUCKET_BOUNDS))]))
    if whole + 1 < len(REUSE_BUCKET_BOUNDS):
        hits += counts[whole + 1] * (place - whole)
    return hits


def knee_bytes(counts: Sequence[int], lookup_blocks: float, kv_bytes: float) -> float:
    """The smallest pool whose hit rate is within the default tolerance of that at `kv_bytes`.

    `lookup_blocks`: all tokens looked up, in blocks, so that the rate is vLLM's own.
    """
    if lookup_blocks <= 0:
        return 0.0
    today = hits_at(counts, kv_bytes)
    allowed = min(LOSS_POINTS, LOSS_OF_MISSES * max(1 - today / lookup_blocks, 0.0)) * lookup_blocks
    wanted = today - allowed
    if wanted <= 0:
        return 0.0
    seen = 0.0
    for bucket, count in enumerate(counts[: len(REUSE_BUCKET_BOUNDS)]):
        if count and seen + count >= wanted:
            exponent = BUCKET_LOW_EXPONENT + (bucket - 1 + (wanted - seen) / count) / BUCKETS_PER_OCTAVE
            return min(math.pow(2.0, exponent), kv_bytes)
        seen += count
    return kv_bytes
