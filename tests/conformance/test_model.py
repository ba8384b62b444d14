"""A tiny model in this release's real engine: the plugin's page against vLLM's own tensors and counters."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import ports
import pytest
from serving import BLOCK_TOKENS

pytestmark = pytest.mark.skipif(
    not os.environ["CONFORMANCE_RUNS_MODELS"], reason="this release's kernels cannot be loaded on this machine"
)

BLOCKS = 160
TOKEN_BYTES = 2 * 4 * 2 * 64 * 4
"""Keys and values, layers, heads, head size, float32."""


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Asked for 0.9 of the machine and 512 blocks, overridden to much less."""
    options = {
        "model": str(model),
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": BLOCK_TOKENS,
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "enable_prefix_caching": True,
        "disable_log_stats": False,
        "gpu_memory_utilization": 0.9,
        "worker_extension_cls": "loaded.Loaded",
    }
    folder = tmp_path_factory.mktemp("served")
    environ = {
        **os.environ,
        "VLLM_RIGHTSIZER_DIR": str(folder / "snapshots"),
        "VLLM_RIGHTSIZER_PORT": str(ports.free_port()),
        "VLLM_RIGHTSIZER_KV_BYTES": str(BLOCKS * BLOCK_TOKENS * TOKEN_BYTES + 1000),
        "VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION": "0.1234",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        ),
        **preloaded(),
    }
    # Short, as paths of sockets have to be, which stay where a process is killed.
    sockets = tempfile.mkdtemp(prefix="vllm-")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("serving.py")), json.dumps(options), str(folder / "found")],
        env={**environ, "VLLM_RPC_BASE_PATH": sockets},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=1000)[0].decode(errors="replace")
    finally:
        # No engine outlives a failed test.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(sockets, ignore_errors=True)
    assert (folder / "found").is_file(), output[-4000:]
    found: dict[str, Any] = json.loads((folder / "found").read_text())
    return found


def preloaded() -> dict[str, str]:
    """0.18 wants to see two libraries' names here, for speed; the loader passes over those that it cannot find."""
    spec = importlib.util.find_spec("vllm.v1.worker.cpu_worker")
    wanted = spec is not None and spec.origin is not None and "check_preloaded_libs" in Path(spec.origin).read_text()
    return {"LD_PRELOAD": "libtcmalloc_minimal.so.4:libiomp5.so"} if wanted else {}


def samples(page: str) -> dict[str, float]:
    """Values by name, with the value of the label `hook` or `component` where there is one."""
    found = {}
    for name, labels, value in re.findall(r"^vllm_rightsizer_(\w+)(?:\{(.*)\})? (\S+)$", page, re.MULTILINE):
        kind = re.search(r'(?:hook|component)="(\w+)"', labels)
        found[f"{name}/{kind[1]}" if kind else name] = float(value)
    return found


def label(page: str, name: str) -> str:
    """A label of `engine_info`."""
    (value,) = re.findall(rf'^vllm_rightsizer_engine_info\{{.*\b{name}="([^"]*)"', page, re.MULTILINE)
    return str(value)


def test_bytes_are_those_of_vllms_tensors(served: dict[str, Any]) -> None:
    mine = samples(served["page"])
    assert mine["kv_cache_capacity_bytes"] == served["pool"]
    assert mine["kv_cache_block_bytes"] == served["pool"] // served["blocks"] == BLOCK_TOKENS * TOKEN_BYTES
    assert mine["kv_cache_block_tokens"] == BLOCK_TOKENS
    assert mine["kv_floor_bytes"] == (1024 // BLOCK_TOKENS + 1) * BLOCK_TOKENS * TOKEN_BYTES


def test_weights_are_those_of_the_models_own_tensors(served: dict[str, Any], model: Path) -> None:
    weights = samples(served["page"])["model_weights_bytes"]
    assert weights == served["loaded"]
    # Neither reading has lost anything: this much the configuration alone makes of them.
    assert weights - weight_bytes(model) in rope_variants(model)


def weight_bytes(model: Path) -> int:
    """Parameters of the model in float32, from its configuration alone."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * inner + 2 * hidden
    return 4 * int(config["num_hidden_layers"] * layer + 2 * config["vocab_size"] * hidden + hidden)


def rope_variants(model: Path) -> list[int]:
    """The rotary cache, of the longest context that the model or this engine allows, and some scales of attention."""
    config = json.loads((model / "config.json").read_text())
    caches = [4 * length * config["head_dim"] for length in (config["max_position_embeddings"], 1024)]
    scales = [4 * config["num_hidden_layers"] * count for count in range(5)]
    return [cache + scale for cache in caches for scale in scales]


def test_hits_and_preemptions_are_vllms_own(served: dict[str, Any]) -> None:
    mine = samples(served["page"])
    assert mine["requests_total"] == served["answers"] == 45
    assert mine["lookup_tokens_total"] == served["queries"]
    assert mine["hit_tokens_total"] == served["hits"] > 0
    assert mine["preemptions_total"] == served["preemptions"]
    assert mine["kv_cache_active_bytes"] == 0 < mine["kv_cache_active_peak_bytes"]
    assert 0 < mine["kv_cache_reusable_bytes"] <= mine["kv_cache_capacity_bytes"]


def test_the_override_was_applied(served: dict[str, Any]) -> None:
    page = served["page"]
    asked = BLOCKS * BLOCK_TOKENS * TOKEN_BYTES + 1000
    assert label(page, "override") == "applied"
    assert label(page, "requested_gpu_memory_utilization") == "0.9"
    assert label(page, "applied_gpu_memory_utilization") == "0.1234"
    assert label(page, "applied_kv_cache_memory_bytes") == str(asked)
    # Until 0.19 the CPU backend has a size of its own.
    assert served["blocks"] in (BLOCKS, (1 << 30) // (BLOCK_TOKENS * TOKEN_BYTES))


def test_every_hook_is_there_and_none_failed(served: dict[str, Any], record_property: Any) -> None:
    mine = samples(served["page"])
    active = {name.partition("/")[2]: value for name, value in mine.items() if name.startswith("hooks_active/")}
    record_property("hooks model", " ".join(sorted(name for name, value in active.items() if value)))
    assert {"engine_args", "kv_cache_manager", "lookup", "admission", "free", "worker", "weights"} <= set(active)
    assert not [name for name, value in active.items() if not value]
    assert not [name for name, value in mine.items() if name.startswith("hook_errors_total/") and value]
