"""The store: what survives, what is set aside, who may write."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import BLOCK_BYTES, KEY, facts, packed

from recommender.histograms import BUCKETS
from recommender.history import History, HistoryReader
from recommender.history_files import HistoryError, HistoryInUseError, UnreadableHistoryError
from recommender.intervals import ClosedInterval, Interval
from recommender.keys import SeriesKey
from recommender.samples import Counters
from recommender.standings import Standing

FINGERPRINT = "f" * 16


def closed(start: float, pod: str = "llama-0", fingerprint: str = FINGERPRINT, requests: int = 7) -> ClosedInterval:
    interval = Interval(
        start=start,
        seconds=60.0,
        covered_seconds=58.5,
        samples=2,
        capacity_bytes=4096 * BLOCK_BYTES,
        active_peak_bytes=5,
        demand_peak_bytes=6,
        requests=requests,
        lookup_tokens=800,
        hit_tokens=400,
        preemptions=1,
        admissions_blocked=2,
        reuse=packed([1, 5, 700, None]),
    )
    counters = Counters(70, 8000, 4000, 1, 2, tuple(range(BUCKETS)))
    key = SeriesKey(KEY, fingerprint, pod, "uid", "0")
    return ClosedInterval(key, facts(), interval, counters, start + 59.0, start + 96 * 60.0)


def stored(path: Path, since: float = 0.0) -> list[Interval]:
    with HistoryReader.open(path) as history:
        return [interval for one in history.series(KEY, FINGERPRINT, since) for interval in one.intervals]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


def test_what_is_stored_is_read_back(path: Path) -> None:
    first, second = closed(0.0), closed(60.0)
    with History.open(path) as history:
        history.append([second, first, closed(0.0, pod="llama-1"), closed(0.0, fingerprint="other")])
        one, other = history.series(KEY, FINGERPRINT, 0.0)
        assert (one.key.pod, other.key.pod) == ("llama-0", "llama-1")
        assert one.facts == first.facts
        assert one.intervals == (first.interval, second.interval)
        assert history.series(KEY, FINGERPRINT, 30.0)[0].intervals == (second.interval,)
        assert history.last_interval_end(KEY, FINGERPRINT) == 120.0
        assert history.last_interval_end(KEY, "never seen") is None
        baseline = history.baseline(first.key)
        assert baseline is not None
        assert baseline.counters == first.counters
    # And again through a connection that only reads.
    assert stored(path) == [first.interval, second.interval, first.interval]


def test_candidates_belong_to_a_policy_and_a_time(path: Path) -> None:
    with History.open(path) as history:
        for at, policy, size in ((1.0, "a", 10), (2.0, "b", 20), (3.0, "a", 30)):
            history.add_candidate(KEY, FINGERPRINT, policy, at, size, at + 100)
        assert history.candidates(KEY, FINGERPRINT, "a", 0.0) == (10, 30)
        assert history.candidates(KEY, FINGERPRINT, "a", 2.0) == (30,)
        assert history.candidates(KEY, "other", "a", 0.0) == ()
        history.prune(102.5)
        assert history.candidates(KEY, FINGERPRINT, "a", 0.0) == (30,)


def test_the_last_valid_policies_are_kept(path: Path) -> None:
    with History.open(path) as history:
        history.remember_policy("default", '{"percentile": 99}')
        history.remember_policy("default", '{"percentile": 95}')
    with History.open(path) as history:
        assert history.policies() == {"default": '{"percentile": 95}'}


def test_what_is_older_than_its_window_goes(path: Path) -> None:
    with History.open(path) as history:
        history.append([closed(0.0), closed(60.0), closed(0.0, pod="gone")])
        history.prune(96 * 60.0 + 30.0)
        (one,) = history.series(KEY, FINGERPRINT, 0.0)
        assert [interval.start for interval in one.intervals] == [60.0]


WRITER = """
import sys, time
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_history import closed
from recommender.history import History
with History.open(Path({path!r})) as history:
    number = 0
    while True:
        history.append([closed(60.0 * number, pod=f"llama-{{pod}}") for pod in range(4)])
        print(number, flush=True)
        number += 1
"""


def test_kill_9_while_writing_loses_nothing_that_was_stored(path: Path) -> None:
    """At whatever byte: an interval is there for all pods or for none, and everything reported as written is there."""
    code = textwrap.dedent(WRITER).format(tests=str(Path(__file__).parent), path=str(path))
    for delay in (0.0, 0.02):
        known = len(stored(path)) // 4 if path.exists() else 0
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        written = 1 + sum(1 for _ in writer.stdout)
        writer.wait()
        writer.stdout.close()
        with History.open(path) as history:
            found = [one.intervals for one in history.series(KEY, FINGERPRINT, 0.0)]
        assert len({len(intervals) for intervals in found}) == 1
        assert known + written <= len(found[0]) <= known + written + 1
    assert not list(path.parent.glob("*.unreadable-*"))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b"no database at all, but long enough to look at" * 50), id="text"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:5000]), id="cut"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:4096] + os.urandom(40000)), id="noise"),
        pytest.param(lambda path: sqlite3.connect(path).executescript("PRAGMA user_version = 99"), id="other release"),
    ],
)
def test_an_unreadable_store_is_set_aside(path: Path, spoil: object, caplog: pytest.LogCaptureFixture) -> None:
    with History.open(path) as history:
        history.append([closed(60.0 * number) for number in range(50)])
    spoil(path)
    spoilt = path.read_bytes()
    with History.open(path) as history:
        assert history.series(KEY, FINGERPRINT, 0.0) == ()
        history.append([closed(0.0)])
    (aside,) = path.parent.glob("history.db.unreadable-*[0-9Z]")
    assert aside.read_bytes() == spoilt
    assert aside.name in caplog.text
    assert "new history begins" in caplog.text
    assert len(stored(path)) == 1


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with History.open(path) as history:
        history.append([closed(0.0)])
    assert not list(path.parent.glob("*.unreadable-*"))


def test_damage_found_later_is_reported_as_such(path: Path) -> None:
    with History.open(path) as history:
        history.append([closed(0.0)])
        history._connection.execute("UPDATE intervals SET reuse = x'00'")
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            history.series(KEY, FINGERPRINT, 0.0)
        aside = history.start_anew()
        assert aside.exists()
        assert history.series(KEY, FINGERPRINT, 0.0) == ()


@pytest.mark.parametrize("column", ["facts", "counters"])
@pytest.mark.parametrize("text", ["{", "[]", "7", "{}", '{"ranks": 1, "reuse": 1}', '{"requests": 1, "reuse": [1]}'])
def test_damaged_text_is_reported_as_damage(path: Path, column: str, text: str) -> None:
    one = closed(0.0)
    with History.open(path) as history:
        history.append([one])
        history._connection.execute(f"UPDATE series SET {column} = ?", (text,))
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            _ = history.series(KEY, FINGERPRINT, 0.0) if column == "facts" else history.baseline(one.key)


def test_counters_with_too_few_buckets_are_damage(path: Path) -> None:
    one = replace(closed(0.0), counters=Counters(1, 2, 3, 4, 5, (1, 2)))
    with History.open(path) as history:
        history.append([one])
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            history.baseline(one.key)


def test_a_new_history_that_cannot_be_begun_at_once_is_begun_later(path: Path) -> None:
    with History.open(path) as history:
        history.append([closed(0.0)])
        with pytest.MonkeyPatch.context() as full:

            def no_space(_: Path) -> sqlite3.Connection:
                raise HistoryError("no space left")

            full.setattr("recommender.history.connect_to_write", no_space)
            with pytest.raises(HistoryError, match="no space left"):
                history.start_anew()
            assert history.is_closed
        history.reopen()
        assert not history.is_closed
        history.append([closed(60.0)])
        assert len(stored(path)) == 1


def test_what_stood_for_a_fingerprint_is_kept_as_long_as_its_series(path: Path) -> None:
    standing = Standing(own_bytes=100, recommended_bytes=60, policy="a")
    with History.open(path) as history:
        history.append([closed(0.0)])
        assert history.standing(KEY, FINGERPRINT) == Standing()
        history.remember_standing(KEY, FINGERPRINT, standing, expires=10.0)
        history.remember_standing(KEY, "canary", replace(standing, recommended_bytes=None), expires=10.0)
        assert history.standing(KEY, FINGERPRINT) == standing
        history.prune(20.0)
        assert history.standing(KEY, FINGERPRINT) == standing
        assert history.standing(KEY, "canary") == Standing()
        history.prune(1e9)
        assert history.standing(KEY, FINGERPRINT) == Standing()


def test_a_history_of_the_first_layout_goes_on(path: Path) -> None:
    with History.open(path) as history:
        history.append([closed(0.0)])
    with contextlib.closing(sqlite3.connect(path)) as former:
        former.executescript("DROP TABLE standings; PRAGMA user_version = 1;")
    with History.open(path) as history:
        history.remember_standing(KEY, FINGERPRINT, Standing(own_bytes=1), expires=1e9)
    assert len(stored(path)) == 1
    assert not list(path.parent.glob("*.unreadable-*"))


def test_a_second_writer_is_refused(path: Path) -> None:
    with History.open(path) as history:
        history.append([closed(0.0)])
        with pytest.raises(HistoryInUseError, match=f"process {os.getpid()}"):
            History.open(path)
        # Readers are welcome.
        assert len(stored(path)) == 1
    History.open(path).close()


def test_paths_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="there is no history"):
        HistoryReader.open(tmp_path / "none.db")
    with pytest.raises(HistoryError, match="cannot be used"):
        History.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError, match="cannot be used"):
        History.open(tmp_path / "file" / "history.db")


def test_a_reader_does_not_take_another_file_for_a_history(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("something else entirely, and long enough for SQLite to look at it" * 20)
    with pytest.raises(HistoryError):
        HistoryReader.open(path)
    assert path.read_text().startswith("something else")


def test_a_series_outlives_its_intervals(path: Path) -> None:
    """The window was cut from 96 minutes to one: what was observed before is not handed to another pod."""
    long = closed(0.0)
    with History.open(path) as history:
        history.append([long])
        history.append([replace(closed(60.0), expires=130.0)])
        history.prune(1000.0)
        history.append([closed(1020.0, pod="another")])
        first, other = history.series(KEY, FINGERPRINT, 0.0)
        assert first.intervals == (long.interval,)
        assert len(other.intervals) == 1
        history.prune(1e9)
        assert history.series(KEY, FINGERPRINT, 0.0) == ()
        assert history.baseline(long.key) is None
