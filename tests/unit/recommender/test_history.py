"""The store: what survives, what is set aside, who may write."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import BLOCK_BYTES, KEY, facts, packed

from recommender.histograms import BUCKETS, pack
from recommender.history import History, HistoryReader
from recommender.history_files import HistoryError, HistoryInUseError, UnreadableHistoryError
from recommender.history_rows import seal
from recommender.intervals import ClosedInterval, Interval
from recommender.keys import SeriesKey
from recommender.samples import Counters
from recommender.standings import Memory, Standing

FINGERPRINT = "f" * 16
NOTHING = Memory(KEY, FINGERPRINT, "", 0.0, None, 0.0, None, 0.0)


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
    counters = Counters(70, 8000, 4000, 1, 2, pack(range(BUCKETS)))
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
        assert list(one.intervals) == [first.interval, second.interval]
        assert list(history.series(KEY, FINGERPRINT, 30.0)[0].intervals) == [second.interval]
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
            history.remember([replace(NOTHING, policy=policy, at=at, candidate_bytes=size, candidate_expires=at + 100)])
        assert history.candidates(KEY, FINGERPRINT, "a", 0.0) == (10, 30)
        assert history.candidates(KEY, FINGERPRINT, "a", 2.0) == (30,)
        assert history.candidates(KEY, "other", "a", 0.0) == ()
        history.prune(102.5)
        assert history.candidates(KEY, FINGERPRINT, "a", 0.0) == (30,)


def test_what_was_asked_for_by_a_clock_far_ahead_holds_nothing_back(path: Path) -> None:
    with History.open(path) as history:
        for at, size in ((100.0, 10), (400 * 86_400.0, 99)):
            history.remember([replace(NOTHING, policy="a", at=at, candidate_bytes=size, candidate_expires=at + 100)])
        history.prune(150.0)
        assert history.candidates(KEY, FINGERPRINT, "a", 0.0) == (10,)


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


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE observed SET content = x'00'",
        "UPDATE observed SET content = zeroblob(length(content))",
        "UPDATE observed SET width = 4",
        "UPDATE observed SET newest = newest + 60",
        "UPDATE series SET facts = replace(facts, '16', '32')",
        "UPDATE series SET counters = x'00'",
        "UPDATE series SET uid = 'another'",
        "UPDATE series SET id = id + 1",
        "UPDATE candidates SET kv_bytes = kv_bytes + 1",
        "UPDATE standings SET own_bytes = own_bytes - 1",
        "UPDATE standings SET recommended_bytes = NULL",
        "UPDATE policies SET spec = '{}'",
    ],
)
def test_a_changed_value_is_damage(path: Path, damage: str) -> None:
    """Whatever of a row has changed: never another number, always a history that begins anew."""
    with History.open(path) as history:
        history.append([closed(0.0)])
        history.remember([replace(NOTHING, candidate_bytes=7, candidate_expires=1e9, standing=Standing(8, 9, "a"))])
        history.remember_policy("default", '{"percentile": 99}')
        history._connection.execute(damage)
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            (
                history.series(KEY, FINGERPRINT, 0.0),
                history.candidates(KEY, FINGERPRINT, "", 0.0),
                history.standing(KEY, FINGERPRINT),
                history.policies(),
            )
        aside = history.start_anew()
        assert aside.exists()
        assert history.series(KEY, FINGERPRINT, 0.0) == ()


@pytest.mark.parametrize("blob", [b"", b"123", bytes(8 * 150), b"x" * 4000])
def test_counters_of_another_length_are_damage(path: Path, blob: bytes) -> None:
    """Also where the checksum is right: another release wrote them."""
    one = closed(0.0)
    with History.open(path) as history:
        history.append([one])
        row = history._connection.execute("SELECT workload, pod, uid, engine, facts, seen_at FROM series").fetchone()
        history._connection.execute("UPDATE series SET counters = ?, seal = ?", (blob, seal(*row, blob)))
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            history.baseline(one.key)


@pytest.mark.parametrize("text", ["{", "[]", "7", "{}", '{"ranks": 1}', '{"ranks": [{"rank": 1}]}'])
def test_facts_that_say_something_else_are_damage(path: Path, text: str) -> None:
    with History.open(path) as history:
        history.append([closed(0.0)])
        columns = "workload, pod, uid, engine, seen_at, counters"
        workload, pod, uid, engine, *rest = history._connection.execute(f"SELECT {columns} FROM series").fetchone()
        right = seal(workload, pod, uid, engine, text, *rest)
        history._connection.execute("UPDATE series SET facts = ?, seal = ?", (text, right))
        with pytest.raises(UnreadableHistoryError, match="damaged"):
            history.series(KEY, FINGERPRINT, 0.0)


def test_intervals_of_engines_of_several_widths_are_read_together(path: Path) -> None:
    """A quiet hour takes two bytes a bucket, a busy one four: the numbers are the same."""
    quiet = closed(0.0)
    loud = replace(closed(60.0), interval=replace(closed(60.0).interval, reuse=1_000_000 * quiet.interval.reuse))
    with History.open(path) as history:
        history.append([quiet])
        history.append([loud, closed(60.0, pod="llama-1")])
        widths = history._connection.execute("SELECT width FROM observed ORDER BY newest").fetchall()
        assert widths == [(2,), (2,)]
        first, second = history.series(KEY, FINGERPRINT, 0.0)
        assert list(first.intervals) == [quiet.interval, loud.interval]
        assert list(second.intervals) == [closed(60.0).interval]


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
        kept = replace(NOTHING, standing=standing, standing_expires=10.0)
        other = replace(kept, fingerprint="canary", standing=replace(standing, recommended_bytes=None))
        history.remember([kept, other])
        assert history.standing(KEY, FINGERPRINT) == standing
        history.prune(20.0)
        assert history.standing(KEY, FINGERPRINT) == standing
        assert history.standing(KEY, "canary") == Standing()
        history.prune(1e9)
        assert history.standing(KEY, FINGERPRINT) == Standing()


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
        assert list(first.intervals) == [long.interval]
        assert len(other.intervals) == 1
        history.prune(1e9)
        assert history.series(KEY, FINGERPRINT, 0.0) == ()
        assert history.baseline(long.key) is None


def test_an_engine_is_known_for_as_long_as_a_row_has_intervals_of_it(path: Path) -> None:
    """Whoever looks further back than its window meets it in rows that were put together with later ones."""
    with History.open(path) as history:
        history.append([closed(0.0, pod="gone"), closed(0.0)])
        for place in range(1, 12):
            history.append([closed(60.0 * place)])
        history.prune(closed(0.0).expires + 1.0)
        gone, other = sorted(history.series(KEY, FINGERPRINT, 0.0), key=lambda one: one.key.pod)
        assert (gone.key.pod, len(gone.intervals), len(other.intervals)) == ("gone", 1, 12)
        history.prune(closed(60.0 * 7).expires + 1.0)
        (other,) = history.series(KEY, FINGERPRINT, 0.0)
        assert len(other.intervals) == 4


def test_a_look_is_one_of_one_moment(path: Path) -> None:
    """A recommender that stores the first interval of a new pod between two statements of a reader does no damage."""
    with History.open(path) as history:
        history.append([closed(0.0)])

        def written_between(statement: str) -> None:
            if "FROM observed" in statement:
                history.append([closed(60.0, pod="new")])

        with HistoryReader.open(path) as reader:
            reader._connection.set_trace_callback(written_between)
            (one,) = reader.series(KEY, FINGERPRINT, 0.0)
            assert one.key.pod == "llama-0"
        assert len(stored(path)) == 2


def test_counting_goes_on_from_what_came_last(path: Path) -> None:
    """A clock that was set back puts it before what waits with it."""
    earlier, later = closed(120.0), closed(60.0)
    later = replace(later, counters=replace(later.counters, requests=71))
    with History.open(path) as history:
        history.append([earlier, later])
        baseline = history.baseline(later.key)
        assert baseline is not None
        assert baseline.counters == later.counters


def test_old_rows_are_put_together_and_read_as_before(path: Path) -> None:
    pods = [f"llama-{number}" for number in range(3)]
    with History.open(path) as history:
        for place in range(40):
            history.append([closed(60.0 * place, pod=pod, requests=place) for pod in pods])
        count = "SELECT count(*) FROM observed WHERE merged = ?"
        merged, single = (history._connection.execute(count, (which,)).fetchone()[0] for which in (1, 0))
        assert merged >= 3
        assert 8 * merged + single == 40
        for since in (0.0, 59.0, 60.0, 420.0, 480.0, 481.0, 2000.0, 2400.0):
            expected = [closed(60.0 * place, requests=place).interval for place in range(40) if 60.0 * place >= since]
            found = history.series(KEY, FINGERPRINT, since)
            assert [one.key.pod for one in found] == pods
            assert [list(one.intervals) for one in found] == [expected] * 3
        assert history.last_interval_end(KEY, FINGERPRINT) == 2400.0
