"""A whole vLLM server with the plugin loaded from its wheel, small enough for two cores."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench import in_vllm
from bench.engines import quiet_environment
from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from vllm_plugin import names
from vllm_rightsizer.demo.model import BLOCK_BYTES, BLOCK_TOKENS, MAX_MODEL_LEN
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program

_READY_SECONDS = 180.0
_SNAPSHOT_SECONDS = 2.5
"""After so long what has happened stands on the plugin's page."""


class ServerError(Exception):
    """The server did not start."""


@dataclass(frozen=True)
class Server:
    """A running server. `folder`: see `in_vllm`."""

    base_url: str
    plugin_port: int
    folder: Path

    def switch_hooks(self, state: str) -> None:
        """Wait until it is so."""
        file = self.folder / in_vllm.SWITCH
        file.with_suffix(".new").write_text(state)
        file.with_suffix(".new").replace(file)
        time.sleep(4 * in_vllm.POLL_SECONDS)

    def page(self) -> dict[str, float]:
        """The plugin's figures as of now."""
        time.sleep(_SNAPSHOT_SECONDS)
        return read(self.plugin_port)


def environment(folder: Path, port: int) -> dict[str, str]:
    """A vLLM's environment with the plugin's wheel and the benchmarks' own plugin; both write below `folder`."""
    wheel = folder / WHEEL_FILE
    wheel.write_bytes(plugin_wheel())
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTHONPATH"))}
    own = in_vllm.install(folder / "bench")
    path = os.pathsep.join((str(wheel), own.pop("PYTHONPATH")))
    quiet = quiet_environment(folder / "snapshots")
    # One core for the model: where its threads wait for each other on both, nothing else gets to run in between.
    quiet |= {"VLLM_CPU_OMP_THREADS_BIND": "0"}
    return {**kept, **quiet, **own, "PYTHONPATH": path, names.ENV_PORT: str(port)}


def read(port: int) -> dict[str, float]:
    """What stands on the plugin's page, each metric's series added up; nothing while there is no page."""
    found: dict[str, float] = {}
    try:
        page = _get(f"http://127.0.0.1:{port}/metrics")
    except OSError:
        return found
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


@contextmanager
def serving(model: Path, folder: Path, blocks: int) -> Iterator[Server]:
    """A server of `model` with so many blocks. Raises `ServerError`."""
    api, port = free_ports(2)
    arguments = [
        *("--model", str(model), "--served-model-name", "bench", "--load-format", "dummy", "--dtype", "float32"),
        *("--enforce-eager", "--block-size", str(BLOCK_TOKENS), "--max-model-len", str(MAX_MODEL_LEN)),
        *("--kv-cache-memory-bytes", str(blocks * BLOCK_BYTES), "--host", "127.0.0.1", "--port", str(api)),
        "--disable-uvicorn-access-log",
    ]
    program = Program(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
        env=environment(folder, port),
        folder=folder,
        log=folder / "vllm.log",
    )
    try:
        server = Server(f"http://127.0.0.1:{api}", port, folder / "bench")
        deadline = time.monotonic() + _READY_SECONDS
        while not _healthy(server):
            if program.exit_code() is not None or time.monotonic() > deadline:
                raise ServerError(f"vLLM did not start:\n{program.tail()}")
            time.sleep(0.5)
        yield server
    finally:
        program.stop()


def _healthy(server: Server) -> bool:
    try:
        _get(server.base_url + "/health")
    except OSError:
        return False
    return True


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
