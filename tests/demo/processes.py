"""Which processes belong to a program that a test has started."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the living processes below `pid`, and of itself."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(folder.name)] = int(fields[1])
    found = {pid} & parents.keys()
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return {one: _command(one) for one in found}


def still_there(processes: dict[int, str]) -> dict[int, str]:
    """Those of `processes` that still run; a pid that is used by another program by now does not count."""
    return {pid: command for pid, command in processes.items() if command and _command(pid) == command}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
