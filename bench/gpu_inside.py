"""What `bench.gpu` runs in a process of its own: a vLLM with the plugin, looked at with torch.cuda and NVML.

`python -m bench.gpu_inside TASK OPTIONS`: OPTIONS are vLLM's arguments as a JSON object. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PAIRS = 12
_REQUESTS = 128
_PROMPT_TOKENS = 600
_OUTPUT_TOKENS = 64


class Engine:
    """A vLLM whose engine core and worker live in this process."""

    def __init__(self, options: dict[str, Any]) -> None:
        from vllm import LLM

        self.llm: Any = LLM(**options)
        core: Any = self.llm.llm_engine.engine_core.engine_core
        self.worker: Any = core.model_executor.driver_worker.worker
        self.config: Any = core.vllm_config

    def fill(self) -> None:
        """One batch as large as any can be, which is what vLLM profiled."""
        from vllm import SamplingParams

        tokens = self.config.scheduler_config.max_num_batched_tokens
        length = self.config.model_config.max_model_len - 8
        prompts = [_prompt(number, min(length, tokens)) for number in range(-(-tokens // length))]
        self.llm.generate(prompts, SamplingParams(max_tokens=2, ignore_eos=True, temperature=0), use_tqdm=False)

    def report(self) -> dict[str, Any]:
        """The plugin's figures: the engine's, and beside them its one worker's."""
        from vllm_plugin import process

        found = process.current().report()
        (engine,), (worker,) = found["engines"], found["workers"]
        return {"engine": engine, "plugin": worker}

    def tensor_bytes(self) -> dict[str, int]:
        """Of vLLM's own tensors: what the model holds, and the pool."""
        model = self.worker.model_runner.model
        return {
            "weights_bytes": _unique_bytes([*model.parameters(), *model.buffers()]),
            "pool_bytes": _unique_bytes(_tensors(self.worker.model_runner.kv_caches)),
        }


def sizes(options: dict[str, Any]) -> dict[str, Any]:
    """What vLLM started with."""
    engine = Engine(options)
    requested = getattr(engine.worker, "requested_memory", None)
    truth = {**engine.tensor_bytes(), "total_bytes": _card()[1], "requested_bytes": requested}
    return {**engine.report(), "truth": truth}


def bytes_taken(options: dict[str, Any]) -> dict[str, Any]:
    """What the card and torch say of this process, and how much of it each step of the start took."""
    import torch

    graphs: list[int] = []
    _note_graphs(graphs)
    used_before = _used_bytes()
    engine = Engine(options)
    at_start = engine.worker.init_snapshot
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    resting = torch.cuda.memory_allocated()
    engine.fill()
    torch.cuda.synchronize()
    free, total = _card()
    truth = {
        **engine.tensor_bytes(),
        "total_bytes": total,
        "activation_bytes": torch.cuda.max_memory_allocated() - resting,
        "graph_bytes": sum(graphs),
        "taken_bytes_at_full_batch": at_start.free_memory - free,
        "used_bytes": _used_bytes() - used_before,
    }
    return {**engine.report(), "truth": truth}


def speed(options: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second in turn with the plugin's hooks and without, on the same prompts."""
    from vllm import SamplingParams

    engine = Engine(options)
    parameters = SamplingParams(max_tokens=_OUTPUT_TOKENS, ignore_eos=True, temperature=0)

    def rate(turn: int) -> float:
        # A fifth of each prompt is common to all, the rest is new in each turn.
        prompts = [_prompt(number % 8, _PROMPT_TOKENS // 5, turn * _REQUESTS + number) for number in range(_REQUESTS)]
        start = time.perf_counter()
        engine.llm.generate(prompts, parameters, use_tqdm=False)
        return _REQUESTS * (_PROMPT_TOKENS + _OUTPUT_TOKENS) / (time.perf_counter() - start)

    rate(0)
    pairs = []
    for pair in range(_PAIRS):
        turns: dict[bool, float] = {}
        for hooked in (True, False) if pair % 2 else (False, True):
            with _hooks(hooked):
                turns[hooked] = rate(1 + pair)
            engine.llm.reset_prefix_cache()
        pairs.append((turns[True], turns[False]))
    return {"pairs": pairs}


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sizes": sizes,
    "bytes": bytes_taken,
    "speed": speed,
}


@contextmanager
def _hooks(on: bool) -> Iterator[None]:
    """All of the plugin's hooks on or off; what had switched itself off stays so."""
    from vllm_plugin.guard import hooks

    found = [] if on else [hook for hook in hooks.values() if hook.active]
    for hook in found:
        hook.active = False
    try:
        yield
    finally:
        for hook in found:
            hook.active = True


def _prompt(shared: int, length: int, own: int | None = None) -> dict[str, list[int]]:
    """Token ids that all with this `shared` begin with, and then those of one request alone."""
    head = [10 + (shared * 7919 + place * 31) % 20_000 for place in range(length)]
    if own is None:
        return {"prompt_token_ids": head}
    tail = [10 + (own * 104_729 + place * 37) % 20_000 for place in range(_PROMPT_TOKENS - length)]
    return {"prompt_token_ids": head + tail}


def _note_graphs(found: list[int]) -> None:
    """What capturing CUDA graphs took from the card, for whichever runner this vLLM has."""
    from vllm.v1.worker.gpu_worker import Worker

    original = Worker.compile_or_warm_up_model

    def warm_up(self: Any) -> Any:
        runner = self.model_runner
        capture = runner.capture_model

        def measured(*args: Any, **kwargs: Any) -> Any:
            before = _card()[0]
            result = capture(*args, **kwargs)
            found.append(before - _card()[0])
            return result

        runner.capture_model = measured
        return original(self)

    Worker.compile_or_warm_up_model = warm_up


def _card() -> tuple[int, int]:
    """Free and all bytes of the card, by CUDA."""
    import torch

    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info(0)
    return int(free), int(total)


def _used_bytes() -> int:
    """What is taken of the card, by NVML, which needs no CUDA context to say so."""
    import vllm.third_party.pynvml as nvml

    nvml.nvmlInit()
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(0)).used)
    finally:
        nvml.nvmlShutdown()


def _unique_bytes(tensors: Any) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _tensors(caches: Any) -> Iterator[Any]:
    for cache in caches:
        if isinstance(cache, (list, tuple)):
            yield from _tensors(cache)
        else:
            yield cache


if __name__ == "__main__":
    print("RESULT" + json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))), flush=True)
