"""Real vLLM's scheduler and KV cache manager, without a model: somebody else makes up the tokens."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_rightsizer.demo.ports import free_ports

BLOCK_TOKENS = 16
LAYERS = 4


@dataclass(frozen=True)
class Prompt:
    """A request: its tokens, and how many it generates."""

    tokens: tuple[int, ...]
    output: int


class Engine:
    """A scheduler with a pool of `blocks`, driven step by step.

    With a `window` all layers but the first have sliding-window attention of so many tokens: a group of their own.
    Without `counting` no step looks at the whole pool, and `most_active` is not known.
    """

    def __init__(
        self,
        model: Path,
        blocks: int,
        *,
        asynchronous: bool = False,
        window: int = 0,
        counting: bool = True,
        **arguments: Any,
    ) -> None:
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_kv_cache_configs, get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
        from vllm.v1.structured_output import StructuredOutputManager

        options: dict[str, Any] = {
            "model": str(model),
            "dtype": "float32",
            "load_format": "dummy",
            "enforce_eager": True,
            "block_size": BLOCK_TOKENS,
            "max_model_len": 4096,
            "max_num_seqs": 64,
            "async_scheduling": asynchronous,
            **arguments,
        }
        self.vllm_config = EngineArgs(**options).create_engine_config()
        # The CPU platform would have its own least block; the scheduler itself takes any.
        self.vllm_config.cache_config.block_size = BLOCK_TOKENS
        self.vllm_config.cache_config.kv_cache_layout = "NHD"
        spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=2, head_size=64, dtype=torch.float32)
        self.page_bytes = spec.page_size_bytes
        specs: dict[str, Any] = {f"layer.{number}": spec for number in range(LAYERS)}
        if window:
            sliding = SlidingWindowSpec(
                block_size=BLOCK_TOKENS, num_kv_heads=2, head_size=64, dtype=torch.float32, sliding_window=window
            )
            specs.update({f"layer.{number}": sliding for number in range(1, LAYERS)})
        (config,) = get_kv_cache_configs(self.vllm_config, [specs], [blocks * LAYERS * spec.page_size_bytes])
        self.config = config
        self.vllm_config.cache_config.num_gpu_blocks = config.num_blocks
        hashing = get_hash_fn_by_name(self.vllm_config.cache_config.prefix_caching_hash_algo)
        init_none_hash(hashing)
        self.block_hasher = get_request_block_hasher(BLOCK_TOKENS, hashing)
        kind = AsyncScheduler if asynchronous else Scheduler
        self.scheduler: Any = kind(
            vllm_config=self.vllm_config,
            kv_cache_config=config,
            structured_output_manager=StructuredOutputManager(self.vllm_config),
            block_size=BLOCK_TOKENS,
            log_stats=True,
        )
        self.pool: Any = self.scheduler.kv_cache_manager.block_pool
        self.tracker: Any = getattr(self.scheduler.kv_cache_manager, "_vllm_rightsizer", None)
        self.queries = self.hits = self.preemptions = self.most_active = 0
        self._counting = counting
        self._numbers = iter(range(1_000_000_000))
        self._in_flight: deque[Any] = deque()
        self._random = random.Random(0)

    def add(self, prompt: Prompt) -> str:
        """Put a request into the waiting queue."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        name = str(next(self._numbers))
        parameters = SamplingParams(max_tokens=prompt.output, ignore_eos=True, temperature=0.0)
        self.scheduler.add_request(
            Request(
                request_id=name,
                prompt_token_ids=list(prompt.tokens),
                sampling_params=parameters,
                pooling_params=None,
                block_hasher=self.block_hasher,
            )
        )
        return name

    def step(self, ahead: int = 0) -> None:
        """Schedule once and deliver made-up tokens; `ahead` steps may be under way meanwhile (async scheduling)."""
        from vllm.v1.outputs import ModelRunnerOutput

        scheduled = self.scheduler.schedule()
        if self._counting:
            self.most_active = max(self.most_active, self.scan()[0])
        self._in_flight.append(scheduled)
        if len(self._in_flight) <= ahead and scheduled.num_scheduled_tokens:
            return
        output = self._in_flight.popleft()
        names = list(output.num_scheduled_tokens)
        sampled = []
        for name in names:
            request = self.scheduler.requests.get(name)
            # A step samples where it reaches the end of what is known of the request.
            done = request is not None and request.num_computed_tokens >= request.num_tokens
            sampled.append([self._random.randrange(3, 2000)] if done else [])
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        for outputs in self.scheduler.update_from_output(output, result).values():
            stats = outputs.scheduler_stats
            if stats is not None and stats.prefix_cache_stats is not None:
                self.queries += stats.prefix_cache_stats.queries
                self.hits += stats.prefix_cache_stats.hits
            for one in outputs.outputs:
                self.preemptions += sum(event.type.name == "PREEMPTED" for event in one.events or ())

    def scan(self) -> tuple[int, int]:
        """Active and reusable blocks, counted out block by block."""
        active = reusable = 0
        for block in self.pool.blocks:
            if block.is_null:
                continue
            active += block.ref_cnt > 0
            reusable += block.ref_cnt == 0 and block.block_hash is not None
        return active, reusable

    def run(self, prompts: Iterable[Prompt], clients: int, ahead: int = 0) -> Iterator[None]:
        """Serve all prompts with so many clients in a closed loop; yields after each step."""
        waiting = iter(prompts)
        more = True
        while more or self.scheduler.get_num_unfinished_requests():
            while more and self.scheduler.get_num_unfinished_requests() < clients:
                prompt = next(waiting, None)
                if prompt is None:
                    more = False
                else:
                    self.add(prompt)
            self.step(ahead)
            yield

    def serve(self, prompts: Iterable[Prompt], clients: int) -> None:
        """`run` to the end."""
        for _ in self.run(prompts, clients):
            pass


def traffic(seed: int, requests: int, prefixes: int = 60, longest: int = 24, output: int = 40) -> Sequence[Prompt]:
    """Shared prefixes by Zipf's law and of their own lengths, chats that go on, and cold ones."""
    random_ = random.Random(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(random_.randrange(3, 2000) for _ in range(count))

    shared = [tokens(random_.randrange(2 * BLOCK_TOKENS, longest * BLOCK_TOKENS)) for _ in range(prefixes)]
    weights = [1 / (rank + 1) ** 0.8 for rank in range(prefixes)]
    chats: list[tuple[int, ...]] = []
    prompts = []
    for _ in range(requests):
        kind = random_.random()
        if kind < 0.2 and chats:
            start = chats.pop(random_.randrange(len(chats)))
        elif kind < 0.85:
            (start,) = random_.choices(shared, weights)
        else:
            start = ()
        prompt = start + tokens(random_.randrange(5, 8 * BLOCK_TOKENS))
        if len(prompt) < 60 * BLOCK_TOKENS:
            chats = [*chats[-60:], prompt]
        prompts.append(Prompt(prompt, random_.randrange(1, output)))
    return prompts


def quiet_environment(folder: Path) -> dict[str, str]:
    """What keeps a vLLM offline, small and apart from others on this machine."""
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_RIGHTSIZER_DIR": str(folder),
        "VLLM_RIGHTSIZER_PORT": str(free_ports(1)[0]),
    }
