"""Is what the plugin shows vLLM's own, to the byte and to the block?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.engines import BLOCK_TOKENS as ENGINE_BLOCK_TOKENS
from bench.engines import Engine, traffic
from bench.figures import Figure
from bench.in_vllm import WEIGHTS, tensor_bytes
from bench.servers import ServerError, environment, read
from vllm_plugin import names
from vllm_rightsizer.demo.model import BLOCK_TOKENS, write_model
from vllm_rightsizer.demo.ports import free_ports

_MODULE = "bench.plugin_exactness"
_STEPS = 10_000
_BLOCKS = 700
_CLIENTS = 16
_POOL_BYTES = 100_000_000
_SCRIPT_SECONDS = 240
_PAGE_SECONDS = 20.0


def figures(model: Path) -> Iterator[Figure]:
    """First the real scheduler step by step, then the tensors of a real worker."""
    yield from _blocks(model)
    yield from _bytes()


def _blocks(model: Path) -> Iterator[Figure]:
    engine = Engine(model, _BLOCKS)
    active_off = reusable_off = steps = 0
    for _ in engine.run(traffic(1, 10 * _STEPS, output=120), _CLIENTS):
        active, reusable = engine.scan()
        active_off += abs(engine.tracker.active_and_free()[0] - active)
        reusable_off += abs(engine.tracker.reusable() - reusable)
        steps += 1
        if steps == _STEPS:
            break
    report = engine.tracker.report()
    pool_bytes = sum({tensor.size for tensor in engine.config.kv_cache_tensors})
    about: dict[str, Any] = {"n": steps, "target": 0}
    yield Figure("active_blocks_difference", active_off, "blocks, summed over all steps", **about)
    yield Figure("reusable_blocks_difference", reusable_off, "blocks, summed over all steps", **about)
    yield Figure("hit_tokens_difference", abs(engine.tracker.hit_tokens - engine.hits), "tokens", **about)
    yield Figure("scheduler_pool_bytes_difference", abs(report["capacity_bytes"] - pool_bytes), "bytes", 1, 0)
    yield Figure("block_tokens_difference", abs(report["block_tokens"] - ENGINE_BLOCK_TOKENS), "tokens", 1, 0)


def _bytes() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-bytes-") as name:
        folder = Path(name)
        model = folder / "tiny"
        write_model(model)
        done = subprocess.run(
            [sys.executable, "-m", _MODULE, str(model)],
            env=environment(folder, free_ports(1)[0]) | {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SCRIPT_SECONDS,
            text=True,
            check=False,
        )
        results = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        if not results:
            raise ServerError(f"vLLM did not start:\n{done.stdout[-3000:]}")
        found = json.loads(results[0].removeprefix("RESULT"))
        weights = json.loads((folder / "bench" / WEIGHTS).read_text())
    page = found["page"]
    yield Figure("weights_bytes_difference", abs(page[names.MODEL_WEIGHTS_BYTES] - weights), "bytes", 1, 0)
    yield Figure("pool_bytes_difference", abs(page[names.KV_CACHE_CAPACITY_BYTES] - found["pool"]), "bytes", 1, 0)
    yield Figure("block_bytes_difference", abs(page[names.KV_CACHE_BLOCK_BYTES] - found["block"]), "bytes", 1, 0)


def inside(worker: Any, blocks: int) -> tuple[int, int]:
    """Run in the worker: bytes of all its KV tensors, and of one of the `blocks` that they hold."""
    tensors = list(worker.model_runner.kv_caches)
    # One dimension counts the blocks; where it stands depends on the attention backend.
    if not all(blocks in tensor.shape for tensor in tensors):
        raise ValueError(f"no dimension of {tensors[0].shape} counts {blocks} blocks")
    return tensor_bytes(tensors), sum(tensor.numel() // blocks * tensor.element_size() for tensor in tensors)


def _in_vllm(model: str) -> None:
    """A library's vLLM, in a process of its own: what its worker holds, and what stands on the plugin's page."""
    from vllm import LLM

    from bench import plugin_exactness

    llm = LLM(
        model=model,
        load_format="dummy",
        dtype="float32",
        enforce_eager=True,
        block_size=BLOCK_TOKENS,
        max_model_len=1024,
        kv_cache_memory_bytes=_POOL_BYTES,
    )
    blocks = llm.llm_engine.vllm_config.cache_config.num_gpu_blocks
    ((pool, block),) = llm.collective_rpc(plugin_exactness.inside, args=(blocks,))
    deadline = time.monotonic() + _PAGE_SECONDS
    while names.MODEL_WEIGHTS_BYTES not in (page := read(int(os.environ[names.ENV_PORT]))):
        if time.monotonic() > deadline:
            raise ServerError("the plugin shows no weights")
        time.sleep(0.5)
    print("RESULT" + json.dumps({"pool": pool, "block": block, "page": page}), flush=True)


if __name__ == "__main__":
    _in_vllm(sys.argv[1])
