"""The command line as a user has it: in this process, which is quick, or as a program of its own."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from vllm_rightsizer.cli import main

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `main()` with arguments and standard input."""
    # Servers set the root logger up, also those of other tests in this process, whose standard error is closed by now.
    kept = [handler for handler in logging.root.handlers if type(handler) is not logging.StreamHandler]
    monkeypatch.setattr(logging.root, "handlers", kept)
    # By which help would say `python -m pytest`, where that was how these tests were started.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["vllm-rightsizer", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(str(code or 0)), printed.out, printed.err)

    return run


@pytest.fixture
def program() -> Cli:
    """Run `python -m vllm_rightsizer` with arguments."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vllm_rightsizer", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run
