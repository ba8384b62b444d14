"""The store under a process that is killed at any moment, and a file that is cut or changed at any byte."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import KEY
from test_history import FINGERPRINT, NOTHING, closed, stored

from recommender.history import History
from recommender.history_files import HistoryError, UnreadableHistoryError
from recommender.standings import Standing

PODS = 4
WRITER = """
import os, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_history import closed
from recommender.history import History
def say(what):
    # In one piece: `print` may write the end of the line by itself, and whoever is killed before it leaves half a line.
    os.write(1, b"%s\\n" % str(what).encode())
for first in sys.stdin:
    # A writer for each line; what takes long to import is there already.
    if os.fork():
        os.wait()
        say("over")
        continue
    say(os.getpid())
    with History.open(Path({path!r})) as history:
        for number in range(int(first), 10**9):
            history.append([closed(60.0 * number, pod=f"llama-{{pod}}") for pod in range({pods})])
            say(number)
"""


def test_kill_9_while_writing_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    """At whatever byte: an interval is there for all pods or for none, and everything reported as written is there."""
    path = tmp_path / "history.db"
    written = 0
    code = WRITER.format(tests=str(Path(__file__).parent), path=str(path), pods=PODS)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for delay in (0.0, 0.013, 0.04):
            program.stdin.write(f"{written}\n")
            program.stdin.flush()
            writer = int(program.stdout.readline())
            assert program.stdout.readline() == f"{written}\n"
            time.sleep(delay)
            os.kill(writer, signal.SIGKILL)
            known = written + 1 + sum(1 for _ in iter(program.stdout.readline, "over\n"))
            with History.open(path) as history:
                found = [one.intervals for one in history.series(KEY, FINGERPRINT, 0.0)]
            assert len(found) == PODS
            assert {tuple(it.start for it in intervals) for intervals in found} == {
                tuple(60.0 * number for number in range(len(found[0])))
            }
            assert known <= len(found[0]) <= known + 1
            written = len(found[0])
    assert not list(path.parent.glob("*.unreadable-*"))


def filled(path: Path) -> dict[str, bytes]:
    """A store whose writer was killed, with the newest intervals in SQLite's log only: its files."""
    with History.open(path) as history:
        history.append([closed(60.0 * number) for number in range(8)])
        history.remember([replace(NOTHING, candidate_bytes=7, candidate_expires=1e9, standing=Standing(8, 9, "a"))])
    with History.open(path) as history:
        for number in range(8, 12):
            history.append([closed(60.0 * number)])
        files = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    return files


def what_is_found(path: Path) -> list[float] | None:
    """The starts of the stored intervals after opening; None where a new history began, at once or while reading."""
    with History.open(path) as history:
        try:
            (one,) = history.series(KEY, FINGERPRINT, 0.0) or (None,)
            assert history.candidates(KEY, FINGERPRINT, "", 0.0) in ((7,), ())
            assert history.standing(KEY, FINGERPRINT) in (Standing(8, 9, "a"), Standing())
        except UnreadableHistoryError:
            history.start_anew()
            one = None
        # Whatever it was: the recommender goes on.
        history.append([closed(6000.0)])
        if one is None:
            return None
        for interval in one.intervals:
            assert interval == closed(interval.start).interval
        return [interval.start for interval in one.intervals]


def test_a_log_that_is_cut_anywhere_loses_its_end_only(tmp_path: Path) -> None:
    """A crash of the machine, too: what is whole before the cut counts."""
    files = filled(tmp_path / "history.db")
    log = files["-wal"]
    lengths = sorted({*random.Random(1).sample(range(len(log)), 20), 0, 1, 31, 32, 33, len(log) - 1, len(log)})
    kept = []
    for number, length in enumerate(lengths):
        path = tmp_path / f"cut-{number}" / "history.db"
        path.parent.mkdir()
        path.write_bytes(files[""])
        Path(f"{path}-wal").write_bytes(log[:length])
        found = what_is_found(path)
        assert found is not None
        assert found == [60.0 * place for place in range(len(found))]
        assert not list(path.parent.glob("*.unreadable-*"))
        kept.append(len(found))
    assert kept == sorted(kept)
    assert kept[0] == 8
    assert kept[-1] == 12


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_byte_that_changed_anywhere_changes_no_number(tmp_path: Path, suffix: str) -> None:
    """It is harmless, or it costs the intervals in the log, or the file is set aside; nothing else is ever read."""
    files = filled(tmp_path / "history.db")
    draw = random.Random(len(suffix))
    anew = 0
    for number in range(30):
        path = tmp_path / f"changed-{number}" / "history.db"
        path.parent.mkdir()
        for each, content in files.items():
            changed = bytearray(content)
            if each == suffix:
                # Most of a small file is empty pages: change what is there.
                place = draw.choice([at for at in draw.sample(range(len(changed)), 200) if changed[at]] or [0])
                changed[place] ^= draw.randrange(1, 256)
            Path(f"{path}{each}").write_bytes(changed)
        found = what_is_found(path)
        anew += found is None
        if found is not None:
            assert found == [60.0 * place for place in range(len(found))]
    assert anew < 30


def test_a_file_that_is_cut_anywhere_is_set_aside_or_whole(tmp_path: Path) -> None:
    with History.open(tmp_path / "history.db") as history:
        history.append([closed(60.0 * number) for number in range(12)])
    content = (tmp_path / "history.db").read_bytes()
    whole = [60.0 * number for number in range(12)]
    for number, length in enumerate(random.Random(2).sample(range(1, len(content)), 20)):
        path = tmp_path / f"cut-{number}" / "history.db"
        path.parent.mkdir()
        path.write_bytes(content[:length])
        if what_is_found(path) == whole:
            # What is missing was empty.
            continue
        asides = [*path.parent.glob("history.db.unreadable-*[0-9Z]")]
        assert len(asides) == 1
        assert asides[0].read_bytes()[:length] == content[:length]


def test_damage_is_noticed_while_running(tmp_path: Path) -> None:
    """The file is spoilt under an open history: the next look says so, and a new history begins."""
    path = tmp_path / "history.db"
    with History.open(path) as history:
        history.append([closed(60.0 * number, pod=f"llama-{pod}") for number in range(30) for pod in range(8)])
        history._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        history._connection.execute("PRAGMA cache_size = 0")
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.seek(2 * 16384)
            file.write(os.urandom(size - 2 * 16384))
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            history.series(KEY, FINGERPRINT, 0.0)
        history.start_anew()
        history.append([closed(0.0)])
    assert len(stored(path)) == 1


def test_a_full_disk_is_an_error_and_no_loss(tmp_path: Path) -> None:
    """SQLite's own limit of pages stands for the disk's: the same code answers both."""
    path = tmp_path / "history.db"
    with History.open(path) as history:
        history.append([closed(60.0 * number) for number in range(8)])
        pages = history._connection.execute("PRAGMA page_count").fetchone()[0]
        history._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(HistoryError, match=r"is the disk full") as full:
            history.append([closed(60.0 * number, pod=f"llama-{pod}") for number in range(8, 99) for pod in range(9)])
        assert not isinstance(full.value, UnreadableHistoryError)
        assert len(stored(path)) == 8
        history._connection.execute("PRAGMA max_page_count = 1000000")
        history.append([closed(480.0)])
    assert len(stored(path)) == 9


def test_a_file_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    """As on a read-only volume; SQLite is told so itself, as a test may run as root, who may write anywhere."""
    path = tmp_path / "history.db"
    with History.open(path) as history:
        history.append([closed(0.0)])
        history._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(HistoryError, match="the volume read-only"):
            history.append([closed(60.0)])
        assert not history.is_closed
    assert len(stored(path)) == 1
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_byte_that_changed_among_the_numbers_is_damage(tmp_path: Path) -> None:
    """SQLite itself does not notice: the pages hang together all the same."""
    files = filled(tmp_path / "history.db")
    with History.open(tmp_path / "whole.db") as history:
        history.append([closed(0.0)])
        (content,) = history._connection.execute("SELECT content FROM observed").fetchone()
    # Rows of other intervals differ in their starts only.
    place = files[""].index(content[-200:]) - len(content) + 200
    for number, offset in enumerate(random.Random(3).sample(range(len(content)), 16)):
        path = tmp_path / f"changed-{number}" / "history.db"
        path.parent.mkdir()
        changed = bytearray(files[""])
        changed[place + offset] ^= 1 << number % 8
        path.write_bytes(changed)
        assert what_is_found(path) is None
