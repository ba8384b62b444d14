"""Runs a script with a real vLLM in it, with the plugin's wheel on PYTHONPATH as in a pod, or without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from vllm_plugin import names
from vllm_rightsizer.demo.ports import free_ports

from .harness import quiet_environment

_SECONDS = 400.0


class Script:
    """A running script; each line of its output that begins with RESULT holds a JSON value."""

    def __init__(
        self, file: Path, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], plugin: bool = True
    ) -> None:
        """`folder`: for what the processes share, and their log. `environment`: on top of a quiet one."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTEST", "PYTHONPATH"))
        }
        own: dict[str, str] = {}
        if plugin:
            wheel = folder / WHEEL_FILE
            wheel.write_bytes(plugin_wheel())
            own = {"PYTHONPATH": str(wheel), names.ENV_PORT: str(free_ports(1)[0])}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(file), *arguments],
                env={**kept, **quiet_environment(folder / "snapshots"), **own, **environment},
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )

    def results(self) -> list[Any]:
        """What it printed, once it has ended; nothing of it outlives this."""
        try:
            status = self._process.wait(_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        text = self.log.read_text(errors="replace")
        assert status == 0, text[-6000:]
        # Something else may have begun the line.
        return [json.loads(line.partition("RESULT")[2]) for line in text.splitlines() if "RESULT" in line]


def samples(page: str) -> dict[tuple[str, str], float]:
    """Values of a page by metric and rank, or by metric and component of the first rank's overhead."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name, sample.labels.get("component", sample.labels.get("rank", ""))] = sample.value
    return found


def engine_info(page: str) -> dict[str, str]:
    """The labels of the first engine's configuration."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == names.ENGINE_INFO:
                return dict(sample.labels)
    return {}
