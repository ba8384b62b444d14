"""One process's objects: started once, gone when vLLM drops them, and left behind by a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import process
from vllm_plugin.override import Outcome


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


FORKED = """
import gc, os, sys, time, urllib.request
from vllm_plugin import process

class Pool:
    vllm_config = None
    from vllm_plugin.override import Outcome
    outcome = Outcome()
    def alive(self): return True
    def report(self):
        return {"block_bytes": 1, "capacity_bytes": os.getpid(), "reuse_counts": [], "reuse_sum_bytes": 0}

def page():
    for _ in range(50):
        try:
            return urllib.request.urlopen("http://127.0.0.1:" + os.environ["VLLM_RIGHTSIZER_PORT"] + "/metrics").read()
        except OSError:
            time.sleep(0.1)

process.track_pool(Pool())
assert str(os.getpid()).encode() in page()
child = os.fork()
if child == 0:
    assert process.current().pools == []
    parent = os.getppid()
    process.track_pool(Pool())
    while os.getppid() == parent:
        time.sleep(0.05)
    # The parent is gone; its port and its lock went with it, and the child takes over.
    time.sleep(2.5)
    text = page()
    alone = text and str(os.getpid()).encode() in text and str(parent).encode() not in text
    print("child serves" if alone else text, flush=True)
    os._exit(0)
time.sleep(1.5)
os._exit(0)
"""


def test_a_forked_child_starts_anew_and_takes_over(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "VLLM_RIGHTSIZER_DIR": str(tmp_path / "snapshots"),
            "VLLM_RIGHTSIZER_PORT": str(30_000 + os.getpid() % 10_000),
        },
    )
    assert done.stdout.strip() == "child serves", done.stderr + done.stdout
