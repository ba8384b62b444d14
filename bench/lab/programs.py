"""Where the control plane's programs are found, and how they are run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vllm_rightsizer.demo.processes import Program

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-rightsizer"
"""What is built once and used again, outside the tree."""
_PORTS = range(20000, 30000)
"""Connections that go out are given higher ones by the kernel, at any moment; and NodePorts are higher."""
_claims: list[socket.socket] = []


class LabError(RuntimeError):
    """A part of the lab could not be made or did not come up; the message says which, and what it printed last."""


@contextlib.contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Whoever else does `what` on this machine waits for the end of the block."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def folder_with(*names: str) -> Path:
    """The folder that holds these programs; builds those that are missing, with progress on standard error."""
    found = subprocess.run([sys.executable, ROOT / ".ci" / "binaries", *names], stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise LabError(f"there is no {', '.join(names)}; what stands above says why")
    return Path(found.stdout.strip())


def start(binary: Path, arguments: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> Program:
    """Run `binary` in `folder`; what it prints goes to a log there.

    It does not see Ctrl-C, and it ends with this process, even where this process is killed.
    """
    last_will = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    return Program(
        [*last_will, str(binary), *arguments],
        env=dict(os.environ) | (environment or {}),
        folder=folder,
        log=folder / f"{binary.name}.log",
    )


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on, and that nobody else is given here while this process lives. Raises `LabError`
    where there are not so many."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        claim = socket.socket(socket.AF_UNIX)
        try:
            if sys.platform == "linux":
                # A name and no file: it is gone with the process.
                claim.bind(f"\0vllm-rightsizer-port-{port}")
            with socket.socket() as probe:
                probe.bind((host, port))
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            found.append(port)
    if len(found) < count:
        raise LabError(f"{host} has not {count} free ports from {_PORTS.start} to {_PORTS.stop - 1}")
    return found
