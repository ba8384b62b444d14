"""Runs a model in this release's real engine; notes what vLLM's own objects and counters say, and the plugin's page.

A program of its own: the engine's processes are started by spawn, and import it again.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from engines import traffic

BLOCK_TOKENS = 32


def inside(worker: Any) -> dict[str, int]:
    """In the worker: bytes of the KV cache's tensors, and how many blocks they hold."""
    from loaded import unique_bytes

    blocks = int(worker.model_runner.kv_cache_config.num_blocks)
    return {"pool": unique_bytes(tensors_in(worker.model_runner.kv_caches)), "blocks": blocks}


def tensors_in(value: Any) -> list[Any]:
    """Tensors in nested lists."""
    return [tensor for one in value for tensor in tensors_in(one)] if isinstance(value, (list, tuple)) else [value]


def page(requests: int) -> str:
    """The plugin's, as soon as it has all figures, those of so many requests among them."""
    address = f"http://127.0.0.1:{os.environ['VLLM_RIGHTSIZER_PORT']}/metrics"
    deadline = time.monotonic() + 400
    while True:
        try:
            text = str(urllib.request.urlopen(address, timeout=60).read().decode())
            counted = re.findall(r"^vllm_rightsizer_requests_total(?:\{.*\})? (\S+)$", text, re.MULTILINE)
            if "model_weights_bytes{" in text and sum(map(float, counted)) >= requests:
                return text
        except (OSError, HTTPException):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the plugin shows no figures")
        time.sleep(0.5)


def main() -> None:
    """Serve. Arguments: those of the engine as JSON, and the file for what was found."""
    import vllm.v1.worker.cpu_worker as cpu_worker
    from vllm import LLM, SamplingParams

    if "cpu_kvcache_space_bytes" in Path(cpu_worker.__file__).read_text():
        # Until 0.19 the CPU backend knows only this size, in GiB.
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    llm = LLM(**json.loads(sys.argv[1]))
    parameters = SamplingParams(max_tokens=4, ignore_eos=True, temperature=0.0, detokenize=False)
    prompts = [{"prompt_token_ids": prompt.tokens} for prompt in traffic(8, 40)]
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    # Again, alone and one by one: what the first ones left is hit.
    for prompt in prompts[:5]:
        outputs += llm.generate([prompt], parameters, use_tqdm=False)
    (rank,) = llm.collective_rpc(inside)
    ((loaded,),) = llm.collective_rpc("loaded_bytes")
    counters = {one.name: one.value for one in llm.get_metrics() if hasattr(one, "value")}
    found = {
        **rank,
        "loaded": loaded,
        "answers": len(outputs),
        "queries": counters["vllm:prefix_cache_queries"],
        "hits": counters["vllm:prefix_cache_hits"],
        "preemptions": counters["vllm:num_preemptions"],
        "utilization": getattr(llm.llm_engine.vllm_config.cache_config, "gpu_memory_utilization", None),
        "page": page(len(outputs)),
    }
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
