"""One release's environment: `make matrix` builds it, and says where the model lies."""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path
from unittest.mock import patch

import engines
import ports
import pytest


@pytest.fixture(scope="session")
def model() -> Path:
    """A tiny Llama's folder."""
    return Path(os.environ["CONFORMANCE_MODEL"])


@pytest.fixture(scope="session", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The plugin, loaded as vLLM does it: from its entry point."""
    os.environ["VLLM_RIGHTSIZER_DIR"] = str(tmp_path_factory.mktemp("snapshots"))
    os.environ["VLLM_RIGHTSIZER_PORT"] = str(ports.free_port())

    from vllm.plugins import load_general_plugins

    load_general_plugins()
    # Peaks are those of the last minute: fewer, where a test takes longer.
    tracker = importlib.import_module("vllm_plugin.tracker")
    tracker.RollingPeak = functools.partial(tracker.RollingPeak, window_seconds=3600)
    # V0's engine, where the release has it, before V1's stands in for it: that is decided at its first import.
    if engines.has("vllm.core.block_manager"):
        with patch.dict(os.environ, {"VLLM_USE_V1": "0"}):
            importlib.import_module("vllm.engine.llm_engine")
