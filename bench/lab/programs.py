"""Where the control plane's programs are found, and how they are run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vllm_rightsizer.demo.processes import Program

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-rightsizer"
"""What is built once and used again, outside the tree."""


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
