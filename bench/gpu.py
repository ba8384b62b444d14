"""Are the plugin's bytes those of the card, and what does it cost there? `python -m bench.gpu [PART...] --json`.

For a machine with an NVIDIA card that nobody else uses, `pip install vllm`, and this repository as working folder;
nothing is downloaded. `make bench-gpu PYTHON=python3` names the Python that has vLLM.

PARTs: bytes (weights, pool, what else is taken, against torch.cuda and NVML), override (sizes that are set start
exactly, and those that are too small at the floor), speed (with and without the hooks, in turn). All without a name.
One JSON object a figure; ends with 0, with 1 where one misses its target, with 2 and a sentence where something is
missing that it needs. Figures to keep go to `bench/results/`, with the line "machine" that comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, bootstrapped, ratio_of_means

_CARD_SHARE = 0.01
"""Of the card's memory: the most by which a figure may be off."""
_LEAST_MEMORY = 8 << 30
_KV_BYTES = 1_500_000_001
_UTILIZATION = 0.4321
_TOO_SMALL = {"VLLM_RIGHTSIZER_KV_BYTES": "100000", "VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION": "0.5"}
_SECONDS = 900.0

_MODEL = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32_000,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
"""A billion parameters, so that an error would show; weights are made up."""


class MissingError(Exception):
    """Something that this machine lacks, or a vLLM that did not start."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    missed = False
    try:
        lacking = what_is_missing()
        if lacking:
            raise MissingError("this machine lacks: " + "; ".join(lacking))
        with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
            _print(machine(), options.json)
            for part in options.parts or PARTS:
                for figure in PARTS[part](Path(name)):
                    _print(figure.as_json(), options.json)
                    missed |= figure.ok is False
    except MissingError as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        return 2
    return 1 if missed else 0


def what_is_missing() -> list[str]:
    """What a run needs and does not find, by name."""
    lacking = []
    try:
        import torch
    except ImportError:
        return ["torch and vLLM for CUDA (pip install vllm)"]
    if not torch.cuda.is_available():
        lacking.append("a CUDA device that torch sees (an NVIDIA card, its driver, and a torch built for CUDA)")
    try:
        import vllm.third_party.pynvml as nvml

        nvml.nvmlInit()
    except Exception as error:
        lacking.append(f"NVML ({error})")
    try:
        from vllm.platforms import current_platform

        if not current_platform.is_cuda():
            lacking.append(f"vLLM for CUDA (this one is for {current_platform.device_type or 'no device'})")
    except ImportError as error:
        lacking.append(f"vLLM for CUDA ({error})")
    if not lacking and torch.cuda.mem_get_info(0)[1] < _LEAST_MEMORY:
        lacking.append(f"{_LEAST_MEMORY >> 30} GiB on the card")
    return lacking


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    import torch
    import vllm

    card = torch.cuda.get_device_properties(0)
    return {
        "name": "machine",
        "card": card.name,
        "memory_bytes": card.total_memory,
        "cores": os.cpu_count(),
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def run(folder: Path, task: str, environment: Mapping[str, str], **arguments: Any) -> dict[str, Any]:
    """A vLLM of its own process, with the plugin from its wheel; what `bench.gpu_inside` found there."""
    from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel

    model, wheel = folder / "model", folder / WHEEL_FILE
    if not wheel.exists():
        _write_model(model)
        wheel.write_bytes(plugin_wheel())
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTHONPATH"))}
    root = Path(__file__).resolve().parents[1]
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_RIGHTSIZER_DIR": str(folder / "snapshots"),
        "PYTHONPATH": os.pathsep.join((str(wheel), str(root))),
    }
    options = {"model": str(model), "load_format": "dummy", "max_model_len": 4096, **arguments}
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_inside", task, json.dumps(options)],
        env={**kept, **quiet, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode != 0 or not found:
        raise MissingError(f"vLLM did not run ({task}):\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(found[-1].removeprefix("RESULT"))
    return result


def _write_model(folder: Path) -> None:
    from vllm_rightsizer.demo.model import write_model

    write_model(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **_MODEL}))


def bytes_of_the_card(folder: Path) -> Iterator[Figure]:
    """Weights, pool and what else is taken: with CUDA graphs, without, and where KV bytes are given."""
    kinds: dict[str, dict[str, Any]] = {
        "graphs": {"gpu_memory_utilization": 0.6},
        "eager": {"gpu_memory_utilization": 0.6, "enforce_eager": True},
        "kv-bytes": {"gpu_memory_utilization": 0.6, "kv_cache_memory_bytes": 2 << 30},
    }
    for kind, arguments in kinds.items():
        found = run(folder, "bytes", {}, **arguments)
        plugin, truth, total = found["plugin"], found["truth"], found["truth"]["total_bytes"]
        overhead = plugin["overhead_bytes"]

        def share(name: str, ours: float, theirs: float, total: int = total, kind: str = kind) -> Figure:
            notes = f"{ours:.0f} by the plugin, {theirs:.0f} by the card"
            return Figure(
                f"gpu.{kind}.{name}", abs(ours - theirs) / total, "of the card", 1, target=_CARD_SHARE, notes=notes
            )

        yield Figure(f"gpu.{kind}.pool", abs(plugin["capacity_bytes"] - truth["pool_bytes"]), "bytes off", 1, target=0)
        yield Figure(f"gpu.{kind}.total", abs(plugin["total_bytes"] - truth["total_bytes"]), "bytes off", 1, target=0)
        yield share("weights", plugin["weights_bytes"], truth["weights_bytes"])
        named = sum(overhead[name] for name in ("activations", "cuda_graphs", "non_torch"))
        if "kv_cache_memory_bytes" in arguments:
            named += overhead["other"]
        yield share(
            "taken", plugin["weights_bytes"] + plugin["capacity_bytes"] + named, truth["taken_bytes_at_full_batch"]
        )
        if "kv_cache_memory_bytes" not in arguments:
            yield share("activations", overhead["activations"], truth["activation_bytes"])
            yield share("claim", plugin["allocated_bytes"], arguments["gpu_memory_utilization"] * total)
        if kind == "graphs":
            yield share("cuda_graphs", overhead["cuda_graphs"], truth["graph_bytes"])
        # The CUDA context and what NCCL holds: vLLM counts them nowhere, and no utilization contains them.
        outside = truth["used_bytes"] - truth["taken_bytes_at_full_batch"]
        yield Figure(f"gpu.{kind}.outside", outside / total, "of the card", 1, notes=f"{outside} bytes by NVML")


def override_starts(folder: Path) -> Iterator[Figure]:
    """Sizes by the environment, in place of the arguments'."""
    found = run(folder, "sizes", {"VLLM_RIGHTSIZER_KV_BYTES": str(_KV_BYTES)}, num_gpu_blocks_override=77)
    block = found["engine"]["block_bytes"]
    wanted = _KV_BYTES // block * block
    yield Figure("gpu.override.kv_bytes", abs(found["truth"]["pool_bytes"] - wanted), "bytes off", 1, target=0)
    environment = {"VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION": str(_UTILIZATION)}
    found = run(folder, "sizes", environment, gpu_memory_utilization=0.7)
    total = found["truth"]["total_bytes"]
    yield Figure(
        "gpu.override.utilization",
        abs(found["truth"]["requested_bytes"] - _UTILIZATION * total),
        "bytes off",
        1,
        target=1,
    )
    allocation = total // 3
    found = run(folder, "sizes", {"VLLM_RIGHTSIZER_ALLOCATION_BYTES": str(allocation)})
    # A fraction has four decimals.
    off = abs(found["truth"]["requested_bytes"] - allocation) / total
    yield Figure("gpu.override.allocation", off, "of the card", 1, target=2e-4)
    for name, environment in (
        ("kv_bytes", _TOO_SMALL),
        ("utilization", {"VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION": "0.001"}),
    ):
        found = run(folder, "sizes", environment)
        off = abs(found["truth"]["pool_bytes"] - found["engine"]["floor_bytes"])
        raised = found["engine"]["info"]["override"] == "raised"
        yield Figure(f"gpu.raised.{name}", off if raised else float("inf"), "bytes off", 1, target=0)


def speed(folder: Path) -> Iterator[Figure]:
    """Tokens a second with the hooks and without, in turn in one vLLM."""
    found = run(folder, "speed", {}, gpu_memory_utilization=0.6)
    pairs = [(float(with_hooks), float(without)) for with_hooks, without in found["pairs"]]
    value, low, high = bootstrapped(pairs, ratio_of_means)
    yield Figure(
        "gpu.throughput", value, "with ÷ without", len(pairs), target=0.99, better="at least", low=low, high=high
    )


PARTS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "bytes": bytes_of_the_card,
    "override": override_starts,
    "speed": speed,
}


def _print(found: Mapping[str, Any], as_json: bool) -> None:
    line = json.dumps(found, ensure_ascii=False) if as_json else "  ".join(f"{k} {v}" for k, v in found.items())
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
