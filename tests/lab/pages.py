"""Pages whose commands are run as they stand there, and how one command of a page is run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.lab.kubectl import Kubectl
from bench.lab.page_commands import blocks_of
from bench.lab.programs import ROOT

_SECTION = re.compile(r"^##+ (.*)$", re.MULTILINE)
_BLOCK_SECONDS = 1200.0
_COMMAND_SECONDS = 300.0
BASH = ("bash", "-euo", "pipefail", "-c")


class Page:
    """A page by its sections: the blocks of each are run by a shell in the checkout, as its reader would."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.name = name
        self._kubectl = kubectl
        _, *parts = _SECTION.split((ROOT / name).read_text())
        self._sections = {heading: blocks_of(text) for heading, text in zip(parts[::2], parts[1::2], strict=True)}
        self._run: set[tuple[str, int]] = set()

    @property
    def not_run(self) -> list[tuple[str, int]]:
        """Section and number of each block that nobody has run so far."""
        return [
            (section, number)
            for section, blocks in self._sections.items()
            for number in range(len(blocks))
            if (section, number) not in self._run
        ]

    def run(self, section: str, number: int = 0) -> str:
        """Run one block, to its end; what it printed. `section`: how the heading begins."""
        with self.running(section, number) as process:
            printed, _ = process.communicate(timeout=_BLOCK_SECONDS)
            assert process.returncode == 0, f"{self.name}, {section}: exit {process.returncode}\n{printed}"
        # For whoever reads along, with `-s`; and where the test fails.
        print(printed)
        return printed

    @contextmanager
    def running(self, section: str, number: int = 0) -> Iterator[subprocess.Popen[str]]:
        """One block while it runs; it is ended with this one. What it prints, complaints too, is in its pipe."""
        [heading] = [heading for heading in self._sections if heading.startswith(section)]
        block = self._sections[heading][number]
        print("".join(f"$ {line}\n" for line in block.splitlines()))
        process = subprocess.Popen(
            [*BASH, block],
            cwd=ROOT,
            env=reader(self._kubectl),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
            self._run.add((heading, number))
        finally:
            # With whatever it waits for.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def reader(kubectl: Kubectl) -> dict[str, str]:
    """The environment of somebody who has helm, kubectl, and our command line."""
    path = f"{kubectl.programs}:{Path(sys.executable).parent}:{kubectl.environment['PATH']}"
    homes = {f"HELM_{kind}_HOME": str(kubectl.scratch / f"helm-{kind.lower()}") for kind in ("CACHE", "CONFIG", "DATA")}
    return kubectl.environment | homes | {"PATH": path, "COLUMNS": "120", "KUBE_EDITOR": "true"}


def run_one(command: str, environment: dict[str, str]) -> str:
    """Run one command that looks for something; what it printed, and what it complained of.

    Of a pipeline `grep` may find nothing, which is what it finds where all is well, and `head` may end the first early.
    """
    done = subprocess.run(
        ["bash", "-c", f"{command}\nprintf '\\n%s' \"${{PIPESTATUS[*]}}\""],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
    )
    printed, _, statuses = done.stdout.rpartition("\n")
    first, *others = map(int, statuses.split())
    said = f"{command}\nexits {statuses}\n{printed}{done.stderr}"
    assert first == 0 or (first == _BROKEN_PIPE and "| head" in command), said
    assert all(status == 0 or (status == 1 and "| grep" in command) for status in others), said
    return printed + done.stderr


_BROKEN_PIPE = 141
