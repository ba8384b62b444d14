"""Programs that are had from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.lab.programs import one_at_a_time

_ATTEMPTS = 3
"""Downloads fail, and others may hold the lists' lock."""
_WAITING = "--option=DPkg::Lock::Timeout=300"
"""In seconds, for whoever else installs something."""


def missing_after_install(packages: Mapping[str, str], probes: Mapping[str, Sequence[str]]) -> str | None:
    """Install what is missing, and try it; a sentence about what cannot be had, None where all is there.

    `packages`: what is needed, a program or the path of a file, and the package that has it. `probes`: what is done
    with them, and a command that shows that this machine lets it be done.
    """
    with one_at_a_time("packages"):
        lacking = sorted({package for what, package in packages.items() if not _is_there(what)})
        said = _install(lacking) if lacking else None
    if said is not None:
        return said
    # Root of a container may be refused what root of a machine may do.
    for what, command in probes.items():
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"{what} is needed, and this machine refuses it: {done.stderr.strip()}"
    return None


def _install(lacking: Sequence[str]) -> str | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{', '.join(lacking)} of Debian are needed, and only root can install them, by apt-get"
    update = ["apt-get", "update", "--quiet", _WAITING]
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", _WAITING, *lacking]
    for _ in range(_ATTEMPTS):
        # Where the lists are not to be had, those of before may do.
        _run(update)
        done = _run(install)
        if not done.returncode:
            return None
    said = "; ".join(done.stdout.strip().splitlines()[-3:])
    return f"{' '.join(install)} failed: {said}"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ) | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
    )


def _is_there(what: str) -> bool:
    return Path(what).is_file() if what.startswith("/") else shutil.which(what) is not None
