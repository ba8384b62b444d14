"""One process's objects: started once, gone when vLLM drops them, and left behind by a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_plugin import names, process
from vllm_plugin.guard import hook
from vllm_plugin.override import Outcome
from vllm_plugin.snapshots import SnapshotFolder, default_folder
from vllm_rightsizer.demo.ports import free_ports


class Tracker:
    """A pool or a worker."""

    vllm_config = None
    outcome = Outcome(state="applied", server="7-0")

    def __init__(self, report: Any = None, error: Exception | None = None) -> None:
        self._report, self._error, self.living = report, error, True

    def alive(self) -> bool:
        return self.living

    def report(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._report


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> process.Process:
    mine = process.Process()
    monkeypatch.setattr(process, "_process", mine)
    monkeypatch.setattr(mine, "export", lambda: None)
    return mine


def test_who_has_no_figures_yet_or_fails_is_left_out(own: process.Process) -> None:
    for tracker in (Tracker({"rank": 0}), Tracker(None), Tracker(error=RuntimeError("not yet"))):
        process.track_worker(tracker)
    process.track_pool(Tracker({"blocks": 7}))
    report = own.report()
    assert [worker["rank"] for worker in report["workers"]] == [0]
    assert report["engines"][0]["info"]["num_gpu_blocks"] == "7"
    assert report["engines"][0]["info"]["override"] == "applied"
    assert report["engines"][0]["server"] == "7-0"


def test_what_vllm_has_dropped_is_forgotten(own: process.Process) -> None:
    first, second = Tracker({"blocks": 1}), Tracker({"blocks": 2})
    process.track_pool(first)
    first.living = False
    assert own.report()["engines"] == []
    process.track_pool(second)
    assert own.pools == [second]


@pytest.mark.parametrize(("backend", "server"), [("external_launcher", "10.0.0.1:29500"), ("mp", "7-0"), (None, "7-0")])
def test_ranks_of_torchrun_are_one_server(
    own: process.Process, monkeypatch: pytest.MonkeyPatch, backend: str | None, server: str
) -> None:
    """Each of them makes its own configuration, and none is another's parent."""
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    tracker: Any = Tracker({"rank": 1})
    tracker.vllm_config = SimpleNamespace(
        parallel_config=SimpleNamespace(distributed_executor_backend=backend, data_parallel_index=3)
    )
    process.track_worker(tracker)
    (report,) = own.report()["workers"]
    assert (report["server"], report["engine"], report["rank"]) == (server, 3, 1)


def test_a_process_that_measures_nothing_leaves_its_start_and_its_errors(
    own: process.Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path))
    monkeypatch.setenv(names.ENV_POD_UID, "0b5e")
    hook("start").seconds += 0.25
    threads = set(threading.enumerate())
    own.announce()
    reader = SnapshotFolder(default_folder(os.environ, 9415))
    (left,) = reader.others()
    assert (left["engines"], left["workers"], left["pod_uid"]) == ([], [], "0b5e")
    assert left["hooks"]["start"]["seconds"] >= 0.25
    assert set(threading.enumerate()) <= threads
    # And it can say what the others have to show: vLLM's own page is made here.
    reader.write({**own.report(), "pid": 1})
    assert [found["pid"] for found in own.snapshots()] == [os.getpid(), 1]
    reader.close()


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(
    own: process.Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(names.ENV_DIR, str(tmp_path / "file"))
    errors = hook("snapshots").errors
    own.announce()
    assert hook("snapshots").errors == errors + 1


FORKED = """
import gc, os, sys, time, urllib.request
from vllm_plugin import exporter, process
from vllm_plugin.guard import hook, hooks

exporter._PERIOD_SECONDS = 0.05

class Pool:
    vllm_config = None
    from vllm_plugin.override import Outcome
    outcome = Outcome()
    def alive(self): return True
    def report(self):
        return {"block_bytes": 1, "capacity_bytes": os.getpid(), "reuse_counts": [], "reuse_sum_bytes": 0}

def page():
    for _ in range(600):
        try:
            return urllib.request.urlopen("http://127.0.0.1:" + os.environ["VLLM_RIGHTSIZER_PORT"] + "/metrics").read()
        except OSError:
            time.sleep(0.1)

process.track_pool(Pool())
assert str(os.getpid()).encode() in page()
hook("exporter").errors += 1
parent = os.getpid()
tracked, tracks = os.pipe()
child = os.fork()
if child == 0:
    assert process.current().pools == []
    assert not any(one.seconds or one.errors for one in hooks.values())
    process.track_pool(Pool())
    os.write(tracks, b".")
    while os.getppid() == parent:
        time.sleep(0.05)
    # The parent is gone; its port and its lock went with it, and the child takes over.
    for _ in range(1200):
        text = page()
        alone = text and str(os.getpid()).encode() in text and str(parent).encode() not in text
        if alone:
            break
        time.sleep(0.05)
    print("child serves" if alone else text, flush=True)
    os._exit(0)
# A child that fails closes its end.
os.close(tracks)
os.read(tracked, 1)
os._exit(0)
"""


def test_a_forked_child_starts_anew_and_takes_over(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "VLLM_RIGHTSIZER_DIR": str(tmp_path / "snapshots"),
            "VLLM_RIGHTSIZER_PORT": str(free_ports(1)[0]),
        },
    )
    assert done.stdout.strip() == "child serves", done.stderr + done.stdout
