"""What surrounds the plugin in a pod may fail: disks, file descriptors, clocks. It counts that, and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import exporter as exporter_module
from vllm_plugin.exporter import _Server
from vllm_plugin.peaks import RollingPeak
from vllm_rightsizer.demo.ports import free_ports

ALONE = """
import json, os, resource, sys, urllib.request
from pathlib import Path
from vllm_plugin.exporter import Exporter
from vllm_plugin.guard import hooks
from vllm_plugin.process import Process

class Pool:
    vllm_config = None
    from vllm_plugin.override import Outcome
    outcome = Outcome()
    def alive(self): return True
    def report(self):
        return {"block_bytes": 1, "capacity_bytes": 7, "reuse_counts": [], "reuse_sum_bytes": 0}

process = Process()
process.pools.append(Pool())
exporter = Exporter(process.report)

def counted():
    return {name: hook.errors for name, hook in hooks.items() if hook.errors}

def page():
    address = "http://127.0.0.1:" + os.environ["VLLM_RIGHTSIZER_PORT"] + "/metrics"
    return urllib.request.urlopen(address, timeout=30).read().decode()
"""

NO_ROOM = """
# As on a full disk: the folder and its files can be made, and nothing written into them.
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
for _ in range(3):
    exporter.tick()
full = counted(), "kv_cache_capacity_bytes" in page(), 'hook_errors_total{hook="snapshots"} ' in page()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
exporter.tick()
written = [path.name for path in Path(os.environ["VLLM_RIGHTSIZER_DIR"]).rglob("*.json")]
print(json.dumps([*full, len(written), all(hook.active for hook in hooks.values())]))
"""

NO_FILES = """
# Not a single file more.
files = []
exporter.tick()
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2, 4096))
try:
    while True:
        files.append(open("/dev/null"))
except OSError:
    pass
for _ in range(3):
    exporter.tick()
without = bool(counted())
for file in files:
    file.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
exporter.tick()
print(json.dumps([without, "kv_cache_capacity_bytes" in page(), all(hook.active for hook in hooks.values())]))
"""


def alone(code: str, folder: Path, port: int) -> Any:
    """What an exporter in a process of its own says: limits on a process cannot always be taken back."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "VLLM_RIGHTSIZER_DIR": str(folder),
            "VLLM_RIGHTSIZER_PORT": str(port),
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_full_disk(tmp_path: Path, free_port: int) -> None:
    errors, shown, told, written, active = alone(NO_ROOM, tmp_path / "snapshots", free_port)
    assert errors["snapshots"] >= 3
    assert shown
    assert told
    assert written == 1
    assert active


def test_no_file_descriptors(tmp_path: Path, free_port: int) -> None:
    assert alone(NO_FILES, tmp_path / "snapshots", free_port) == [True, True, True]


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


def test_a_connection_that_cannot_be_accepted_is_not_asked_for_again_at_once(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays in the queue, and the queue stays readable: a loop without a pause would take vLLM's processor."""
    pauses: list[float] = []
    monkeypatch.setattr(exporter_module.time, "sleep", pauses.append)
    with _Server(free_port, lambda _: b"") as server:
        server.socket.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            server.get_request()
    assert pauses == [0.5]


def test_a_clock_that_goes_back_loses_no_peak() -> None:
    """The clock in use does not; whoever replaces it may."""
    peak = RollingPeak()
    for now in (1000.0, 1001.0, 400.0, 1002.0):
        peak.note(int(now), now)
    assert peak.peak(1002.0) == 1002
    assert peak.peak(0.0) >= 0
    peak.note(5, -3.0)
    assert peak.peak(1060.0) == 1002
