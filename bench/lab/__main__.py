"""`python -m bench.lab up|down`: a real cluster with one node on this machine, until it is taken down.

A process in the background owns it, and ends all of it when it is told to, or when a part does not come up.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

from bench.lab.cluster import running
from bench.lab.node import the_only_node
from bench.lab.programs import CACHE, LabError, folder_with
from bench.lab.vllm_pods import vllm_pod

FOLDER = CACHE / "lab"
_OWNER, _READY, _LOG = "owner.pid", "ready", "owner.log"
_PATIENCE_SECONDS = 1800.0
"""Programs may have to be built first."""


_NEXT = """\
# A cluster with one node, this machine. `make lab-down` ends it. To use it:
export KUBECONFIG={kubeconfig} PATH={programs}:{ours}:$PATH
# A tiny model on a real vLLM, Deployment chat/llama-3-8b, ready after a minute:
kubectl apply -f {workload}
# Install as docs/quick-start.md says; the images are there. In short:
helm install vllm-rightsizer deploy/chart --namespace vllm-rightsizer --create-namespace
kubectl label namespace chat vllm-rightsizer.io/inject=enabled
kubectl -n chat rollout restart deployment/llama-3-8b
# What comes of it:
kubectl get pods,vllmrec -A
vllm-rightsizer doctor"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lab", description=__doc__)
    parser.add_argument("what", choices=("up", "down", "own"), help="own: in the foreground, until SIGTERM")
    return {"up": _up, "down": _down, "own": _own}[parser.parse_args(arguments).what]()


def _up() -> int:
    started: subprocess.Popen[bytes] | None = None
    if _owner() is None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / _READY).unlink(missing_ok=True)
        with (FOLDER / _LOG).open("wb") as log:
            command = [sys.executable, "-m", "bench.lab", "own"]
            started = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
    # Somebody else's may be on its way.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (FOLDER / _READY).exists():
        ended = _owner() is None if started is None else started.poll() is not None
        if ended or time.monotonic() > deadline:
            print(f"lab: it did not come up\n{(FOLDER / _LOG).read_text()[-2000:]}", file=sys.stderr)
            return 1
        time.sleep(0.1)
    print((FOLDER / _READY).read_text())
    return 0


def _down() -> int:
    owner = _owner()
    if owner is None:
        try:
            with the_only_node() as abandoned:
                shutil.rmtree(FOLDER, ignore_errors=True)
                print("lab: what a killed one had left is gone" if abandoned else "lab: nothing runs", file=sys.stderr)
        except LabError as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(owner, signal.SIGTERM)
    while _owner() is not None:
        time.sleep(0.1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    return 0


def _own() -> int:
    over = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lab.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Of one that was killed: a control plane begins with none of its objects.
            with the_only_node():
                shutil.rmtree(FOLDER / "cluster", ignore_errors=True)
            return _until(over)
        except BlockingIOError:
            print("lab: another one is coming up, or going down: wait for it", file=sys.stderr)
        except LabError as error:
            print(f"lab: {error}", file=sys.stderr)
    return 1


def _until(over: Event) -> int:
    folder = FOLDER / "cluster"
    FOLDER.mkdir(parents=True, exist_ok=True)
    owner, ready = FOLDER / _OWNER, FOLDER / _READY
    owner.write_text(str(os.getpid()))
    try:
        with running(folder) as cluster:
            cluster.load_images()
            workload = folder / "llama-3-8b.json"
            workload.write_text(json.dumps(_workload(folder / "model")))
            said = _NEXT.format(
                kubeconfig=cluster.plane.kubeconfig,
                programs=folder_with("kubectl", "helm"),
                ours=Path(sys.executable).parent,
                workload=workload,
            )
            # Who waits for the file reads it at once.
            part = ready.with_suffix(".part")
            part.write_text(said)
            part.replace(ready)
            over.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        ready.unlink(missing_ok=True)
        owner.unlink(missing_ok=True)
    return 0


def _workload(model: Path) -> dict[str, Any]:
    """What the pages call `chat` and `llama-3-8b`."""
    own = {"app": "llama-3-8b"}
    spec = {
        "selector": {"matchLabels": own},
        # Two engines at a time are too much for a small machine.
        "strategy": {"type": "Recreate"},
        "template": {
            "metadata": {"labels": own},
            "spec": vllm_pod(model, "--gpu-memory-utilization=0.3", "--max-model-len=2048"),
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "llama-3-8b", "namespace": "chat"},
        "spec": spec,
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "chat"}}
    return {"apiVersion": "v1", "kind": "List", "items": [namespace, deployment]}


def _owner() -> int | None:
    """The process that owns the cluster; None where none runs."""
    try:
        pid = int((FOLDER / _OWNER).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"bench.lab" in command else None


if __name__ == "__main__":
    sys.exit(main())
