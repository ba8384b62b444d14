"""Whole vLLM servers with the plugin loaded from its wheel, as in a pod: nothing but environment and arguments."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from recommender.vllm_pages import parse_vllm_page
from vllm_plugin import names
from vllm_plugin.override import fraction_of
from vllm_rightsizer.demo.model import BLOCK_BYTES, BLOCK_TOKENS, MAX_MODEL_LEN, VOCABULARY
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program
from vllm_rightsizer.demo.sockets import ENV_SOCKETS, socket_folder

from .harness import traffic
from .pages import PATIENCE_SECONDS
from .scripts import LONGEST_SECONDS, Script, environment

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as every pod gets it: a zipped wheel on PYTHONPATH."""
    path = tmp_path_factory.mktemp("wheel") / WHEEL_FILE
    path.write_bytes(plugin_wheel())
    return path


def get(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE_SECONDS) as answer:
        return str(answer.read().decode())


def read(port: int, labels: bool = False) -> dict[str, float]:
    """Every sample by its name; the tests' vLLM has one engine of one rank."""
    text = get(f"http://127.0.0.1:{port}/metrics")
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = sample.value
            for key, value in sample.labels.items() if labels else ():
                found[f"{sample.name}/{key}/{value}"] = sample.value
    return found


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[Program]:
    """Python with these arguments and variables; nothing of it outlives the block, its sockets neither."""
    with socket_folder() as sockets:
        program = Program(
            [sys.executable, *arguments],
            env=environment(folder / "snapshots", **{ENV_SOCKETS: sockets}, **variables),
            folder=folder,
            log=folder / "log",
        )
        try:
            yield program
        finally:
            program.stop()


def test_a_server_measures_itself(wheel: Path, model: Path, tmp_path: Path) -> None:
    """Asked for 512 blocks and 100 MB of KV, overridden to 160 blocks and a bit, and to a claim of 1.5 GB."""
    api, port = free_ports(2)
    arguments = [
        *("--model", str(model), "--load-format", "dummy", "--dtype", "float32", "--enforce-eager"),
        *("--block-size", str(BLOCK_TOKENS), "--max-model-len", str(MAX_MODEL_LEN), "--port", str(api)),
        *("--kv-cache-memory-bytes", "100000000", "--num-gpu-blocks-override", "512"),
        *("--host", "127.0.0.1", "--fail-on-environ-validation"),
    ]
    asked, claim = 160 * BLOCK_BYTES + 1000, 1_500_000_000
    override = {names.ENV_KV_BYTES: str(asked), names.ENV_ALLOCATION_BYTES: str(claim)}
    variables = {**override, "PYTHONPATH": str(wheel), names.ENV_PORT: str(port)}
    with running(tmp_path, "-m", "vllm.entrypoints.openai.api_server", *arguments, **variables) as server:
        wait_until_healthy(server, api)
        prompts = [prompt.tokens for prompt in traffic(1, 120, prefixes=15)]
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda tokens: complete(api, model, tokens), prompts))
        mine, theirs = read(port, labels=True), read(api, labels=True)
        page = get(f"http://127.0.0.1:{api}/metrics")
        strict = get(f"http://127.0.0.1:{port}/metrics", Accept="application/openmetrics-text; version=1.0.0")

    families = list(read_openmetrics(strict))
    assert {sample.name for family in families for sample in family.samples} == {key for key in mine if "/" not in key}
    assert "info" in {family.type for family in families}
    assert mine[names.LOOKUP_TOKENS] == theirs["vllm:prefix_cache_queries_total"] == sum(map(len, prompts))
    assert mine[names.HIT_TOKENS] == theirs["vllm:prefix_cache_hits_total"] > 0
    assert mine[names.PREEMPTIONS] == theirs["vllm:num_preemptions_total"]
    assert mine[names.REQUESTS] == 120
    assert mine[names.KV_REUSE_DISTANCE_BYTES + "_count"] == sum((len(p) - 1) // BLOCK_TOKENS for p in prompts)
    assert theirs["vllm:cache_config_info/num_gpu_blocks/160"] == 1
    # What the recommender would make of vLLM's own page, where there is no plugin.
    (shown,) = parse_vllm_page(page)
    assert (shown.blocks, shown.block_tokens, shown.usage) == (160, BLOCK_TOKENS, 0.0)
    assert (shown.queries, shown.hits) == (mine[names.LOOKUP_TOKENS], mine[names.HIT_TOKENS])
    assert max(map(len, prompts)) + 4 <= shown.largest_tokens <= 2.5 * max(map(len, prompts)) + 10
    assert shown.context_tokens[0] <= MAX_MODEL_LEN < shown.context_tokens[1]
    assert mine[names.KV_CACHE_CAPACITY_BYTES] == 160 * BLOCK_BYTES
    assert mine[names.KV_CACHE_BLOCK_BYTES] == BLOCK_BYTES
    assert mine[names.KV_CACHE_BLOCK_TOKENS] == BLOCK_TOKENS
    assert mine[names.KV_FLOOR_BYTES] == (MAX_MODEL_LEN // BLOCK_TOKENS + 1) * BLOCK_BYTES
    assert mine[names.KV_CACHE_ACTIVE_BYTES] == 0 < mine[names.KV_CACHE_ACTIVE_PEAK_BYTES]
    assert mine[names.MODEL_WEIGHTS_BYTES] == weight_bytes(model)
    assert mine[f"{names.ENGINE_INFO}/override/{names.OVERRIDE_APPLIED}"] == 1
    assert mine[f"{names.ENGINE_INFO}/requested_kv_cache_memory_bytes/100000000"] == 1
    assert mine[f"{names.ENGINE_INFO}/applied_kv_cache_memory_bytes/{asked}"] == 1
    fraction = fraction_of(claim, int(mine[names.GPU_MEMORY_TOTAL_BYTES]))
    assert mine[f"{names.ENGINE_INFO}/applied_gpu_memory_utilization/{fraction}"] == 1
    assert str(wheel) in next(key for key in mine if key.startswith(f"{names.BUILD_INFO}/loaded_from/"))
    assert not [key for key in mine if key.startswith(names.HOOK_ERRORS) and mine[key]]
    assert not [key for key in mine if key.startswith(names.HOOKS_ACTIVE) and not mine[key]]


def wait_until_healthy(server: Program, port: int) -> None:
    """Up to seven processes import torch, on two cores."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        assert server.exit_code() is None, server.tail(60)
        try:
            get(f"http://127.0.0.1:{port}/health")
            return
        except (OSError, HTTPException):
            time.sleep(0.5)
    pytest.fail(server.tail(60))


def complete(port: int, model: Path, tokens: tuple[int, ...]) -> None:
    body = {"model": str(model), "prompt": list(tokens), "max_tokens": 4, "ignore_eos": True, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).read()


def weight_bytes(model: Path) -> int:
    """Parameters, attention scales and the rotary cache of this model in float32, from its configuration alone."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * inner + 2 * hidden
    layer += len(("queries", "keys", "values", "probabilities"))  # one scale each
    parameters = config["num_hidden_layers"] * layer + 2 * VOCABULARY * hidden + hidden
    return 4 * (parameters + config["max_position_embeddings"] * head)


def test_the_figures_are_those_of_the_workers_own_tensors(model: Path, tmp_path: Path) -> None:
    """A library's vLLM, sized by its utilization: pool, claim and what is left over, to the byte."""
    options = {
        "load_format": "dummy",
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": BLOCK_TOKENS,
        "max_model_len": 1024,
        "claim_bytes": 14 * 2**30 // 10,
    }
    arguments = [str(model), json.dumps(options), "1"]
    variables = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    (found,) = Script(Path(__file__).with_name("library.py"), arguments, tmp_path, variables).results()
    ((pool, _, requested),), total, text = found["workers"], found["total"], found["page"]
    mine: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            mine[sample.name + sample.labels.get("component", "")] = sample.value
    assert mine[names.KV_CACHE_CAPACITY_BYTES] == pool
    assert mine[names.GPU_MEMORY_TOTAL_BYTES] == total
    assert mine[names.GPU_MEMORY_ALLOCATED_BYTES] == requested
    weights = mine[names.MODEL_WEIGHTS_BYTES]
    assert weights == weight_bytes(model)
    assert mine[names.RUNTIME_OVERHEAD_BYTES + "other"] == requested - pool - weights > 0
