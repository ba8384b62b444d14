"""The embedded store: what was observed, per workload, fingerprint, engine and interval. SQLite in WAL mode.

A committed interval survives `kill -9`; one writer at a time, any number of readers beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from recommender import history_changes, history_clock, history_trends
from recommender.changes import Change
from recommender.history_files import (
    UnreadableHistoryError,
    connect_to_read,
    connect_to_write,
    set_aside,
    translated,
    writer_lock,
)
from recommender.history_rows import (
    Content,
    DamagedRowError,
    counters_blob,
    counters_of,
    facts_of,
    facts_text,
    from_contents,
    identity,
    seal,
    to_content,
    unsealed,
)
from recommender.intervals import ClosedInterval, Columns, Series
from recommender.keys import SeriesKey, WorkloadKey
from recommender.recording import Baseline
from recommender.standings import Memory, Standing
from recommender.trends import Point

_OBSERVED = "workload, newest, expires, engines, width, content, seal"
_SERIES = "workload, pod, uid, engine, facts, seen_at, counters, seal"
_MERGED_ROWS = 8
_AHEAD_SECONDS = 3 * 86_400.0
"""Further ahead nothing can have been observed, whatever the time zone that somebody took for another."""
_Found = TypeVar("_Found")
_WORKLOAD = "namespace = ? AND owner_group = ? AND kind = ? AND name = ? AND container = ? AND fingerprint = ?"


class HistoryReader:
    """Read access, also while a recommender writes. Open with `HistoryReader.open`, or see `History`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises `HistoryError` where there is no history, or none that can be read."""
        return cls(path, connect_to_read(path))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def series(self, workload: WorkloadKey, fingerprint: str, since: float) -> tuple[Series, ...]:
        """Every engine of `workload` seen under `fingerprint`, with its intervals that began at `since` or later."""

        def found() -> tuple[Series, ...]:
            with self._connection:
                # One view of the file: another process may store a new engine's interval between two statements.
                self._connection.execute("BEGIN")
                return self._series(self._workload(workload, fingerprint), workload, fingerprint, since)

        return self._read(found)

    def baseline(self, key: SeriesKey) -> Baseline | None:
        """The counters of an engine when its last stored interval ended."""
        return self._read(lambda: self._baseline(key))

    def remembered(
        self, workload: WorkloadKey, fingerprint: str, since: float, policy: str, lately: float
    ) -> tuple[tuple[Series, ...], tuple[int, ...], Standing]:
        """What an evaluation starts from, all of one moment: `series` from `since` on, `candidates` from `lately` on,
        and `standing`."""

        def found() -> tuple[tuple[Series, ...], tuple[int, ...], Standing]:
            with self._connection:
                self._connection.execute("BEGIN")
                number = self._workload(workload, fingerprint)
                series = self._series(number, workload, fingerprint, since)
                return series, self._candidates(number, policy, lately), self._standing(number)

        return self._read(found)

    def candidates(self, workload: WorkloadKey, fingerprint: str, policy: str, since: float) -> tuple[int, ...]:
        """KV bytes that sizing asked for under a policy (its digest), oldest first."""
        return self._read(lambda: self._candidates(self._workload(workload, fingerprint), policy, since))

    def standing(self, workload: WorkloadKey, fingerprint: str) -> Standing:
        """What is remembered of a workload under a fingerprint."""
        return self._read(lambda: self._standing(self._workload(workload, fingerprint)))

    def policies(self) -> dict[str, str]:
        """The last valid spec, as JSON, of every policy ever used."""

        def found() -> dict[str, str]:
            rows = self._connection.execute("SELECT name, spec, seal FROM policies").fetchall()
            return dict(unsealed(row) for row in rows)

        return self._read(found)

    def last_interval_end(self, workload: WorkloadKey, fingerprint: str) -> float | None:
        """When the newest stored interval of a workload ended, in seconds since the epoch."""

        def found() -> float | None:
            # What begins last may be shorter than what began before: the newest few are looked at.
            rows = self._connection.execute(
                f"SELECT {_OBSERVED} FROM observed WHERE workload = ? ORDER BY newest DESC LIMIT 4",
                (self._workload(workload, fingerprint),),
            ).fetchall()
            _, columns = from_contents(Content(*row[3:]) for row in map(unsealed, rows))
            return float(columns.ends.max()) if len(columns) else None

        return self._read(found)

    def forgotten_at(self) -> float | None:
        """The moment that `prune` was last told; None where it never was."""
        return self._read(lambda: history_clock.read(self._connection))

    def trend(self, subject: str, since: float) -> tuple[tuple[float, Point], ...]:
        """What is kept of a workload (`str` of its key), or of the cluster, for 30 days: see `history_trends.read`."""
        return self._read(lambda: history_trends.read(self._connection, subject, since))

    def changes(self, workload: WorkloadKey) -> tuple[Change, ...]:
        """What happened to a workload's recommendation during the last 30 days, oldest first."""
        return self._read(lambda: history_changes.read(self._connection, str(workload)))

    def total_trend(self, since: float, check: Callable[[], None]) -> dict[float, Point]:
        """The same of everything together: see `history_trends.total`."""
        return self._read(lambda: history_trends.total(self._connection, since, check))

    def _candidates(self, number: int | None, policy: str, since: float) -> tuple[int, ...]:
        rows = self._connection.execute(
            "SELECT workload, policy, at, kv_bytes, seal FROM candidates "
            "WHERE workload = ? AND policy = ? AND at >= ? ORDER BY at",
            (number, policy, since),
        ).fetchall()
        return tuple(unsealed(row)[3] for row in rows)

    def _standing(self, number: int | None) -> Standing:
        row = self._connection.execute(
            "SELECT workload, own_bytes, recommended_bytes, policy, seal FROM standings WHERE workload = ?", (number,)
        ).fetchone()
        return Standing() if row is None else Standing(*unsealed(row)[1:])

    def _series(self, number: int | None, workload: WorkloadKey, fingerprint: str, since: float) -> tuple[Series, ...]:
        if number is None:
            return ()
        engines = self._connection.execute(
            f"SELECT id, {_SERIES} FROM series WHERE workload = ? ORDER BY id", (number,)
        ).fetchall()
        rows = self._connection.execute(
            f"SELECT {_OBSERVED} FROM observed WHERE workload = ? AND newest >= ? ORDER BY newest", (number, since)
        ).fetchall()
        owners, columns = from_contents(Content(*row[3:]) for row in map(unsealed, rows))
        # Engine by engine, each in order of time.
        order = (columns.rows["start"] >= since).nonzero()[0]
        order = order[np.argsort(owners[order], kind="stable")]
        owners, columns = owners[order], columns.taken(order)
        numbers = [engine[0] for engine in engines]
        first, last = np.searchsorted(owners, numbers), np.searchsorted(owners, numbers, side="right")
        if int((last - first).sum()) != len(owners):
            raise DamagedRowError("intervals of an engine that is not known")
        found = []
        for (_, *engine), begin, end in zip(engines, first.tolist(), last.tolist(), strict=True):
            _, pod, uid, name, facts, _, _ = unsealed(engine)
            key = SeriesKey(workload, fingerprint, pod, uid, name)
            found.append(Series(key, facts_of(facts), columns[begin:end]))
        return tuple(found)

    def _baseline(self, key: SeriesKey) -> Baseline | None:
        row = self._connection.execute(
            f"SELECT {_SERIES} FROM series WHERE workload = ? AND pod = ? AND uid = ? AND engine = ?",
            (self._workload(key.workload, key.fingerprint), key.pod, key.uid, key.engine),
        ).fetchone()
        if row is None:
            return None
        *_, seen_at, counters = unsealed(row)
        return Baseline(counters_of(counters), seen_at)

    def _workload(self, workload: WorkloadKey, fingerprint: str) -> int | None:
        row = self._connection.execute(
            f"SELECT id FROM workloads WHERE {_WORKLOAD}", identity(workload, fingerprint)
        ).fetchone()
        return None if row is None else int(row[0])

    def _read(self, look: Callable[[], _Found]) -> _Found:
        """What `look` finds; damage of any kind as `UnreadableHistoryError`."""
        with _damage(self.path), translated(self.path):
            return look()


class History(HistoryReader):
    """The one writer of a store."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: ExitStack) -> None:
        super().__init__(path, connection)
        self._lock = lock
        self.is_closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the store. An unreadable one is set aside with a message.

        Raises `HistoryInUseError` where another recommender holds it, `HistoryError` where the path cannot be used.
        """
        with ExitStack() as lock:
            lock.enter_context(writer_lock(path))
            return cls(path, connect_to_write(path), lock.pop_all())

    def close(self) -> None:
        super().close()
        self.is_closed = True
        self._lock.close()

    def start_anew(self) -> Path:
        """Set the present file aside and begin an empty one; the name of the old.

        Raises `HistoryError` where none can be begun now: then `reopen` is for later.
        """
        # SQLite removes side files by their names: the old one is closed before the names belong to the new one.
        self._connection.close()
        self.is_closed = True
        aside = set_aside(self.path)
        self.reopen()
        return aside

    def reopen(self) -> None:
        """Open the store again, a new one where there is none. Raises `HistoryError`."""
        self._connection = connect_to_write(self.path)
        self.is_closed = False

    def append(self, intervals: Iterable[ClosedInterval]) -> None:
        """Store intervals and where their counters stood, all or none."""

        def place(closed: ClosedInterval) -> tuple[WorkloadKey, str, float, float]:
            return (closed.key.workload, closed.key.fingerprint, closed.interval.start, closed.expires)

        given = list(intervals)
        # Counting goes on from the one that came last, wherever a clock that was set back has put its interval.
        newest = {closed.key: closed for closed in given}
        with self._transaction():
            for (workload, fingerprint, start, expires), group in itertools.groupby(sorted(given, key=place), place):
                together = list(group)
                number = self._made_workload(workload, fingerprint)
                engines = [self._remember(number, newest[closed.key], expires) for closed in together]
                columns = Columns.of(closed.interval for closed in together)
                self._observed(number, float(start), float(expires), engines, columns, merged=False)
                self._merge(number)

    def remember(self, memories: Iterable[Memory]) -> None:
        """Keep what a round of evaluations leaves behind, all or nothing."""
        with self._transaction():
            for one in memories:
                number = self._made_workload(one.workload, one.fingerprint)
                if one.candidate_bytes is not None:
                    candidate = (number, one.policy, float(one.at), one.candidate_bytes)
                    self._insert("candidates", candidate, one.candidate_expires)
                if one.standing is not None:
                    self._insert("standings", (number, *dataclasses.astuple(one.standing)), one.standing_expires)
                if one.point is not None:
                    history_trends.keep(self._connection, str(one.workload), one.at, one.point)
                history_changes.keep(self._connection, str(one.workload), one.changes)

    def keep_point(self, subject: str, at: float, point: Point) -> None:
        """Keep what a dashboard shows of `subject` at one moment."""
        with self._transaction():
            history_trends.keep(self._connection, subject, at, point)

    def remember_policy(self, name: str, spec: str) -> None:
        """Keep the last valid spec of a policy."""
        with self._transaction():
            self._insert("policies", (name, spec))

    def prune(self, now: float, latest: float | None = None) -> None:
        """Forget what is older at `now` than the window it was observed for, and what was observed long after `latest`:
        no clock says any more that it is so late."""
        with self._transaction():
            history_clock.keep(self._connection, now)
            future = (now if latest is None else latest) + _AHEAD_SECONDS
            # It expires later still, and of that there is an index.
            self._connection.execute("DELETE FROM observed WHERE expires > ? AND newest > ?", (future, future))
            self._connection.execute("DELETE FROM candidates WHERE expires > ? AND at > ?", (future, future))
            for table in ("observed", "candidates"):
                self._connection.execute(f"DELETE FROM {table} WHERE expires < ?", (now,))
            # A series lasts as long as its last interval: its number must not be given to another before.
            self._connection.execute("DELETE FROM series WHERE expires < ?", (now,))
            self._connection.execute(
                "DELETE FROM standings WHERE expires < ? AND workload NOT IN (SELECT workload FROM series)", (now,)
            )
            self._connection.execute(
                "DELETE FROM workloads WHERE id NOT IN (SELECT workload FROM series) "
                "AND id NOT IN (SELECT workload FROM candidates) AND id NOT IN (SELECT workload FROM standings)"
            )
            history_trends.forget(self._connection, now, future)
            history_changes.forget(self._connection, now)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _damage(self.path), translated(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def _insert(self, table: str, sealed: tuple[Any, ...], *others: Any) -> None:
        values = (*sealed, seal(*sealed), *others)
        self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def _observed(
        self, workload: int, newest: float, expires: float, engines: Sequence[int], columns: Columns, merged: bool
    ) -> None:
        self._insert("observed", (workload, newest, expires, *to_content(engines, columns)), merged)

    def _merge(self, workload: int) -> None:
        """Put the oldest single rows of a workload together: a window is read from a dozen rows, not from a hundred.

        Not of all workloads at once.
        """
        single = "FROM observed WHERE workload = ? AND NOT merged"
        (waiting,) = self._connection.execute(f"SELECT count(*) {single}", (workload,)).fetchone()
        if waiting < _MERGED_ROWS + workload % _MERGED_ROWS:
            return
        oldest = self._connection.execute(
            f"SELECT rowid, {_OBSERVED} {single} ORDER BY newest LIMIT {_MERGED_ROWS}", (workload,)
        ).fetchall()
        found = [unsealed(row) for _, *row in oldest]
        engines, columns = from_contents(Content(*row[3:]) for row in found)
        self._connection.executemany("DELETE FROM observed WHERE rowid = ?", [row[:1] for row in oldest])
        newest, expires = max(row[1] for row in found), max(row[2] for row in found)
        self._observed(workload, newest, expires, engines.tolist(), columns, merged=True)
        # An engine that went away is known for as long as a row has intervals of it.
        self._connection.executemany(
            "UPDATE series SET expires = ? WHERE id = ? AND expires < ?",
            [(expires, engine, expires) for engine in set(engines.tolist())],
        )

    def _remember(self, workload: int, closed: ClosedInterval, expires: float) -> int:
        """The number of an engine, of which `closed` came last."""
        key = closed.key
        engine = (workload, key.pod, key.uid, key.engine, facts_text(closed.facts), float(closed.seen_at))
        sealed = (*engine, counters_blob(closed.counters))
        row = self._connection.execute(
            f"""
            INSERT INTO series ({_SERIES}, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (workload, pod, uid, engine) DO UPDATE SET
                facts = excluded.facts, counters = excluded.counters, seen_at = excluded.seen_at,
                seal = excluded.seal, expires = max(expires, excluded.expires)
            RETURNING id
            """,
            (*sealed, seal(*sealed), float(expires)),
        ).fetchone()
        return int(row[0])

    def _made_workload(self, workload: WorkloadKey, fingerprint: str) -> int:
        number = self._workload(workload, fingerprint)
        if number is not None:
            return number
        made = self._connection.execute(
            "INSERT INTO workloads (namespace, owner_group, kind, name, container, fingerprint) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            identity(workload, fingerprint),
        ).lastrowid
        assert made is not None
        return made


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Rows that do not say what was once written, as an error with the file's name."""
    try:
        yield
    except DamagedRowError as error:
        raise UnreadableHistoryError(f"the history {path} is damaged: {error}") from error
