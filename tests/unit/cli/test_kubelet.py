"""Pods as processes of this machine: init containers, readiness, status; and that nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recommender.api.object_store import FileObjectStore
from vllm_rightsizer.demo.kubelet import Kubelet, PodFailedError
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.demo.processes import Program
from vllm_rightsizer.errors import UserError

SERVER = """
import http.server, os, subprocess, sys
# A child that does not listen to anyone, and a grandchild that has left the session.
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
start = f"subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)"
leaver = f"import subprocess, sys; {start}; {stubborn}"
subprocess.Popen([sys.executable, "-c", leaver])
print("serving", os.environ["GREETING"], open("/data/greeting").read(), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def pod(command: list[str], **container: Any) -> dict[str, Any]:
    main = {
        "name": "main",
        "image": "python",
        "command": command,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        **container,
    }
    init = {
        "name": "write",
        "image": "python",
        "command": ["python", "-c", "open('/data/greeting', 'w').write('$(WORD) $$(WORD) $(NONE)')"],
        "env": [{"name": "WORD", "value": "hello"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "demo", "uid": "u"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "initContainers": [init],
            "containers": [main],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path / "objects")


@pytest.fixture
def kubelet(tmp_path: Path, store: FileObjectStore) -> Iterator[Kubelet]:
    kubelet = Kubelet(tmp_path / "pods", store)
    yield kubelet
    kubelet.stop_all()


def processes_with(marker: str) -> list[int]:
    """Living processes that have `marker` in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def conditions(store: FileObjectStore) -> dict[str, str]:
    found = store.get("Pod", "demo", "web-1")
    assert found is not None
    return {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}


def test_the_life_of_a_pod(tmp_path: Path, store: FileObjectStore, kubelet: Kubelet) -> None:
    port, marker = free_ports(1)[0], f"marker-{time.monotonic_ns()}"
    running = kubelet.start(
        pod(
            ["python", "-c", SERVER],
            args=["$(PORT)"],
            env=[
                {"name": "PORT", "value": str(port)},
                {"name": "GREETING", "value": f"$(PORT) {marker} /data"},
            ],
            ports=[{"name": "http", "containerPort": port}],
            readinessProbe={"httpGet": {"path": "/ready", "port": "http"}},
        )
    )
    assert conditions(store)["Ready"] == "False"
    running.wait_ready(timeout_seconds=60)
    assert conditions(store)["Ready"] == "True"
    stored = store.get("Pod", "demo", "web-1")
    assert stored is not None
    assert stored["status"]["podIP"] == "127.0.0.1"
    log = running.program("main").log.read_text()
    assert f"serving {port} {marker} {tmp_path}/pods/web-1/volumes/data hello $(WORD) $(NONE)" in log

    wait_until(lambda: len(processes_with(marker)) == 3)
    # What vLLM leaves there when it is killed goes with the pod.
    assert len(processes_with(f"VLLM_RPC_BASE_PATH={running.sockets}")) == 3
    (Path(running.sockets) / "left").touch()
    running.stop()
    assert not Path(running.sockets).exists()
    assert processes_with(marker) == []
    assert store.get("Pod", "demo", "web-1") is None


def test_a_container_that_dies_at_start(tmp_path: Path, kubelet: Kubelet) -> None:
    running = kubelet.start(
        pod(
            ["python", "-c", "print('no such model'); raise SystemExit(3)"],
            readinessProbe={"httpGet": {"port": free_ports(1)[0]}},
        )
    )
    with pytest.raises(PodFailedError) as failure:
        running.wait_ready(timeout_seconds=60)
    message = str(failure.value)
    assert message.startswith("pod web-1: container main ended with 3 before it was ready")
    assert "no such model" in message
    assert str(tmp_path / "pods" / "web-1" / "main.log") in message


def test_a_container_that_never_gets_ready(kubelet: Kubelet) -> None:
    running = kubelet.start(
        pod(["python", "-c", "import time; time.sleep(60)"], readinessProbe={"httpGet": {"port": free_ports(1)[0]}})
    )
    with pytest.raises(PodFailedError, match=r"container main was not ready in"):
        running.wait_ready(timeout_seconds=0.5)


def test_an_init_container_that_fails(kubelet: Kubelet) -> None:
    broken = pod(["python", "-c", "pass"])
    broken["spec"]["initContainers"][0]["command"] = ["python", "-c", "raise SystemExit('no wheel')"]
    with pytest.raises(PodFailedError, match=r"init container write ended with 1\n\nno wheel"):
        kubelet.start(broken)


def test_a_program_that_is_not_there(kubelet: Kubelet) -> None:
    with pytest.raises(UserError, match="container main: no-such-program cannot be started"):
        kubelet.start(pod(["no-such-program"]))


def test_a_container_without_a_command(kubelet: Kubelet) -> None:
    with pytest.raises(UserError, match="container main: the demo's kubelet has no images, so it needs a command"):
        kubelet.start(pod([]))


INTERRUPTED = """
import sys
from pathlib import Path
from vllm_rightsizer.demo.interrupts import StoppedError, stopping_on_signals
from vllm_rightsizer.demo.processes import Program
import os, time
with stopping_on_signals():
    program = Program([sys.executable, "-c", "import time; time.sleep(600)"],
                      env=os.environ, folder=Path.cwd(), log=Path("log"))
    try:
        print("started", flush=True)
        time.sleep(600)
    except StoppedError as stopped:
        sys.exit(stopped.exit_code)
    finally:
        program.stop()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_no_process(tmp_path: Path, number: signal.Signals) -> None:
    marker = f"marker-{time.monotonic_ns()}"
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        env={**os.environ, "MARKER": marker},
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "started\n"
            # The child's environment shows once it has become the program that it is to be.
            wait_until(lambda: len(processes_with(marker)) == 2)
            program.send_signal(number)
            assert program.wait(timeout=60) == 128 + number
        finally:
            program.kill()
    assert processes_with(marker) == []


SHIELDED = """
import os, signal
from vllm_rightsizer.demo.interrupts import StoppedError, stopping_on_signals, uninterrupted
with stopping_on_signals():
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            print("still here", flush=True)
        print("not reached")
    except StoppedError as stopped:
        print("then", stopped)
"""


def test_signals_wait_while_a_process_is_started_or_stopped() -> None:
    done = subprocess.run([sys.executable, "-c", SHIELDED], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "still here\nthen SIGTERM\n"


def test_an_orphan_that_was_seen_is_ended_too(tmp_path: Path) -> None:
    """Its parent ends by itself, and it has left the session: nothing ties it to the program any more."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    orphan = f"{stubborn}; print('there', flush=True); time.sleep(600)"
    parent = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {orphan!r}], start_new_session=True); time.sleep(600)"
    )
    program = Program([sys.executable, "-c", parent], env=dict(os.environ), folder=tmp_path, log=tmp_path / "log")
    wait_until(lambda: "there" in (tmp_path / "log").read_text())
    seen = program.alive()
    assert len(seen) == 2
    os.kill(program.pid, signal.SIGKILL)
    wait_until(lambda: program.exit_code() is not None)
    assert program.alive() == [pid for pid in seen if pid != program.pid]
    program.stop(grace_seconds=0.2)
    assert program.alive() == []
