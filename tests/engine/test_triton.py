"""Triton's vLLM backend starts a library's vLLM by `model.json`: no argument list, and no metrics page of vLLM's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recommender.exposition import parse_page
from vllm_plugin import names
from vllm_plugin.override import fraction_of
from vllm_rightsizer.demo.model import BLOCK_BYTES, BLOCK_TOKENS

from .scripts import Script, engine_info, hooks_at_fault, samples
from .test_server import weight_bytes

pytestmark = pytest.mark.engine

ASKED = 60 * BLOCK_BYTES + 5
CLAIM = 1_500_000_000
MODEL_JSON = {
    "load_format": "dummy",
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": BLOCK_TOKENS,
    "max_model_len": 512,
    "gpu_memory_utilization": 0.2,
    "disable_log_stats": False,
}


def test_it_is_found_measured_and_sized(model: Path, tmp_path: Path) -> None:
    """The engine core is forked from Triton's stub, so that vLLM does not load its plugins again there."""
    (tmp_path / "model.json").write_text(json.dumps({"model": str(model), **MODEL_JSON}))
    script = Script(
        Path(__file__).with_name("triton_stub.py"),
        [str(tmp_path), "fork"],
        tmp_path / "stub",
        {names.ENV_KV_BYTES: str(ASKED), names.ENV_ALLOCATION_BYTES: str(CLAIM)},
    )
    (found,) = script.results()
    assert found["children"] == ["ForkProcess"]
    assert [len(answer) for answer in found["answers"]] == [4, 4]
    mine = samples(found["page"])
    assert mine[names.KV_CACHE_CAPACITY_BYTES, "0"] == 60 * BLOCK_BYTES
    # Triton's own logger of statistics goes on counting beside the plugin.
    assert mine[names.LOOKUP_TOKENS, ""] == found["prompt_tokens"] == 100 + 130
    assert mine[names.HIT_TOKENS, ""] == 3 * BLOCK_TOKENS
    # The hooks are there, and what they counted before the fork is not counted twice.
    assert mine[names.REQUESTS, ""] == 2
    assert mine[names.MODEL_WEIGHTS_BYTES, "0"] == weight_bytes(model)
    assert hooks_at_fault(found["page"]) == set()
    info = engine_info(found["page"])
    assert (info["override"], info["applied_kv_cache_memory_bytes"]) == (names.OVERRIDE_APPLIED, str(ASKED))
    fraction = fraction_of(CLAIM, int(mine[names.GPU_MEMORY_TOTAL_BYTES, "0"]))
    assert (info["requested_gpu_memory_utilization"], float(info["applied_gpu_memory_utilization"])) == (
        "0.2",
        fraction,
    )
    # And the recommender can read it.
    (engine,) = parse_page(found["page"]).engines
    assert engine.facts.capacity_bytes == 60 * BLOCK_BYTES
