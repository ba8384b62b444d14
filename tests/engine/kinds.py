"""Whole vLLMs in one process, one after the other, each of another kind.

Run by `test_model_kinds` with the plugin's wheel on PYTHONPATH and without, as `python kinds.py FOLDER KIND...`; prints
one JSON object a kind: what it answered, what vLLM's own objects say, and what the plugin says where it is loaded.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK_TOKENS, MAX_MODEL_LEN = 32, 512
KV_BYTES = 20_000_000
FLOOR_BYTES = (MAX_MODEL_LEN // BLOCK_TOKENS + 1) * 131_072
"""Of the model "llama": one request of the longest kind and the null block."""
PROMPTS = [list(range(10, 110)), list(range(10, 90)) + list(range(200, 220)), list(range(10, 110))]


def unique_bytes(tensors: Iterable[Any]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for pointer, size in storages.items() if pointer)


def loaded_weights() -> list[int]:
    """Collects the bytes of each model as it comes from its loader, before the CPU backend packs it."""
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    sizes: list[int] = []
    original = DummyModelLoader.load_weights

    def load_weights(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, model, *args, **kwargs)
        sizes.append(unique_bytes([*model.parameters(), *model.buffers()]))
        return result

    DummyModelLoader.load_weights = load_weights
    return sizes


def lora_bytes(model: Any) -> int:
    stacks = [module for module in model.modules() if hasattr(module, "lora_a_stacked")]
    return unique_bytes(tensor for one in stacks for tensor in (*one.lora_a_stacked, *one.lora_b_stacked))


def tensors_of(caches: Any) -> Iterator[Any]:
    for cache in caches:
        if isinstance(cache, (list, tuple)):
            yield from tensors_of(cache)
        else:
            yield cache


def share_of_memory(size: int) -> float:
    """What vLLM may claim of the memory that it sees, to be so many bytes of it."""
    from vllm.platforms import current_platform
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list

    return round(size / current_platform.get_device_total_memory(get_allowed_cpu_list()[0].numa_node), 4)


class Kinds:
    """How each kind is started, and what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: dict[str, Any] = {}

    def start(self, model: str, **arguments: Any) -> Any:
        from vllm import LLM

        options = {
            "load_format": "dummy",
            "dtype": "float32",
            "enforce_eager": True,
            "block_size": BLOCK_TOKENS,
            "max_model_len": MAX_MODEL_LEN,
            "kv_cache_memory_bytes": KV_BYTES,
            "distributed_executor_backend": "uni",
            "max_num_seqs": 8,
            "seed": 1,
            **arguments,
        }
        return LLM(str(self.folder / model), **options)

    def ask(self, llm: Any, prompts: list[list[int]] = PROMPTS, **how: Any) -> list[list[int]]:
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=6, ignore_eos=True, temperature=0)
        answers = []
        for prompt in prompts:
            (output,) = llm.generate([{"prompt_token_ids": prompt}], parameters, use_tqdm=False, **how)
            answers.append(list(output.outputs[0].token_ids))
        return answers

    def plain(self) -> tuple[Any, Any]:
        llm = self.start("llama")
        return llm, self.ask(llm)

    def uncached(self) -> tuple[Any, Any]:
        llm = self.start("llama", enable_prefix_caching=False)
        return llm, self.ask(llm)

    def windows(self) -> tuple[Any, Any]:
        llm = self.start("gemma")
        return llm, self.ask(llm)

    def pooling(self) -> tuple[Any, Any]:
        # More than the model takes is never claimed: there is nothing to claim it for.
        llm = self.start(
            "bert", runner="pooling", kv_cache_memory_bytes=None, gpu_memory_utilization=share_of_memory(3 << 30),
            max_model_len=128,
        )  # fmt: skip
        outputs = llm.embed([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
        return llm, [[round(value, 6) for value in output.outputs.embedding[:8]] for output in outputs]

    def pooling_decoder(self) -> tuple[Any, Any]:
        llm = self.start("llama", runner="pooling")
        outputs = llm.embed([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
        return llm, [[round(value, 6) for value in output.outputs.embedding[:8]] for output in outputs]

    def adapters(self) -> tuple[Any, Any]:
        from vllm.lora.request import LoRARequest

        llm = self.start("llama", enable_lora=True, max_loras=2, max_lora_rank=8)
        adapter = LoRARequest("one", 1, str(self.folder / "adapter"))
        bare = self.ask(llm, PROMPTS[:1])
        self.notes["logprobs"] = [self.logprobs(llm), self.logprobs(llm, lora_request=adapter)]
        return llm, [*bare, *self.ask(llm, [PROMPTS[0], PROMPTS[0]], lora_request=adapter)]

    def logprobs(self, llm: Any, **how: Any) -> dict[str, float]:
        """How likely the model finds each of the first tokens after a prompt, to the last bit."""
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=1, temperature=0, logprobs=20)
        prompt = {"prompt_token_ids": list(range(300, 320))}
        (output,) = llm.generate([prompt], parameters, use_tqdm=False, **how)
        (found,) = output.outputs[0].logprobs
        return {str(token): one.logprob for token, one in sorted(found.items())}

    def drafted(self) -> tuple[Any, Any]:
        draft = {"method": "draft_model", "model": str(self.folder / "draft"), "num_speculative_tokens": 2}
        llm = self.start("llama", speculative_config=draft)
        return llm, self.ask(llm)

    def guessed(self) -> tuple[Any, Any]:
        guess = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
        llm = self.start("llama", speculative_config=guess)
        return llm, self.ask(llm)

    def quantized(self) -> tuple[Any, Any]:
        llm = self.start("gptq", dtype="float16")
        return llm, self.ask(llm)

    def kvcached(self) -> tuple[Any, Any]:
        os.environ.update({"ENABLE_KVCACHED": "true", "VLLM_RIGHTSIZER_KV_BYTES": "1000000"})
        llm = self.start("llama")
        return llm, self.ask(llm)

    def sleeping(self) -> tuple[Any, Any]:
        llm = self.start("llama")
        before = self.ask(llm)
        llm.sleep(level=1)
        self.notes["asleep"] = plugin_report()
        llm.wake_up()
        return llm, [*before, *self.ask(llm)]

    def raised_bytes(self) -> tuple[Any, Any]:
        os.environ["VLLM_RIGHTSIZER_KV_BYTES"] = "1000"
        llm = self.start("llama", num_gpu_blocks_override=200)
        return llm, self.ask(llm)

    def raised_utilization(self) -> tuple[Any, Any]:
        os.environ["VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION"] = "0.0001"
        llm = self.start("llama", kv_cache_memory_bytes=None, gpu_memory_utilization=0.2)
        return llm, self.ask(llm)

    def raised_windows(self) -> tuple[Any, Any]:
        os.environ["VLLM_RIGHTSIZER_KV_BYTES"] = "1000"
        llm = self.start("gemma")
        return llm, self.ask(llm)

    def at_the_floor(self) -> tuple[Any, Any]:
        """The user's own size, which is just enough."""
        llm = self.start("llama", kv_cache_memory_bytes=FLOOR_BYTES)
        return llm, self.ask(llm)

    def below_the_floor(self) -> tuple[Any, Any]:
        """The user's own size, which is not; that the utilization is the plugin's changes nothing."""
        os.environ["VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION"] = "0.1"
        llm = self.start("llama", kv_cache_memory_bytes=FLOOR_BYTES - 1)
        return llm, self.ask(llm)

    def figures(self, llm: Any, loaded: list[int]) -> dict[str, Any]:
        """What vLLM's own objects say."""
        core = llm.llm_engine.engine_core.engine_core
        worker = core.model_executor.driver_worker.worker
        manager = core.scheduler.kv_cache_manager
        return {
            "weights": sum(loaded) + lora_bytes(worker.model_runner.model),
            "loaded": list(loaded),
            "pool": unique_bytes(tensors_of(worker.model_runner.kv_caches)),
            "blocks": manager.block_pool.num_gpu_blocks,
            "free": manager.block_pool.get_num_free_blocks(),
            "groups": len(manager.kv_cache_config.kv_cache_groups),
            "requested": worker.requested_cpu_memory,
            "kv_bytes": core.vllm_config.cache_config.kv_cache_memory_bytes,
        }


def plugin_report() -> dict[str, Any] | None:
    process = sys.modules.get("vllm_plugin.process")
    if process is None:
        return None
    from vllm_plugin.formats import text
    from vllm_plugin.page import families

    report = process.current().report()
    return {**report, "page": text(families([report]))}


def main(folder: Path, names: list[str]) -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    kinds, sizes = Kinds(folder), loaded_weights()
    before = dict(os.environ)
    for name in names:
        sizes.clear()
        kinds.notes = {}
        result: dict[str, Any] = {"kind": name}
        try:
            start: Callable[[], tuple[Any, Any]] = getattr(kinds, name)
            llm, result["answers"] = start()
            result["notes"] = kinds.notes
            result["figures"] = kinds.figures(llm, sizes)
            result["plugin"] = plugin_report()
            llm.llm_engine.engine_core.shutdown()
            del llm
        except Exception:
            result["error"] = traceback.format_exc()
        print("RESULT" + json.dumps(result), flush=True)
        gc.collect()
        cleanup_dist_env_and_memory()
        for added in set(os.environ) - set(before):
            del os.environ[added]
        os.environ.update(before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
