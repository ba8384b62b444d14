"""A whole vLLM answers the same, token by token, whatever fails in the plugin, around it or beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel
from vllm_plugin import names
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program
from vllm_rightsizer.demo.sockets import ENV_SOCKETS, socket_folder

from . import answers
from .scripts import ONE_THREAD, results_in

pytestmark = pytest.mark.engine

# --- Neighbours: plugins of the same group, and their metadata -------------------------------------------------------

REGISTER = """
import sys
from importlib import metadata
from vllm.plugins import load_general_plugins
try:
    load_general_plugins()
except Exception as error:
    print("raised", repr(error))
print("hooks", [type(finder).__name__ for finder in sys.meta_path].count("PostImportFinder"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as every pod gets it."""
    path = tmp_path_factory.mktemp("wheel") / WHEEL_FILE
    path.write_bytes(plugin_wheel())
    return path


def neighbour(folder: Path, name: str, code: str) -> Path:
    """Another plugin of vLLM's group, in a folder of its own."""
    info = folder / name / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{names.ENTRY_POINT_GROUP}]\n{name} = {name}:register\n")
    (folder / name / f"{name}.py").write_text(code)
    return folder / name


def garbage(folder: Path) -> Path:
    """Distributions of which nothing can be made: no metadata, and bytes that are no text."""
    for name in ("empty", "binary"):
        (folder / "garbage" / f"{name}-1.0.dist-info").mkdir(parents=True)
    (folder / "garbage" / "binary-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00Name")
    return folder / "garbage"


def environment(path: Sequence[Path], **more: str) -> dict[str, str]:
    """Nothing of this test's own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTEST", "PYTHON"))}
    return {
        **kept,
        **ONE_THREAD,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": ":".join(map(str, path)),
        **more,
    }


def test_neighbours_fail_as_they_do_without_us(wheel: Path, tmp_path: Path) -> None:
    """One that cannot be imported is passed over by vLLM; one that raises ends it, with and without this plugin."""
    unimportable = neighbour(tmp_path, "unimportable", "raise ImportError('for another vLLM')")
    raising = neighbour(tmp_path, "raising", "def register():\n    raise RuntimeError('theirs')\n")

    def said(*path: Path) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", REGISTER], env=environment(path), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith(("raised", "hooks"))]

    assert said(unimportable, garbage(tmp_path), wheel) == ["hooks 1"]
    assert said(raising, wheel)[0] == said(raising)[0] == "raised RuntimeError('theirs')"


# --- A whole vLLM -----------------------------------------------------------------------------------------------------

SABOTEUR = """
def register():
    from vllm_plugin import geometry, override, worker
    from vllm_plugin.hooks import scheduler

    def fail(*_, **__):
        raise RuntimeError("sabotage")

    geometry.model_bytes = override.remember = scheduler._built = worker.WorkerTracker.__init__ = fail
"""
LONGEST_SECONDS = 700
UNCOUNTED = ("sound", "pages are slow", "clients are silent", "the process forks")
"""In these nothing of the plugin raises."""
MAY_COUNT = "the folder is removed"
"""Before it is made anew, a write may fail."""


def answered(model: Path, path: Sequence[Path], faults: Sequence[str], folder: Path, **more: str) -> Any:
    """What a vLLM answers while these faults are there, one after the other."""
    settings_ = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONFAULTHANDLER": "1", **more}
    log = folder / "log"
    with socket_folder() as sockets:
        program = Program(
            [sys.executable, answers.__file__, str(model), *faults],
            env=environment(path, **{ENV_SOCKETS: sockets}, **settings_),
            folder=folder,
            log=log,
        )
        deadline = time.monotonic() + LONGEST_SECONDS
        try:
            while program.exit_code() is None and time.monotonic() < deadline:
                time.sleep(0.2)
            if program.exit_code() is None:
                # It says where it hangs.
                os.kill(program.pid, signal.SIGABRT)
        finally:
            program.stop()
    said = log.read_text(errors="replace")
    found = results_in(said)
    assert found, said[-8000:]
    return found[0]


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """vLLM without the plugin: the same answers twice, then what it says when its worker is killed."""
    found = answered(model, [], ["sound", "sound"], tmp_path_factory.mktemp("alone"), VLLM_PLUGINS="")
    first, second = found["runs"]
    assert first["answers"] == second["answers"]
    assert first["reset"]
    assert not any(first["errors"])
    return found


def test_answers_are_the_same_whatever_fails_while_it_runs(
    alone: Any, model: Path, wheel: Path, tmp_path: Path
) -> None:
    settings_ = {names.ENV_PORT: str(free_ports(1)[0]), names.ENV_DIR: str(tmp_path / "snapshots")}
    found = answered(model, [wheel], list(answers.FAULTS), tmp_path, **settings_)
    assert found["start"] == {}
    expected = alone["runs"][0]
    for run in found["runs"]:
        assert run["answers"] == expected["answers"], run["fault"]
        assert run["reset"], run["fault"]
        assert bool(run["errors"]) == (run["fault"] not in UNCOUNTED) or run["fault"] == MAY_COUNT, run
    # What a lookup found is read where its request is admitted.
    failed_lookups = next(run for run in found["runs"] if run["fault"] == "lookups fail")
    assert f'{names.HOOK_ERRORS}{{hook="admission"}} 5' in failed_lookups["page"]
    assert f'{names.HOOKS_ACTIVE}{{hook="admission"}} 0' in failed_lookups["page"]
    # A killed worker takes its series along, and vLLM says of it what it always says.
    before, after = found["pages"]
    assert names.MODEL_WEIGHTS_BYTES in before
    assert names.MODEL_WEIGHTS_BYTES not in after
    assert names.KV_CACHE_ACTIVE_BYTES in after
    assert found["killed"] == alone["killed"] != "nothing"


def test_answers_are_the_same_whatever_fails_at_the_start(alone: Any, model: Path, wheel: Path, tmp_path: Path) -> None:
    """No port, no folder, nonsense in the environment, failing neighbours, and half of the hooks broken."""
    path = [
        neighbour(tmp_path, "unimportable", "raise ImportError('for another vLLM')"),
        neighbour(tmp_path, "saboteur", SABOTEUR),
        garbage(tmp_path),
        wheel,
    ]
    with socket.socket() as taken:
        # Whoever asks there is told at once that nobody answers.
        taken.bind(("0.0.0.0", 0))
        nonsense = {names.ENV_KV_BYTES: "many", names.ENV_ALLOCATION_BYTES: "-1", names.ENV_DIR: "/dev/null/folder"}
        nonsense[names.ENV_PORT] = str(taken.getsockname()[1])
        found = answered(model, path, ["sound"], tmp_path, **nonsense)
    (run,) = found["runs"]
    assert run["answers"] == alone["runs"][0]["answers"]
    assert {"engine_args", "scheduler"} <= found["start"].keys()
    assert {"exporter", "snapshots"} <= found["start"].keys() | run["errors"].keys()
    assert found["killed"] == alone["killed"]
