"""V1 in a process of its own, started by spawn: its scheduler carries the hooks, whoever loads plugins there."""

from __future__ import annotations

import importlib
import inspect
import json
import time
from pathlib import Path
from typing import Any

import engines
import ports
import pytest

START = importlib.import_module("vllm.v1.engine.core_client")
CORE = importlib.import_module("vllm.v1.engine.core")
LOADS_PLUGINS = "load_general_plugins" in inspect.unwrap(CORE.EngineCore.__init__).__code__.co_names


def engines_of(process: int, folder: Path) -> list[dict[str, Any]]:
    """What a process's snapshot says of its engines."""
    snapshots = [json.loads(file.read_text()) for file in folder.rglob("*.json")]
    return [engine for snapshot in snapshots if snapshot["pid"] == process for engine in snapshot["engines"]]


@pytest.mark.skipif(LOADS_PLUGINS, reason="this release loads plugins in its engine process")
def test_a_spawned_engine_core_is_hooked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executor_without_model import ExecutorWithoutModel
    from vllm.v1.utils import BackgroundProcHandle

    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    monkeypatch.setenv("VLLM_USE_V1", "0")
    config = engines.configured(model)
    if hasattr(config.scheduler_config, "scheduler_cls"):
        config.scheduler_config.scheduler_cls = engines.v1_scheduler()
    monkeypatch.setenv("VLLM_USE_V1", "1")
    monkeypatch.setenv("VLLM_RIGHTSIZER_DIR", str(tmp_path / "snapshots"))
    monkeypatch.setenv("VLLM_RIGHTSIZER_PORT", str(ports.free_port()))
    handle = BackgroundProcHandle(
        input_path=f"ipc://{tmp_path}/in",
        output_path=f"ipc://{tmp_path}/out",
        process_name="EngineCore",
        target_fn=START.EngineCoreProc.run_engine_core,
        process_kwargs={"vllm_config": config, "executor_class": ExecutorWithoutModel, "log_stats": True},
    )
    try:
        deadline = time.monotonic() + 800
        while not (found := engines_of(handle.proc.pid, tmp_path / "snapshots")):
            assert handle.proc.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (engine,) = found
        assert engine["blocks"] == ExecutorWithoutModel.blocks
        assert engine["block_bytes"] == engines.BLOCK_BYTES
    finally:
        handle.shutdown()
