"""What the plugin's own work takes: of the scheduler's thread, and of memory.

Times are processor time of the thread, so that other programs on the machine do not count.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bench.engines import Engine, Prompt
from bench.figures import Figure, bootstrapped, ratio_of_means
from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.guard import hooks

_CHAIN = 750
"""Blocks of 12,000 tokens."""
_BLOCK_TOKENS = 16
_TOKENS = _CHAIN * _BLOCK_TOKENS + 3
_POOL = 30_000
_CHATS = 30
_ROUNDS = 15
_AT_A_TIME = 5
_REQUESTS = 600
_SERVED = 600
_WARM = 30
_NEW_TOKENS = 2000
_OUTPUT = 32
_LONGEST = 16_384


@dataclass(frozen=True)
class _Request:
    name: str
    hashes: list[bytes]
    hits: int


def _digest() -> bytes:
    return os.urandom(32)


def _requests(seed: int, count: int) -> list[_Request]:
    """Half go on with a chat, a third branch off one, a fifth are new."""
    random_ = random.Random(seed)
    chats = [[_digest() for _ in range(_CHAIN)] for _ in range(_CHATS)]
    found = []
    for number in range(count):
        kind = random_.random()
        shared = _CHAIN if kind < 0.5 else random_.randrange(1, _CHAIN) if kind < 0.8 else 0
        chain = random_.choice(chats)[:shared] + [_digest() for _ in range(_CHAIN - shared)]
        chats[random_.randrange(_CHATS)] = chain
        found.append(_Request(str(number), chain, shared))
    return found


def _estimator(pool: int = _POOL) -> ReuseEstimator:
    return ReuseEstimator(block_bytes=2 << 20, block_tokens=_BLOCK_TOKENS, pool_blocks=pool)


def _play(estimator: ReuseEstimator, requests: Sequence[_Request]) -> None:
    for request in requests:
        estimator.lookup(request.name, request.hashes, _TOKENS, 100, hit_blocks=request.hits)
        estimator.free(request.name, request.hashes, _TOKENS, released=_CHAIN)


def of_estimator() -> Iterator[Figure]:
    """Time a block looked up and freed, all blocks counted, whether sampled or not; bytes; the longest pause."""
    requests = _requests(1, _REQUESTS)
    estimator = _estimator()
    _play(estimator, requests)
    rounds = [(_nanoseconds(estimator, requests), _REQUESTS * _CHAIN) for _ in range(_ROUNDS)]
    value, low, high = bootstrapped(rounds, ratio_of_means)
    n = _ROUNDS * _REQUESTS
    yield Figure("estimator_time_a_block", value, "ns looked up and freed", n, 30, low=low, high=high)
    yield Figure("estimator_memory", _megabytes(), "MB, pool of 30,000 blocks, digests included", 1, 1.5)
    for pool, chain in ((50_000, 8), (400_000, 8)):
        pauses = _pauses(pool, chain)
        unit = f"ms, pool of {pool:,} blocks, chains of {chain}"
        yield Figure(f"estimator_longest_pause_{pool}", 1000 * max(pauses), unit, len(pauses))


def _nanoseconds(estimator: ReuseEstimator, requests: Sequence[_Request]) -> int:
    """A few requests at a time, whose digests are new objects made just before, as vLLM makes them."""
    spent = 0
    for first in range(0, len(requests), _AT_A_TIME):
        fresh = [
            _Request(request.name, [bytes(bytearray(digest)) for digest in request.hashes], request.hits)
            for request in requests[first : first + _AT_A_TIME]
        ]
        start = time.thread_time_ns()
        _play(estimator, fresh)
        spent += time.thread_time_ns() - start
    return spent


def _megabytes() -> float:
    """What an estimator keeps alive when nothing else does, after much more traffic than it remembers."""
    gc.collect()
    tracemalloc.start()
    estimator = _estimator()
    for part in range(8):
        _nanoseconds(estimator, _requests(part, 100))
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / 1e6


def _pauses(pool: int, chain: int) -> list[float]:
    """Seconds of each request's bookkeeping where all blocks are samples; Python's garbage collector is kept out."""
    random_ = random.Random(1)
    documents = pool * 11 // 10 // chain
    digests = [[_digest() for _ in range(chain)] for _ in range(documents)]
    estimator = _estimator(pool)
    pauses = []
    gc.disable()
    for number in range(2 * documents):
        document = number if number < documents else random_.randrange(documents)
        hashes = [bytes(bytearray(digest)) for digest in digests[document]]
        hits, tokens = (0 if number < documents else chain), chain * _BLOCK_TOKENS + 1
        start = time.thread_time()
        estimator.lookup(str(number), hashes, tokens, 0, hit_blocks=hits)
        estimator.free(str(number), hashes, tokens, released=chain)
        pauses.append(time.thread_time() - start)
    gc.enable()
    return pauses


class _Stopwatch:
    """Adds up the thread's processor time inside of functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - start

        return timed


def of_requests(model: Path) -> Iterator[Figure]:
    """Against vLLM's own hashing and scheduling of the same requests, hooks on and off in turn."""
    engine = Engine(
        model,
        _POOL,
        counting=False,
        max_num_batched_tokens=8192,
        max_model_len=_LONGEST,
        hf_overrides={"max_position_embeddings": _LONGEST},
    )
    watch = _Stopwatch()
    engine.block_hasher = watch.around(engine.block_hasher)
    for name in ("schedule", "update_from_output"):
        setattr(engine.scheduler, name, watch.around(getattr(engine.scheduler, name)))
    random_ = random.Random(1)
    chats = [_tokens(random_, _TOKENS - _NEW_TOKENS) for _ in range(8)]
    pairs = []
    for number in range(_WARM + _SERVED):
        # Each a turn of a chat, once with the plugin and once without; every other pair the other way round.
        start = random_.choice(chats)
        seconds = {}
        for state in (True, False) if number % 2 else (False, True):
            prompt = Prompt(start + _tokens(random_, _NEW_TOKENS), _OUTPUT)
            _switch(state)
            before = watch.seconds
            engine.serve([prompt], clients=1)
            seconds[state] = watch.seconds - before
        pairs.append((seconds[True], seconds[False]))
    _switch(True)
    pairs = pairs[_WARM:]
    value, low, high = bootstrapped(pairs, lambda on, off: 100 * (ratio_of_means(on, off) - 1))
    yield Figure("request_time_added", value, "% of hashing and scheduling", len(pairs), 2, low=low, high=high)
    value, low, high = bootstrapped(pairs, lambda on, off: 1e6 * float((on - off).mean()))
    unit = f"us a request of {_TOKENS:,} tokens and {_OUTPUT} more"
    yield Figure("request_time_of_plugin", value, unit, len(pairs), low=low, high=high)
    yield Figure("request_time_of_vllm", 1e6 * sum(off for _, off in pairs) / len(pairs), unit, len(pairs))
    yield from _of_steps(engine)


def _of_steps(engine: Engine) -> Iterator[Figure]:
    """Calls of the plugin's functions in steps that give a running request one more token, and no new block."""
    calls = steps = 0

    def count(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call" and "vllm_plugin" in frame.f_code.co_filename

    engine.add(Prompt(tuple(range(3, 3 + 4 * _BLOCK_TOKENS)), 2000))
    engine.step()
    free = engine.pool.get_num_free_blocks()
    for _ in range(1000):
        before = calls
        sys.setprofile(count)
        engine.step()
        sys.setprofile(None)
        if engine.pool.get_num_free_blocks() == free:
            steps += 1
        else:
            free, calls = engine.pool.get_num_free_blocks(), before
    yield Figure("calls_a_step", calls / steps, "calls", steps, 0)


def _tokens(random_: random.Random, count: int) -> tuple[int, ...]:
    return tuple(random_.choices(range(3, 2000), k=count))


def _switch(on: bool) -> None:
    for hook in hooks.values():
        hook.active = on
