"""Real schedulers of any release, driven without a model: the tests make up the tokens.

What differs in how a release wants its objects built is found by their signatures. Nothing here comes from the
plugin or from the project: the tests run in an environment that has vLLM, the plugin's wheel and pytest.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import random
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

BLOCK_TOKENS = 16
LAYERS, KV_HEADS, HEAD_SIZE, FLOAT32_BYTES = 4, 2, 64, 4
BLOCK_BYTES = 2 * LAYERS * KV_HEADS * HEAD_SIZE * FLOAT32_BYTES * BLOCK_TOKENS
MAX_MODEL_LEN = 1024
VOCABULARY = range(3, 2000)


class Prompt(typing.NamedTuple):
    """A request: its tokens, and how many it generates."""

    tokens: list[int]
    output: int


def traffic(seed: int, requests: int, output: int = 24) -> Sequence[Prompt]:
    """Shared prefixes of their own lengths, some much more popular than others, and cold prompts."""
    dice = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [dice.choice(VOCABULARY) for _ in range(count)]

    shared = [tokens(dice.randrange(2 * BLOCK_TOKENS, 24 * BLOCK_TOKENS)) for _ in range(30)]
    weights = [1 / (rank + 1) for rank in range(len(shared))]
    prompts = []
    for _ in range(requests):
        (start,) = dice.choices(shared, weights) if dice.random() < 0.8 else ([],)
        prompts.append(Prompt(start + tokens(dice.randrange(5, 6 * BLOCK_TOKENS)), dice.randrange(1, output)))
    return prompts


def has(module: str) -> bool:
    """Whether this release has the module."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def first(*modules: str) -> Any:
    """The first of these modules that this release has."""
    return importlib.import_module(next(module for module in modules if has(module)))


def built(kind: Any, **wanted: Any) -> Any:
    """An object of `kind` from those of the `wanted` arguments that it knows; None for others that it requires."""
    parameters = inspect.signature(kind).parameters.values()
    empty = inspect.Parameter.empty
    required = [one.name for one in parameters if one.default is empty and one.kind is not one.VAR_KEYWORD]
    known = {one.name for one in parameters}
    return kind(**{**dict.fromkeys(required), **{name: wanted[name] for name in wanted if name in known}})


def configured(model: Path, **options: Any) -> Any:
    """A `VllmConfig` of this release."""
    from vllm.engine.arg_utils import EngineArgs

    wanted = {
        "model": str(model),
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "load_format": "dummy",
        "enforce_eager": True,
        "block_size": BLOCK_TOKENS,
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": 64,
        "enable_prefix_caching": True,
        "async_scheduling": False,
        "device": "cpu",
        **options,
    }
    known = inspect.signature(EngineArgs).parameters
    config = EngineArgs(**{name: value for name, value in wanted.items() if name in known}).create_engine_config()
    # The CPU platform would have its own least block; the scheduler itself takes any.
    config.cache_config.block_size = BLOCK_TOKENS
    config.cache_config.kv_cache_layout = "NHD"
    return config


def kv_cache_specs() -> dict[str, Any]:
    """The specs of a model's layers."""
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    spec = built(
        FullAttentionSpec,
        block_size=BLOCK_TOKENS,
        num_kv_heads=KV_HEADS,
        head_size=HEAD_SIZE,
        dtype=torch.float32,
        use_mla=False,
    )
    return {f"layer.{number}": spec for number in range(LAYERS)}


def kv_cache_config(vllm_config: Any, blocks: int) -> Any:
    """A `KVCacheConfig` of `blocks` blocks, by vLLM's own planning."""
    utils = importlib.import_module("vllm.v1.core.kv_cache_utils")
    newer = first("vllm.v1.core.kv_cache_planning", "vllm.v1.core.kv_cache_utils")
    plan = utils.get_kv_cache_config if hasattr(utils, "get_kv_cache_config") else newer.get_kv_cache_configs
    return planned(plan, vllm_config, blocks * BLOCK_BYTES)


def planned(plan: Any, vllm_config: Any, room: int) -> Any:
    """The `KVCacheConfig` of one rank. `plan`: vLLM's function for one rank, or for all of them."""
    if plan.__name__ == "get_kv_cache_config":
        return plan(vllm_config, kv_cache_specs(), room)
    (of_all,) = [one for one in inspect.signature(plan).parameters.values() if one.name.startswith("available")]
    several = "ist[" in str(of_all.annotation)
    specs = [kv_cache_specs()]
    given = [vllm_config, specs, [room] if several else room]
    if "global_kv_cache_groups" in inspect.signature(plan).parameters:
        # A step of its own since 0.33.
        given.append(importlib.import_module(plan.__module__).get_global_kv_cache_groups(vllm_config, specs))
    return plan(*given)[0]


def v1_scheduler() -> Any:
    """V1's scheduler class."""
    return first("vllm.v1.core.sched.scheduler", "vllm.v1.core.scheduler").Scheduler


class V1:
    """V1's scheduler with a pool of `blocks`, driven step by step."""

    def __init__(self, model: Path, blocks: int, **options: Any) -> None:
        self.vllm_config = configured(model, **options)
        self.config = kv_cache_config(self.vllm_config, blocks)
        self.vllm_config.cache_config.num_gpu_blocks = self.config.num_blocks
        self.hasher = self._hasher()
        self._tell_executor()
        scheduler = v1_scheduler()
        self.scheduler = built(
            scheduler,
            vllm_config=self.vllm_config,
            scheduler_config=self.vllm_config.scheduler_config,
            model_config=self.vllm_config.model_config,
            cache_config=self.vllm_config.cache_config,
            kv_cache_config=self.config,
            structured_output_manager=self._structured_outputs(),
            block_size=BLOCK_TOKENS,
            log_stats=True,
        )
        self.manager = self.scheduler.kv_cache_manager
        self.tracker = getattr(self.manager, "_vllm_rightsizer", None)
        self.queries = self.hits = self.hit_tokens = self.preemptions = self.most_active = 0
        # Computed tokens are counted at the step's end until 0.8, and when it is scheduled since.
        self._late = "num_computed_tokens +=" in inspect.getsource(scheduler.update_from_output)
        self._dice = random.Random(0)
        self._numbers = iter(range(1_000_000_000))

    def _hasher(self) -> Any:
        utils = importlib.import_module("vllm.v1.core.kv_cache_utils")
        if not hasattr(utils, "get_request_block_hasher"):
            return None
        by_name = getattr(first("vllm.utils.hashing", "vllm.utils"), "get_hash_fn_by_name", None)
        algorithm = self.vllm_config.cache_config.prefix_caching_hash_algo
        hashing = by_name(algorithm) if by_name else utils.sha256 if algorithm == "sha256" else hash
        utils.init_none_hash(hashing)
        return utils.get_request_block_hasher(BLOCK_TOKENS, hashing)

    def _structured_outputs(self) -> Any:
        if not has("vllm.v1.structured_output"):
            return None
        return importlib.import_module("vllm.v1.structured_output").StructuredOutputManager(self.vllm_config)

    def _tell_executor(self) -> None:
        """As the engine core does it before it builds its scheduler."""
        kind = importlib.import_module("vllm.v1.executor.abstract").Executor
        idle = SimpleNamespace(collective_rpc=lambda *_, **__: [])
        if hasattr(kind, "initialize_from_config"):
            kind.initialize_from_config(idle, [self.config])
        else:
            kind.initialize(idle, [self.config])

    def _request(self, prompt: Prompt) -> Any:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        return built(
            Request,
            request_id=str(next(self._numbers)),
            prompt_token_ids=list(prompt.tokens),
            sampling_params=SamplingParams(max_tokens=prompt.output, ignore_eos=True, temperature=0.0),
            arrival_time=0.0,
            block_hasher=self.hasher,
        )

    def add(self, prompt: Prompt) -> None:
        """Put a request into the waiting queue."""
        self.scheduler.add_request(self._request(prompt))

    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self.scheduler.requests)

    def step(self) -> None:
        """Schedule once, and deliver made-up tokens."""
        import numpy
        from vllm.v1.outputs import ModelRunnerOutput

        before = {request.request_id for request in self.scheduler.running}
        scheduled = self.scheduler.schedule()
        self.hit_tokens += sum(request.num_computed_tokens for request in scheduled.scheduled_new_reqs)
        names = list(scheduled.num_scheduled_tokens)
        still = {request.request_id for request in self.scheduler.running}
        self.preemptions += len([name for name in before - still if name in self.scheduler.requests])
        self.most_active = max(self.most_active, self.scan()[0])
        arrays = "ndarray" in str(ModelRunnerOutput.__annotations__["sampled_token_ids"])
        one_each = typing.get_args(ModelRunnerOutput.__annotations__["sampled_token_ids"])[:1] == (int,)
        sampled: list[Any] = []
        for name in names:
            request = self.scheduler.requests[name]
            computed = request.num_computed_tokens + (scheduled.num_scheduled_tokens[name] if self._late else 0)
            # A step samples where it reaches the end of what is known of the request.
            tokens = [self._dice.choice(VOCABULARY)] if computed >= request.num_tokens else []
            sampled.append((tokens or [0])[0] if one_each else numpy.array(tokens, int) if arrays else tokens)
        output = built(
            ModelRunnerOutput,
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
            prompt_logprobs_dict=dict.fromkeys(names),
            pooler_output=[],
        )
        outputs = self.scheduler.update_from_output(scheduled, output)
        for one in outputs.values() if isinstance(outputs, dict) else [outputs]:
            stats = getattr(getattr(one, "scheduler_stats", None), "prefix_cache_stats", None)
            if stats is not None:
                self.queries += stats.queries
                self.hits += stats.hits

    def scan(self) -> tuple[int, int]:
        """Active and reusable blocks, counted out block by block."""
        pool = self.manager.block_pool
        blocks = pool if isinstance(pool, list) else pool.blocks
        null = getattr(pool, "null_block", None)
        active = sum(block.ref_cnt > 0 for block in blocks if block is not null)
        reusable = sum(block.ref_cnt == 0 and block.block_hash is not None for block in blocks if block is not null)
        return active, reusable

    def run(self, prompts: Iterable[Prompt], clients: int) -> Iterator[None]:
        """Serve all prompts with so many clients in a closed loop; yields after each step."""
        waiting = iter(prompts)
        more = True
        while more or self.unfinished():
            while more and self.unfinished() < clients:
                prompt = next(waiting, None)
                if prompt is None:
                    more = False
                else:
                    self.add(prompt)
            self.step()
            yield


def runner_knows_its_config() -> bool:
    """Whether V1's model runner keeps its `KVCacheConfig`."""
    spec = importlib.util.find_spec("vllm.v1.worker.gpu_model_runner")
    assert spec is not None
    assert spec.origin is not None
    return "self.kv_cache_config = " in Path(spec.origin).read_text()


def has_null_block() -> bool:
    """Whether V1's pool keeps a block that it never hands out."""
    return has("vllm.v1.core.block_pool") and "self.null_block" in inspect.getsource(
        importlib.import_module("vllm.v1.core.block_pool")
    )


class V0:
    """V0's engine with a pool of `blocks`: its own scheduler and block manager, an executor without a model."""

    def __init__(self, model: Path, blocks: int, **options: Any) -> None:
        from vllm.engine.llm_engine import LLMEngine

        with patch.dict(os.environ, {"VLLM_USE_V1": "0"}):
            self.vllm_config = configured(model, **options)
            self.engine = LLMEngine(
                vllm_config=self.vllm_config, executor_class=executor_without_model(blocks), log_stats=False
            )
        (self.scheduler,) = self.engine.scheduler
        self.manager = self.scheduler.block_manager
        self.tracker = getattr(self.manager, "_vllm_rightsizer", None)
        (self.allocator,) = [
            one for device, one in self.manager.block_allocator._allocators.items() if device.name == "GPU"
        ]
        self.most_active = 0
        self._numbers = iter(range(1_000_000_000))

    def add(self, prompt: Prompt) -> None:
        """Put a request into the waiting queue."""
        from vllm.sampling_params import SamplingParams

        parameters = SamplingParams(max_tokens=prompt.output, ignore_eos=True, temperature=0.0, detokenize=False)
        self.engine.add_request(str(next(self._numbers)), {"prompt_token_ids": list(prompt.tokens)}, parameters)

    def unfinished(self) -> int:
        """Requests that wait or run."""
        return int(self.engine.get_num_unfinished_requests())

    def step(self) -> None:
        """Schedule once, and deliver made-up tokens."""
        self.engine.step()
        self.most_active = max(self.most_active, self.scan()[0])

    def scan(self) -> tuple[int, int]:
        """Active and reusable blocks, counted out block by block."""
        allocator = self.allocator
        counts = allocator._refcounter._refcounts if hasattr(allocator, "_refcounter") else {}
        active = sum(count > 0 for count in counts.values())
        cached = set(allocator._cached_blocks.values()) if hasattr(allocator, "_cached_blocks") else set()
        return active, sum(counts[block] == 0 for block in cached)

    @property
    def hit_tokens(self) -> int:
        """What the scheduler told the workers not to compute, when it admitted each request for the first time."""
        return BLOCK_TOKENS * sum(self.engine.model_executor.cached_blocks.values())

    @property
    def preemptions(self) -> int:
        """As the scheduler counts them."""
        return int(self.scheduler.num_cumulative_preemption)

    run = V1.run


def executor_without_model(blocks: int) -> Any:
    """A V0 executor with room for so many blocks, which answers every step with made-up tokens."""
    from vllm.executor.executor_base import ExecutorBase

    sampler = first("vllm.model_executor.layers.sampler")
    sequence = importlib.import_module("vllm.sequence")

    class WithoutModel(ExecutorBase):  # type: ignore[misc]  # vLLM is untyped here
        uses_ray = False

        def _init_executor(self) -> None:
            self.dice = random.Random(0)
            self.cached_blocks: dict[str, int] = {}

        def collective_rpc(self, *_: Any, **__: Any) -> list[Any]:
            return []

        def determine_num_available_blocks(self) -> tuple[int, int]:
            return blocks, 0

        def initialize_cache(self, num_gpu_blocks: int, num_cpu_blocks: int) -> None:
            self.cache_config.num_gpu_blocks = num_gpu_blocks
            self.cache_config.num_cpu_blocks = num_cpu_blocks

        def check_health(self) -> None:
            """It is."""

        def execute_model(self, execute_model_req: Any) -> list[Any]:
            outputs = []
            for group in execute_model_req.seq_group_metadata_list:
                if group.is_prompt:
                    self.cached_blocks.setdefault(group.request_id, len(group.computed_block_nums or ()))
                token = self.dice.choice(VOCABULARY)
                logprobs = {token: sequence.Logprob(0.0)}
                samples = [
                    built(sequence.SequenceOutput, parent_seq_id=name, output_token=token, logprobs=logprobs)
                    for name in group.seq_data
                ]
                outputs.append(built(sequence.CompletionSequenceGroupOutput, samples=samples))
            return [sampler.SamplerOutput(outputs=outputs)]

        execute_method: Any = None

    return WithoutModel
