"""Webhook and recommender as the demo runs them: the real programs, each a process of its own."""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from vllm_rightsizer.demo.interrupts import uninterrupted
from vllm_rightsizer.demo.processes import Program
from vllm_rightsizer.errors import UserError

_START_SECONDS = 120.0
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 5.0


class Service:
    """`vllm-rightsizer <command>` as a background process."""

    def __init__(self, command: str, arguments: list[str], folder: Path) -> None:
        self._command = command
        folder.mkdir(parents=True, exist_ok=True)
        with uninterrupted():
            self._program = Program(
                [sys.executable, "-m", "vllm_rightsizer", command, *arguments],
                env=os.environ,
                folder=folder,
                log=folder / f"{command}.log",
            )

    def wait_until(self, answers: Callable[[], bool]) -> None:
        """Wait until the service answers; raises `UserError` with the end of its log where it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while not answers():
            code = self._program.exit_code()
            if code is not None or time.monotonic() > deadline:
                what = f"ended with {code}" if code is not None else f"does not answer after {_START_SECONDS:.0f} s"
                raise UserError(
                    f"the {self._command} {what}\n\n{self._program.tail()}\n\nThe whole log: {self._program.log}"
                )
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        self._program.stop(_GRACE_SECONDS)


def answers_http(url: str, ca_file: Path | None = None) -> bool:
    """Whether `url` answers with success; over TLS known by `ca_file`, which may not be there yet."""
    try:
        verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        answer = httpx.get(url, verify=verify, timeout=10.0, trust_env=False)
    except (OSError, httpx.HTTPError):
        return False
    return answer.is_success
