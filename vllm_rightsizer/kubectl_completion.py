"""`kubectl_complete-vllm_rightsizer`: kubectl asks this program how `kubectl vllm-rightsizer …` goes on."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys

from vllm_rightsizer.cli import app

_PROGRAM = "vllm-rightsizer"


def main() -> None:
    """Print what the last argument, often empty, can become: a line each, a tab before what it means. The last line is
    for kubectl: where there is nothing, files are offered."""
    # fish wants the same lines as kubectl.
    os.environ["_VLLM_RIGHTSIZER_COMPLETE"] = "complete_fish"
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["_TYPER_COMPLETE_ARGS"] = shlex.join([_PROGRAM, *sys.argv[1:]])
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as offered:
        app(prog_name=_PROGRAM)
    # Where there is nothing, fish is given an empty line, which kubectl would offer.
    print(*filter(None, offered.getvalue().splitlines()), ":0", sep="\n")
