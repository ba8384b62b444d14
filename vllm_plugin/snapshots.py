"""What the processes of one vLLM tell each other: a file for each process in a folder that only their user can read."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_plugin.names import ENV_DIR

_SUFFIX = ".json"


def default_folder(environ: Mapping[str, str], port: int) -> Path:
    """The folder that all processes of one vLLM find without talking: the given one, or one per user and port."""
    given = environ.get(ENV_DIR)
    if given:
        return Path(given)
    return Path(tempfile.gettempdir()) / f"vllm-rightsizer-{os.getuid()}-{port}"


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie runs nothing any more.
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class SnapshotFolder:
    """Snapshots by process: written whole or not at all, and only those of living processes read."""

    def __init__(self, path: Path) -> None:
        """Create the folder if needed; OSError if it cannot be used, also when it is somebody else's."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or (path.parent.stat().st_mode & stat.S_ISVTX and not _ours(status)):
            raise PermissionError(f"{path} is not a folder of this user")
        self.path = path

    def write(self, snapshot: Mapping[str, Any]) -> None:
        """Replace this process's snapshot."""
        pid = os.getpid()
        target = self.path / f"{pid}{_SUFFIX}"
        scratch = self.path / f"{pid}.tmp"
        scratch.write_text(json.dumps({**snapshot, "started": start_time(pid)}), encoding="utf-8")
        scratch.replace(target)

    def others(self) -> list[dict[str, Any]]:
        """The snapshots of all other living processes; those of dead ones are removed."""
        found = []
        for file in sorted(self.path.glob(f"*{_SUFFIX}")):
            pid = int(file.stem) if file.stem.isdecimal() else 0
            if pid in (0, os.getpid()):
                continue
            try:
                snapshot = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(snapshot, dict) and snapshot.get("started") == start_time(pid) is not None:
                found.append(snapshot)
            else:
                file.unlink(missing_ok=True)
        return found


def _ours(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
