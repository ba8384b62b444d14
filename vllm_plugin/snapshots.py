"""What the processes of one vLLM tell each other: a file for each process in a folder that only their user can read.

Who lives is told by locks, which the kernel drops with the process that holds them: numbers of processes are used
again, and mean something else in the next container.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_plugin.guard import warn
from vllm_plugin.names import DEFAULT_PORT, ENV_DIR, ENV_POD_UID, ENV_PORT
from vllm_plugin.page import servers_of

_FORMAT = 2
"""Of a snapshot: containers of one pod may bring different releases of the plugin."""

_LIVING, _SNAPSHOT, _SCRATCH = ".living", ".json", ".tmp"
_NUMBERING = "numbering.lock"


def port_of(text: str | None) -> int:
    """The port to serve on; the default for anything that is not one."""
    if text and text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    if text:
        warn("vllm-rightsizer: %s=%r is not a port, using %d", ENV_PORT, text, DEFAULT_PORT)
    return DEFAULT_PORT


def default_folder(environ: Mapping[str, str], port: int) -> Path:
    """The folder that all processes of one vLLM find without talking: in the given one, or one per user and port.

    A volume may serve several pods, so each has a folder of its own in the given one.
    """
    given = environ.get(ENV_DIR)
    if given:
        return Path(given) / (environ.get(ENV_POD_UID) or os.uname().nodename or "pod")
    return Path(tempfile.gettempdir()) / f"vllm-rightsizer-{os.getuid()}-{port}"


class SnapshotFolder:
    """Snapshots by process: written whole or not at all, and only those of living processes read."""

    def __init__(self, path: Path) -> None:
        """Create the folder if needed; OSError if it cannot be used, also when it is somebody else's."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or (path.parent.stat().st_mode & stat.S_ISVTX and not _ours(status)):
            raise PermissionError(f"{path} is not a folder of this user")
        self.path = path
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._started = time.time()
        self._living: int | None = None
        self._servers: dict[str, int] = {}
        os.register_at_fork(after_in_child=self.close)

    def write(self, snapshot: Mapping[str, Any]) -> None:
        """Replace this process's snapshot. Where that fails none is left: an old one would look like a quiet vLLM."""
        if self._living is None or not self._file(_LIVING).exists():
            self._show_life()
        if self._servers.keys() == servers_of(snapshot).keys():
            self._put(snapshot)
        else:
            self._put_with_new_numbers(snapshot)

    def complete(self, snapshot: Mapping[str, Any]) -> dict[str, Any]:
        """The snapshot with what the folder knows of this process: since when, and its servers' numbers."""
        return {**snapshot, "started": self._started, "servers": {**servers_of(snapshot), **self._servers}}

    def others(self) -> list[dict[str, Any]]:
        """The snapshots of all other living processes; those of dead ones are removed."""
        found = []
        for living in sorted(self.path.glob(f"*{_LIVING}")):
            if living.stem == self._name:
                continue
            with suppress(OSError, ValueError):
                if _is_locked(living):
                    snapshot = json.loads(living.with_suffix(_SNAPSHOT).read_text(encoding="utf-8"))
                    if isinstance(snapshot, dict) and snapshot.get("format") == _FORMAT:
                        found.append(snapshot)
                else:
                    for ending in (_SNAPSHOT, _SCRATCH, _LIVING):
                        living.with_suffix(ending).unlink(missing_ok=True)
        return found

    def close(self) -> None:
        """No longer alive here. In a forked child: its copy of the lock would outlive the parent."""
        if self._living is not None:
            os.close(self._living)
            self._living = None

    def _file(self, ending: str) -> Path:
        return self.path / (self._name + ending)

    def _show_life(self) -> None:
        """Lock a file before it has the name by which others look for it: unlocked it would be a dead one's."""
        self.close()
        scratch = self._file(_SCRATCH)
        self._living = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._living, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch.replace(self._file(_LIVING))

    def _put(self, snapshot: Mapping[str, Any]) -> None:
        scratch = self._file(_SCRATCH)
        try:
            scratch.write_text(json.dumps({**self.complete(snapshot), "format": _FORMAT}), encoding="utf-8")
            scratch.replace(self._file(_SNAPSHOT))
        except OSError:
            for file in (scratch, self._file(_SNAPSHOT)):
                with suppress(OSError):
                    file.unlink()
            raise

    def _put_with_new_numbers(self, snapshot: Mapping[str, Any]) -> None:
        """Give each server the number that its other processes have, else the lowest free one, as long as it lives.

        A server's number is in its labels: it must not change when another server ends.
        """
        lock = os.open(self.path / _NUMBERING, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            servers = servers_of(snapshot)
            taken = {server: number for other in self.others() for server, number in other["servers"].items()}
            taken.update((server, number) for server, number in self._servers.items() if server in servers)
            # An actor of Ray may not know whose it is: it belongs to the first, and takes no number.
            taken[""] = -1
            for server in servers:
                taken.setdefault(server, min(set(range(len(taken) + 1)) - set(taken.values())))
            self._servers = {server: max(taken[server], 0) for server in servers}
            self._put(snapshot)
        finally:
            # Said, since a child forked just now has a copy of the lock.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)


def _is_locked(path: Path) -> bool:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(file)


def _ours(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
