"""`python -m bench.lab up|down`: a real cluster with one node on this machine, until it is taken down.

A process in the background owns it, and ends all of it when it is told to, or when a part does not come up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from bench.lab.cluster import running
from bench.lab.programs import CACHE, LabError

FOLDER = CACHE / "lab"
_OWNER, _READY, _LOG = "owner.pid", "ready", "owner.log"
_PATIENCE_SECONDS = 1800.0
"""Programs may have to be built first."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lab", description=__doc__)
    parser.add_argument("what", choices=("up", "down", "own"), help="own: in the foreground, until SIGTERM")
    return {"up": _up, "down": _down, "own": _own}[parser.parse_args(arguments).what]()


def _up() -> int:
    if _owner() is None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / _READY).unlink(missing_ok=True)
        with (FOLDER / _LOG).open("wb") as log:
            command = [sys.executable, "-m", "bench.lab", "own"]
            owner = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (FOLDER / _READY).exists():
            if owner.poll() is not None or time.monotonic() > deadline:
                print(f"lab: it did not come up\n{(FOLDER / _LOG).read_text()[-2000:]}", file=sys.stderr)
                return 1
            time.sleep(0.1)
    print(f"export KUBECONFIG={(FOLDER / _READY).read_text()}")
    return 0


def _down() -> int:
    owner = _owner()
    if owner is None:
        print("lab: nothing runs", file=sys.stderr)
        return 0
    os.kill(owner, signal.SIGTERM)
    while _owner() is not None:
        time.sleep(0.1)
    return 0


def _own() -> int:
    over = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    FOLDER.mkdir(parents=True, exist_ok=True)
    owner = FOLDER / _OWNER
    owner.write_text(str(os.getpid()))
    try:
        with running(FOLDER / "cluster") as cluster:
            cluster.load_images()
            (FOLDER / _READY).write_text(str(cluster.plane.kubeconfig))
            over.wait()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(FOLDER / "cluster", ignore_errors=True)
        (FOLDER / _READY).unlink(missing_ok=True)
        owner.unlink(missing_ok=True)
    return 0


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
