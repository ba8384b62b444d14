"""A library's vLLM: started as it is told, asked once, and looked at from inside.

Run by the tests as `python library.py MODEL OPTIONS RANKS`, by torchrun too: then the first of RANKS processes prints.
OPTIONS: those of `LLM` as JSON; `claim_bytes` among them becomes its utilization. Prints one JSON object: what each
worker has allocated, the device's total, and the plugin's page.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pages import PATIENCE_SECONDS, settled_page

PROMPT = list(range(3, 200))


def inside(worker: Any) -> tuple[int, int, int]:
    """In a worker: bytes of the KV cache's tensors, how many blocks they hold, and what the worker claims."""
    tensors = worker.model_runner.kv_caches
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values()), worker.model_runner.kv_cache_config.num_blocks, worker.requested_cpu_memory


def main() -> None:
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list

    model, options, ranks = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    total = current_platform.get_device_total_memory(get_allowed_cpu_list()[0].numa_node)
    if "claim_bytes" in options:
        options["gpu_memory_utilization"] = round(options.pop("claim_bytes") / total, 4)
    llm = LLM(model, **options)
    llm.generate([{"prompt_token_ids": PROMPT}], SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
    told = Path("told")
    if os.environ.get("RANK", "0") == "0":
        found = {"workers": llm.collective_rpc(inside), "total": total, "page": settled_page(ranks, requests=1)}
        print("RESULT" + json.dumps(found), flush=True)
        told.touch()
    else:
        # What ends is no longer on the page.
        deadline = time.monotonic() + 2 * PATIENCE_SECONDS
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
