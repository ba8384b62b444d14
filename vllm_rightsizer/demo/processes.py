"""Programs that are started in a session of their own, and stopped with everything that they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_rightsizer.demo.interrupts import uninterrupted

_POLL_SECONDS = 0.05
_KILL_SECONDS = 60.0
"""The system takes its time to end what holds much memory."""


@dataclass(frozen=True)
class _Entry:
    """One process as /proc shows it; pid and start time together are never used twice.

    Parent and session change while it lives: when its parent ends, and when it leaves the session.
    """

    pid: int
    started: int
    parent: int = field(compare=False)
    session: int = field(compare=False)

    def send(self, number: int) -> None:
        if _entry(self.pid) == self:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _entry(pid: int) -> _Entry | None:
    """The process `pid`; None where it has ended, waited for or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets, which may hold blanks and brackets itself.
    state, *fields = stat.rpartition(")")[2].split()
    if state in "ZX":
        return None
    return _Entry(pid, started=int(fields[18]), parent=int(fields[0]), session=int(fields[2]))


def _entries() -> list[_Entry]:
    found = (_entry(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [entry for entry in found if entry is not None]


class Program:
    """A running program, and whatever it starts; all that it prints goes to `log`."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path) -> None:
        """Start `argv` in `folder`. Raises OSError where there is no such program."""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._seen: set[_Entry] = set()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._popen.poll()

    def tail(self, lines: int = 15) -> str:
        """The last lines of what it printed."""
        try:
            printed = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join([line for line in printed if line.strip()][-lines:])

    def alive(self) -> list[int]:
        """Pids of the program and of everything it has started that still runs, in other sessions too."""
        entries = _entries()
        ours = {entry for entry in entries if entry.session == self.pid or entry in self._seen}
        grown = True
        while grown:
            pids = {entry.pid for entry in ours}
            children = {entry for entry in entries if entry.parent in pids} - ours
            ours |= children
            grown = bool(children)
        self._seen |= ours
        return sorted(entry.pid for entry in ours)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """End the program and all that it has started: asked first, killed after the grace period."""
        with uninterrupted():
            self._signal_all(signal.SIGTERM)
            if self._gone_within(grace_seconds):
                return
            deadline = time.monotonic() + _KILL_SECONDS
            while time.monotonic() < deadline:
                # Again and again: a process may be forked between the look and the signal.
                self._signal_all(signal.SIGKILL)
                if self._gone_within(_POLL_SECONDS):
                    return

    def _signal_all(self, number: int) -> None:
        self.alive()
        for entry in self._seen:
            entry.send(number)

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            ended = self._popen.poll() is not None
            if ended and not self.alive():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
