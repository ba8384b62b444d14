"""Sizes by the environment, on real vLLM: what it refuses of ours is raised, what it refuses of the user's is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import names

from .kinds import BLOCK_TOKENS, FLOOR_BYTES, MAX_MODEL_LEN
from .models import write_models
from .scripts import Script, engine_info, samples

pytestmark = pytest.mark.engine

KINDS = ("raised_bytes", "raised_utilization", "below_the_floor", "at_the_floor", "raised_windows")
TOTAL = 80 << 30
SLICE = 20 << 30
ALLOCATION = 5 << 30
RESERVED = 1 << 30


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def runs(models: Path) -> dict[str, dict[str, Any]]:
    file = Path(__file__).with_name("kinds.py")
    script = Script(file, [str(models), *KINDS], models / "raised", {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
    found = {result["kind"]: result for result in script.results()}
    found["log"] = {"text": script.log.read_text(errors="replace")}
    return found


@pytest.mark.parametrize("kind", ["raised_bytes", "raised_utilization", "raised_windows"])
def test_too_little_starts_with_exactly_the_floor(runs: dict[str, dict[str, Any]], kind: str) -> None:
    run = runs[kind]
    assert "error" not in run, run["error"]
    (engine,), (worker,) = run["plugin"]["engines"], run["plugin"]["workers"]
    assert run["figures"]["pool"] == engine["floor_bytes"] == worker["capacity_bytes"] == FLOOR_BYTES
    for report in (engine, worker):
        assert report["info"]["override"] == names.OVERRIDE_RAISED
        assert report["info"]["raised_kv_cache_memory_bytes"] == str(FLOOR_BYTES)
    assert len(run["answers"]) == 3
    weights, overhead = worker["weights_bytes"], sum(worker["overhead_bytes"].values())
    assert weights == run["figures"]["weights"]
    assert worker["allocated_bytes"] == weights + FLOOR_BYTES + overhead
    assert overhead > 100_000_000


def test_what_vllm_claims_is_right_after_raising_the_utilization(runs: dict[str, dict[str, Any]]) -> None:
    """The recommender takes the pool off it, and adds another: what is left must be what the rest takes."""
    run = runs["raised_utilization"]
    (worker,) = run["plugin"]["workers"]
    assert run["figures"]["requested"] < 100_000_000 < worker["allocated_bytes"]
    by_bytes = runs["raised_bytes"]["plugin"]["workers"][0]
    # The same process a moment later; the system may have taken back what it needs elsewhere.
    assert worker["allocated_bytes"] == pytest.approx(by_bytes["allocated_bytes"], rel=0.3)


def test_the_log_says_so_with_numbers(runs: dict[str, dict[str, Any]]) -> None:
    lines = [line for line in runs["log"]["text"].splitlines() if "vllm-rightsizer raises" in line]
    assert len(lines) == 3
    assert f"to {FLOOR_BYTES} bytes (17 blocks), {FLOOR_BYTES - 1000} more than kv_cache_memory_bytes=1000" in lines[0]
    assert f"to {FLOOR_BYTES} bytes (17 blocks)" in lines[1]
    assert "gpu_memory_utilization=0.0001" in lines[1]
    assert f"to {FLOOR_BYTES} bytes (68 blocks)" in lines[2]


def test_a_size_of_the_users_own_is_refused_or_taken_as_ever(runs: dict[str, dict[str, Any]]) -> None:
    assert "max seq len" in runs["below_the_floor"]["error"]
    assert "error" not in runs["at_the_floor"]
    assert runs["at_the_floor"]["plugin"]["engines"][0]["info"]["override"] == names.OVERRIDE_NONE
    assert runs["at_the_floor"]["answers"] == runs["raised_bytes"]["answers"]


def test_all_ranks_in_their_own_processes_get_the_floor(models: Path, tmp_path: Path) -> None:
    """Two workers refuse a far too small utilization before the engine core in a third process sees it."""
    options = {
        "load_format": "dummy",
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": BLOCK_TOKENS,
        "max_model_len": MAX_MODEL_LEN,
        "gpu_memory_utilization": 0.2,
        "tensor_parallel_size": 2,
    }
    arguments = [str(models / "llama"), json.dumps(options), "2"]
    environment = {
        names.ENV_GPU_MEMORY_UTILIZATION: "0.0001",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    }
    (found,) = Script(Path(__file__).with_name("library.py"), arguments, tmp_path / "ranks", environment).results()
    blocks = MAX_MODEL_LEN // BLOCK_TOKENS + 1
    # One of two KV heads each.
    assert [worker[:2] for worker in found["workers"]] == [[FLOOR_BYTES // 2, blocks]] * 2
    mine = samples(found["page"])
    for rank in ("0", "1"):
        assert mine[names.KV_CACHE_CAPACITY_BYTES, rank] == FLOOR_BYTES // 2
        assert mine[names.GPU_MEMORY_ALLOCATED_BYTES, rank] > 100_000_000
    info = engine_info(found["page"])
    assert (info["override"], info["num_gpu_blocks"]) == (names.OVERRIDE_RAISED, str(blocks))
    assert info["raised_kv_cache_memory_bytes"] == str(FLOOR_BYTES // 2)
    assert info["applied_gpu_memory_utilization"] == "0.0001"


SLICES = """
import json, os, sys, types
from types import SimpleNamespace

# The CUDA kernels, which the build for the CPU does not have, and this needs none of.
sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("vllm._C_stable_libtorch")

import vllm.third_party.pynvml as nvml

CARD, OTHER, CUT, FIRST, SECOND = "card", "other card", "cut card", "first slice", "second slice"
TOTALS = {CARD: 80 << 30, OTHER: 40 << 30, CUT: 80 << 30, FIRST: 20 << 30, SECOND: 10 << 30}
CARDS = {"whole": [CARD, OTHER], "old driver": [CARD], "hami": [CARD], "mig": [CUT]}


def memory_of(kind, handle, version):
    if version and kind == "old driver":
        raise nvml.NVMLError(nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    reserved = 1 << 30
    total, inside = TOTALS[handle], TOTALS[handle] - (reserved if version else 0)
    if kind == "hami":
        # Its library puts the limit of the container in, and leaves the rest as the driver said it.
        total = inside = 20 << 30
    return SimpleNamespace(total=total, reserved=reserved, free=inside - (3 << 30), used=3 << 30)


def mig_mode(handle):
    if handle == OTHER:
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
    return [int(handle == CUT), 0]


def answer_as(kind):
    cards = CARDS[kind]
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlDeviceGetCount = lambda: len(cards)
    nvml.nvmlDeviceGetHandleByIndex = lambda index: cards[index]
    nvml.nvmlDeviceGetHandleByUUID = lambda name: {"MIG-2": SECOND, "GPU-2": OTHER}[name]
    # Of a slice: its number on its card.
    nvml.nvmlDeviceGetIndex = lambda handle: {SECOND: 0, OTHER: 1}[handle]
    nvml.nvmlDeviceGetName = lambda handle: "a card"
    nvml.nvmlDeviceGetMigMode = mig_mode
    nvml.nvmlDeviceGetMigDeviceHandleByIndex = lambda handle, index: [FIRST, SECOND][index]
    nvml.nvmlDeviceGetMemoryInfo = lambda handle, version=None: memory_of(kind, handle, version)


answer_as("whole")
import vllm.platforms
import vllm.platforms.cuda as cuda

vllm.platforms._current_platform = cuda.NvmlCudaPlatform()
from vllm_plugin import devices, override

for kind, visible in json.loads(sys.argv[1]):
    answer_as(kind)
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    found = SimpleNamespace(gpu_memory_utilization=0.9, kv_cache_memory_bytes=None)
    override.apply(found, os.environ, devices.total_bytes)
    print("RESULT" + json.dumps([devices.total_bytes(), found.gpu_memory_utilization]), flush=True)
"""


def test_bytes_become_a_fraction_of_what_the_process_sees(tmp_path: Path) -> None:
    """vLLM's platform for NVIDIA over an NVML that answers as the driver does, or HAMi's library before it."""
    totals = {
        # As CUDA counts: without what the driver keeps.
        ("whole", ""): TOTAL - RESERVED,
        ("whole", "1"): TOTAL // 2 - RESERVED,
        ("whole", "GPU-2"): TOTAL // 2 - RESERVED,
        ("old driver", ""): TOTAL,
        ("hami", ""): SLICE,
        ("mig", ""): SLICE - RESERVED,
        ("mig", "MIG-2"): SLICE // 2 - RESERVED,
    }
    file = tmp_path / "slices.py"
    file.write_text(SLICES)
    environment = {names.ENV_ALLOCATION_BYTES: str(ALLOCATION)}
    found = Script(file, [json.dumps(list(totals))], tmp_path / "slices", environment).results()
    assert [seen for seen, _ in found] == list(totals.values())
    for (_, utilization), total in zip(found, totals.values(), strict=True):
        assert utilization == pytest.approx(ALLOCATION / total, abs=1e-4)
        assert utilization * total >= ALLOCATION
