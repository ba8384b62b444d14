"""Would a smaller max_model_len let the KV cache be smaller? Advice for people: nothing of it is ever applied. Pure.

The plugin does not tell the longest request. But no request is longer than what running requests held, or needed to be
admitted, at some moment: a peak of demand counts all of the blocks of each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from recommender import bounds
from recommender.api.recommendations import MaxModelLenAdvice
from recommender.api.units import format_bytes, format_duration
from recommender.bounds import Pools
from recommender.samples import EngineFacts
from recommender.sizing import Sizing
from recommender.windows import Window

_STEP_TOKENS = 1024
"""What is suggested is a multiple of it."""
_LARGEST_SHARE = 0.5
"""Of max_model_len: more than that is not worth a suggestion."""
_ASKING = (bounds.HIT_RATE, bounds.DEMAND, bounds.MIN_KV, bounds.LOSS_BUDGET)


def max_model_len_advice(
    window: Window, pools: Pools, engines: Sequence[EngineFacts], sizing: Sizing
) -> MaxModelLenAdvice | None:
    """What would do where the floor decides; None where it does not, where a request may have come near
    max_model_len, or where what a request needs is not simply blocks for its tokens."""
    if sizing.bound_by != bounds.FLOOR or not all(guard.passed for guard in sizing.guards):
        return None
    if not all(_is_plain(engine) for engine in engines):
        return None
    max_model_len = max(engine.max_model_len for engine in engines)
    asked = max((bound.kv_bytes for bound in sizing.bounds if bound.name in _ASKING), default=0)
    wanted_blocks = max(-(-asked // pools.block_bytes), 2)
    longest = _longest_request(window)
    # Up to what fits into the pool that is wanted anyway, a length costs nothing.
    suggested = _in_steps(max(longest, (wanted_blocks - 1) * pools.block_tokens))
    if suggested > _LARGEST_SHARE * max_model_len:
        return None
    kv_bytes = max(wanted_blocks, -(-suggested // pools.block_tokens) + 1) * pools.block_bytes
    return MaxModelLenAdvice(
        max_model_len=max_model_len,
        longest_request_tokens=longest,
        suggested_max_model_len=suggested,
        kv_bytes=kv_bytes,
        message=(
            f"one request of max_model_len {max_model_len} needs {format_bytes(pools.floor_bytes)}, more than all "
            f"else; in the {format_duration(window.covered_seconds)} observed no request can have been longer than "
            f"{longest} tokens. With --max-model-len={suggested} {format_bytes(kv_bytes)} would do; vLLM then refuses "
            "longer requests, so this is for you to decide"
        ),
    )


def _is_plain(engine: EngineFacts) -> bool:
    """Is the floor a block for every so many tokens of max_model_len, and the null block?"""
    blocks = -(-engine.max_model_len // engine.block_tokens) + 1
    return engine.max_model_len > 0 and not engine.windows and engine.floor_bytes == blocks * engine.block_bytes


def _longest_request(window: Window) -> int:
    """Tokens that no request of the window can have been longer than."""
    peak = max(window.demand_peaks(), default=0.0)
    tokens_of_byte = max((one.facts.block_tokens / one.facts.block_bytes for one in window.series), default=0.0)
    return round(peak * tokens_of_byte)


def _in_steps(tokens: int) -> int:
    return -(-tokens // _STEP_TOKENS) * _STEP_TOKENS
