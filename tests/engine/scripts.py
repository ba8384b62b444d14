"""Runs a script with a real vLLM in it, with the plugin's wheel on PYTHONPATH as in a pod, or without."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from vllm_plugin import names
from vllm_rightsizer.demo.processes import Program
from vllm_rightsizer.demo.sockets import ENV_SOCKETS, socket_folder

from .harness import quiet_environment

LONGEST_SECONDS = 600.0
"""No script takes a tenth of it where nothing else runs; pytest's own limit is longer."""


ONE_THREAD = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""On its own the CPU backend binds a thread to each core: they wait for each other, whatever else runs there. And it
wants a memory node for each worker."""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A vLLM's, with nothing of this test's own settings; its processes share `folder`.

    Where the test's Python is told to keep no bytecode, each of them would compile a thousand files anew.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTEST", "PYTHON"))}
    return {**kept, **ONE_THREAD, **quiet_environment(folder), **more}


class Script:
    """A running script; each line of its output that begins with RESULT holds a JSON value."""

    def __init__(
        self,
        file: Path,
        arguments: Sequence[str],
        folder: Path,
        variables: Mapping[str, str],
        plugin: bool = True,
        launcher: Sequence[str] = (),
    ) -> None:
        """`folder`: for what the processes share, and their log. `variables`: on top of a quiet environment.
        `launcher`: arguments of Python before the script."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        self._sockets = socket_folder()
        own = {ENV_SOCKETS: self._sockets.name}
        if plugin:
            wheel = folder / WHEEL_FILE
            wheel.write_bytes(plugin_wheel())
            own["PYTHONPATH"] = str(wheel)
        self._program = Program(
            [sys.executable, *launcher, str(file), *arguments],
            env={**environment(folder / "snapshots"), **own, **variables},
            folder=folder,
            log=self.log,
        )

    def results(self) -> list[Any]:
        """What it printed, once it has ended; nothing of it outlives this."""
        deadline = time.monotonic() + LONGEST_SECONDS
        try:
            while (status := self._program.exit_code()) is None and time.monotonic() < deadline:
                time.sleep(0.2)
        finally:
            self.close()
        text = self.log.read_text(errors="replace")
        assert status == 0, f"{status}: {text[-6000:]}"
        return results_in(text)

    def close(self) -> None:
        """End all of it, whether it has ended or not."""
        self._program.stop()
        self._sockets.cleanup()


def results_in(text: str) -> list[Any]:
    """The JSON values after that word. Something else may have begun the line, or have gone on with it."""
    lines = [line.partition("RESULT")[2] for line in text.splitlines() if "RESULT" in line]
    return [json.JSONDecoder().raw_decode(line)[0] for line in lines]


def samples(page: str) -> dict[tuple[str, str], float]:
    """Values of a page by metric and rank, or by metric and component of the first rank's overhead."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name, sample.labels.get("component", sample.labels.get("rank", ""))] = sample.value
    return found


def hooks_at_fault(page: str) -> set[str]:
    """Names of the hooks that are off or have counted an error."""
    wrong = {names.HOOK_ERRORS: lambda value: value > 0, names.HOOKS_ACTIVE: lambda value: value < 1}
    found = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {one.labels["hook"] for one in found if one.name in wrong and wrong[one.name](one.value)}


def engine_info(page: str) -> dict[str, str]:
    """The labels of the first engine's configuration."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == names.ENGINE_INFO:
                return dict(sample.labels)
    return {}
