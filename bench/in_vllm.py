"""A general plugin that only benchmarks bring into vLLM, beside the one that they measure.

It switches the measured plugin's hooks on and off by a file's content, so that one server runs with and without it;
and it notes what a model's tensors take before the CPU backend packs them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

ENV_FOLDER = "RIGHTSIZER_BENCH_FOLDER"
SWITCH = "hooks"
"""File in that folder: `on` or `off`."""
WEIGHTS = "weights.json"
"""File in that folder: bytes of the model's tensors."""
ON, OFF = "on", "off"
POLL_SECONDS = 0.05

_METADATA = "Metadata-Version: 2.1\nName: rightsizer-bench\nVersion: 0\n"
_ENTRY_POINT = "[vllm.general_plugins]\nrightsizer_bench = bench.in_vllm:register\n"


def install(folder: Path) -> dict[str, str]:
    """Put the entry point into `folder`; says what the environment of a vLLM needs besides to find it."""
    info = folder / "rightsizer_bench-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(_METADATA)
    (info / "entry_points.txt").write_text(_ENTRY_POINT)
    (folder / SWITCH).write_text(ON)
    here = Path(__file__).resolve().parents[1]
    return {ENV_FOLDER: str(folder), "PYTHONPATH": os.pathsep.join((str(folder), str(here)))}


def register() -> None:
    """The entry point."""
    from vllm_plugin.imports import PostImportFinder

    folder = Path(os.environ[ENV_FOLDER])
    # One of its own: the plugin's takes one patch a module.
    finder = PostImportFinder()
    sys.meta_path.insert(0, finder)
    finder.watch("vllm.model_executor.model_loader.base_loader", lambda module: _note_weights(module, folder))
    _start_following(folder)
    # Threads end with a fork, and vLLM does not load its plugins again there.
    os.register_at_fork(after_in_child=lambda: _start_following(folder))


def tensor_bytes(tensors: Any) -> int:
    """Bytes of the storages behind tensors, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _note_weights(module: ModuleType, folder: Path) -> None:
    original = module.process_weights_after_loading

    def noted(model: Any, *args: Any, **kwargs: Any) -> Any:
        size = tensor_bytes([*model.parameters(), *model.buffers()])
        (folder / WEIGHTS).write_text(json.dumps(size))
        return original(model, *args, **kwargs)

    module.process_weights_after_loading = noted  # type: ignore[attr-defined]  # of vLLM, untyped here


def follow(file: Path, stop: threading.Event) -> None:
    """Switch this process's hooks by what stands in `file`, until `stop` is set."""
    from vllm_plugin.guard import Hook, hooks

    switched_off: list[Hook] = []
    while not stop.wait(POLL_SECONDS):
        if file.read_text() == OFF:
            # What switched itself off stays so afterwards.
            for hook in [hook for hook in list(hooks.values()) if hook.active]:
                hook.active = False
                switched_off.append(hook)
        else:
            while switched_off:
                switched_off.pop().active = True


def _start_following(folder: Path) -> None:
    threading.Thread(target=follow, args=(folder / SWITCH, threading.Event()), daemon=True).start()
