"""`list --watch`: what is shown on a screen, what is printed where there is none, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from ruamel.yaml import YAML

from recommender.api.object_store import FileObjectStore
from recommender.api.recommendations import VLLMRecommendation
from vllm_rightsizer import following
from vllm_rightsizer.following import Look, looks
from vllm_rightsizer.listing import rows_in
from vllm_rightsizer.reading import Source
from vllm_rightsizer.reading_options import Color, Output, SortColumn
from vllm_rightsizer.tables import Paper
from vllm_rightsizer.watching import Lines, changed, screen_of

CLUSTER = Path(__file__).parents[3] / "deploy" / "examples" / "cluster"
RAWS = tuple(FileObjectStore(CLUSTER).list(VLLMRecommendation.KIND))
WATCH = [sys.executable, "-m", "vllm_rightsizer", "list", "--watch", "--objects"]
LONGEST_SECONDS = 60.0


def screen(look: Look, width: int = 100, height: int = 24, *, wide: bool = False) -> list[str]:
    paper = Paper.of(Color.NEVER)
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(screen_of(look, SortColumn.WORKLOAD, "begin so", (width, height), paper, wide=wide))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_screen_has_what_the_list_has() -> None:
    head, *rows, total = screen(Look(RAWS))
    assert head.split() == ["workload", "replicas", "allocated", "used", "recommended", "saving", "state"]
    assert [row.split()[0] for row in rows] == ["chat/llama-3-70b", "chat/llama-3-8b", "chat/mistral-7b"]
    assert total.split()[:3] == ["all", "3", "6"]


@pytest.mark.parametrize(("width", "height"), [(40, 24), (10, 5), (200, 6), (100, 1)])
@pytest.mark.parametrize("wide", [False, True])
def test_a_small_screen_is_not_overrun(width: int, height: int, wide: bool) -> None:
    shown = screen(Look(RAWS), width, height, wide=wide)
    assert all(cell_len(line) <= width for line in shown)
    assert shown[0].startswith("workload")
    if height <= 6:
        assert any(line.startswith("and ") for line in shown)


def test_what_is_wrong_stands_above() -> None:
    broken = ({**RAWS[0], "status": {"mood": "good"}}, *RAWS[1:])
    first, second, head, *_ = screen(Look(broken, "the API server is away"), 200)
    assert first == "what is shown may be old: the API server is away"
    assert second.startswith("passed over: VLLMRecommendation statefulset-")
    assert head.startswith("workload")
    assert screen(Look(())) == ["begin so"]


def changed_text(output: Output, *steps: tuple[dict[str, Any], ...]) -> str:
    lines, before, text = Lines(output), {}, ""
    for raws in steps:
        now = {row.key: row for row in rows_in(raws)[0]}
        text += lines.text_of(list(changed(before, now)))
        before = now
    return text


def test_a_line_for_each_change_and_none_where_nothing_changed() -> None:
    paused = {**RAWS[1], "spec": {**RAWS[1]["spec"], "paused": True}}
    head, *lines = changed_text(
        Output.TABLE, RAWS[:2], RAWS[:2], (RAWS[0], paused), (RAWS[0], paused, RAWS[2]), (RAWS[0], RAWS[2])
    ).splitlines()
    assert head.startswith("workload  ")
    assert [(line.split()[0], line.split("  ")[-1].strip()) for line in lines] == [
        ("chat/llama-3-70b", "waits for new pods"),
        ("chat/llama-3-8b", "waits for new pods"),
        ("chat/llama-3-8b", "paused"),
        ("chat/mistral-7b", "waits for new pods"),
        ("chat/llama-3-8b", "removed"),
    ]
    assert len({line.index("GiB") for line in lines}) == 1


def test_documents_of_each_change() -> None:
    steps = (RAWS[:1], RAWS[:2])
    found = [json.loads(line) for line in changed_text(Output.JSON, *steps).splitlines()]
    assert [one["name"] for one in found] == ["llama-3-70b", "llama-3-8b"]
    assert list(YAML(typ="safe", pure=True).load_all(changed_text(Output.YAML, *steps))) == found
    head, *lines = changed_text(Output.CSV, *steps).splitlines()
    assert head.startswith("namespace,kind,name,")
    assert [line.split(",")[2] for line in lines] == ["llama-3-70b", "llama-3-8b"]


async def test_a_folder_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LOOK_SECONDS", 0.01)
    objects = Path(shutil.copytree(CLUSTER, tmp_path / "cluster"))
    async with contextlib.aclosing(looks(Source(objects), "chat")) as seen:
        assert len((await anext(seen)).raws) == 3
        FileObjectStore(objects).delete(VLLMRecommendation.KIND, "chat", RAWS[0]["metadata"]["name"])
        async with asyncio.timeout(LONGEST_SECONDS):
            while len((await anext(seen)).raws) != 2:
                pass


@pytest.mark.processes
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_and_leave_the_terminal_as_it_was(sent: signal.Signals, code: int) -> None:
    """Ctrl-C is what the terminal makes a SIGINT of."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(WATCH[0], [*WATCH, str(CLUSTER)], {**os.environ, "TERM": "xterm"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    shown, deadline = b"", time.monotonic() + LONGEST_SECONDS
    while b"all 3" not in shown and time.monotonic() < deadline:
        shown += _read(terminal)
    if sent is signal.SIGINT:
        os.write(terminal, b"\x03")
    else:
        os.kill(pid, sent)
    while (read := _read(terminal)) or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        shown += read
        assert time.monotonic() < deadline
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    os.close(terminal)
    # The other screen is left, and the cursor is there again.
    assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"\x1b[?1049h")
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"Traceback" not in shown


def _read(terminal: int) -> bytes:
    if not select.select([terminal], [], [], 0.2)[0]:
        return b""
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Nobody is at the other end any more.
        return b""


@pytest.mark.processes
def test_where_there_is_no_terminal(tmp_path: Path) -> None:
    objects = Path(shutil.copytree(CLUSTER, tmp_path / "cluster"))
    program = subprocess.Popen([*WATCH, str(objects), "-o", "json"], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        first = [json.loads(program.stdout.readline()) for _ in RAWS]
        assert [one["name"] for one in first] == ["llama-3-70b", "llama-3-8b", "mistral-7b"]
        FileObjectStore(objects).delete(VLLMRecommendation.KIND, "chat", RAWS[0]["metadata"]["name"])
        gone = json.loads(program.stdout.readline())
        assert (gone["name"], gone["state"]) == ("llama-3-70b", "removed")
    finally:
        program.send_signal(signal.SIGINT)
        assert program.wait(LONGEST_SECONDS) == 130
