"""A tiny model, and the plugin registered as vLLM would do it, in this process."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import process
from vllm_plugin.exporter import Exporter
from vllm_plugin.guard import hooks
from vllm_plugin.peaks import RollingPeak

from .harness import Engine, quiet_environment


@pytest.fixture(autouse=True)
def counted_out_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the order of free blocks is not known (before 0.24), compare the count of this moment."""
    monkeypatch.setattr("vllm_plugin.pool._SCAN_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def peaks_of_the_whole_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the last minute are fewer on a machine that takes longer."""
    monkeypatch.setattr("vllm_plugin.tracker.RollingPeak", functools.partial(RollingPeak, window_seconds=3600))


@pytest.fixture(autouse=True)
def no_thread_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that nobody starts: its looks, once a second, would meet another step each time."""
    own = process.Process()
    own._exporter = Exporter(own.report)
    monkeypatch.setattr(process, "_process", own)


@pytest.fixture(autouse=True)
def hooks_as_they_were() -> Iterator[None]:
    """What one test breaks is whole again for the next: hooks are of the process."""
    before = {name: one.active for name, one in hooks.items()}
    yield
    for name, one in hooks.items():
        one.active, one._strain = before.get(name, True), 0.0


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model: configuration and tokenizer, no weights."""
    from vllm_rightsizer.demo.model import write_model

    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def engines(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """Makes engines whose scheduler carries the plugin's hooks."""
    os.environ.update(quiet_environment(tmp_path_factory.mktemp("snapshots")))

    import vllm_plugin

    vllm_plugin.register()

    def make(blocks: int, **arguments: Any) -> Engine:
        return Engine(model, blocks, **arguments)

    return make
