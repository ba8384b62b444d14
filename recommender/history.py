"""The embedded store: what was observed, per workload, fingerprint, engine and interval. SQLite in WAL mode.

A committed interval survives `kill -9`; one writer at a time, any number of readers beside it.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from recommender.api.workloads import WorkloadRef
from recommender.histograms import BUCKETS, UnreadableHistogramError, from_blob, to_blob
from recommender.history_files import (
    UnreadableHistoryError,
    connect_to_read,
    connect_to_write,
    set_aside,
    translated,
    writer_lock,
)
from recommender.intervals import ClosedInterval, Interval, Series
from recommender.keys import SeriesKey, WorkloadKey
from recommender.recording import Baseline
from recommender.samples import Counters, EngineFacts, Rank
from recommender.standings import Standing

_INTERVAL_COLUMNS = tuple(field.name for field in dataclasses.fields(Interval))
_ADD_INTERVAL = (
    f"INSERT INTO intervals (series, expires, {', '.join(_INTERVAL_COLUMNS)}) "
    f"VALUES (?, ?{', ?' * len(_INTERVAL_COLUMNS)})"
)
_READ_INTERVALS = f"""
    SELECT series.id, {", ".join(f"intervals.{column}" for column in _INTERVAL_COLUMNS)}
    FROM workloads JOIN series ON series.workload = workloads.id JOIN intervals ON intervals.series = series.id
    WHERE workloads.id = ? AND intervals.start >= ? ORDER BY intervals.start
"""
_Stored = TypeVar("_Stored")
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
        with translated(self.path):
            number = self._workload(workload, fingerprint)
            if number is None:
                return ()
            engines = self._connection.execute(
                "SELECT id, pod, uid, engine, facts FROM series WHERE workload = ? ORDER BY id", (number,)
            ).fetchall()
            rows = self._connection.execute(_READ_INTERVALS, (number, since)).fetchall()
        intervals: dict[int, list[Interval]] = {}
        for row in rows:
            intervals.setdefault(row[0], []).append(self._interval(row[1:]))
        return tuple(
            Series(
                SeriesKey(workload, fingerprint, pod, uid, engine),
                self._parsed(facts, _facts_of),
                tuple(intervals.get(series, ())),
            )
            for series, pod, uid, engine, facts in engines
        )

    def baseline(self, key: SeriesKey) -> Baseline | None:
        """The counters of an engine when its last stored interval ended."""
        with translated(self.path):
            number = self._workload(key.workload, key.fingerprint)
            row = self._connection.execute(
                "SELECT counters, seen_at FROM series WHERE workload = ? AND pod = ? AND uid = ? AND engine = ?",
                (number, key.pod, key.uid, key.engine),
            ).fetchone()
        return None if row is None else Baseline(self._parsed(row[0], _counters_of), row[1])

    def candidates(self, workload: WorkloadKey, fingerprint: str, policy: str, since: float) -> tuple[int, ...]:
        """KV bytes that sizing asked for under a policy (its digest), oldest first."""
        with translated(self.path):
            rows = self._connection.execute(
                "SELECT kv_bytes FROM candidates WHERE workload = ? AND policy = ? AND at >= ? ORDER BY at",
                (self._workload(workload, fingerprint), policy, since),
            ).fetchall()
        return tuple(row[0] for row in rows)

    def standing(self, workload: WorkloadKey, fingerprint: str) -> Standing:
        """What is remembered of a workload under a fingerprint."""
        with translated(self.path):
            row = self._connection.execute(
                "SELECT own_bytes, recommended_bytes, policy FROM standings WHERE workload = ?",
                (self._workload(workload, fingerprint),),
            ).fetchone()
        return Standing() if row is None else Standing(*row)

    def policies(self) -> dict[str, str]:
        """The last valid spec, as JSON, of every policy ever used."""
        with translated(self.path):
            return dict(self._connection.execute("SELECT name, spec FROM policies").fetchall())

    def last_interval_end(self, workload: WorkloadKey, fingerprint: str) -> float | None:
        """When the newest stored interval of a workload ended, in seconds since the epoch."""
        with translated(self.path):
            row = self._connection.execute(
                "SELECT max(start + seconds) FROM intervals WHERE series IN (SELECT id FROM series WHERE workload = ?)",
                (self._workload(workload, fingerprint),),
            ).fetchone()
        end: float | None = row[0]
        return end

    def _workload(self, workload: WorkloadKey, fingerprint: str) -> int | None:
        row = self._connection.execute(
            f"SELECT id FROM workloads WHERE {_WORKLOAD}", _identity(workload, fingerprint)
        ).fetchone()
        return None if row is None else int(row[0])

    def _parsed(self, text: str, parse: Callable[[Any], _Stored]) -> _Stored:
        try:
            return parse(json.loads(text))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnreadableHistoryError(
                f"the history {self.path} is damaged: {type(error).__name__}: {error}"
            ) from error

    def _interval(self, columns: tuple[Any, ...]) -> Interval:
        fields = dict(zip(_INTERVAL_COLUMNS, columns, strict=True))
        try:
            return Interval(**{**fields, "reuse": from_blob(fields["reuse"])})
        except UnreadableHistogramError as error:
            raise UnreadableHistoryError(f"the history {self.path} is damaged: {error}") from error


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
        with translated(self.path), self._transaction():
            for closed in intervals:
                series = self._remember(closed)
                stored = dataclasses.replace(closed.interval, reuse=0)
                values = [getattr(stored, column) for column in _INTERVAL_COLUMNS[:-1]]
                self._connection.execute(
                    _ADD_INTERVAL, (series, closed.expires, *values, to_blob(closed.interval.reuse))
                )

    def add_candidate(
        self, workload: WorkloadKey, fingerprint: str, policy: str, at: float, kv_bytes: int, expires: float
    ) -> None:
        """Remember what sizing asked for, so that a size sinks only when it has been asked for less for a while."""
        with translated(self.path), self._transaction():
            self._connection.execute(
                "INSERT INTO candidates (workload, policy, at, kv_bytes, expires) VALUES (?, ?, ?, ?, ?)",
                (self._made_workload(workload, fingerprint), policy, at, kv_bytes, expires),
            )

    def remember_standing(self, workload: WorkloadKey, fingerprint: str, standing: Standing, expires: float) -> None:
        """Keep what holds of a workload under a fingerprint, as long as its series at least."""
        with translated(self.path), self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO standings (workload, own_bytes, recommended_bytes, policy, expires) "
                "VALUES (?, ?, ?, ?, ?)",
                (self._made_workload(workload, fingerprint), *dataclasses.astuple(standing), expires),
            )

    def remember_policy(self, name: str, spec: str) -> None:
        """Keep the last valid spec of a policy."""
        with translated(self.path), self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO policies (name, spec) VALUES (?, ?)", (name, spec))

    def prune(self, now: float) -> None:
        """Forget what is older than the window it was observed for."""
        with translated(self.path), self._transaction():
            for table in ("intervals", "candidates"):
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

    def _transaction(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _remember(self, closed: ClosedInterval) -> int:
        key = closed.key
        row = self._connection.execute(
            """
            INSERT INTO series (workload, pod, uid, engine, facts, counters, seen_at, expires)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (workload, pod, uid, engine) DO UPDATE SET
                facts = excluded.facts, counters = excluded.counters, seen_at = excluded.seen_at,
                expires = max(expires, excluded.expires)
            RETURNING id
            """,
            (
                self._made_workload(key.workload, key.fingerprint),
                key.pod,
                key.uid,
                key.engine,
                json.dumps(dataclasses.asdict(closed.facts)),
                json.dumps(dataclasses.asdict(closed.counters)),
                closed.seen_at,
                closed.expires,
            ),
        ).fetchone()
        return int(row[0])

    def _made_workload(self, workload: WorkloadKey, fingerprint: str) -> int:
        number = self._workload(workload, fingerprint)
        if number is not None:
            return number
        made = self._connection.execute(
            "INSERT INTO workloads (namespace, owner_group, kind, name, container, fingerprint) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            _identity(workload, fingerprint),
        ).lastrowid
        assert made is not None
        return made


def _identity(workload: WorkloadKey, fingerprint: str) -> tuple[str, ...]:
    owner: WorkloadRef = workload.workload
    return (workload.namespace, owner.group, owner.kind, owner.name, workload.container, fingerprint)


def _facts_of(fields: Any) -> EngineFacts:
    return EngineFacts(**{**fields, "ranks": tuple(Rank(**rank) for rank in fields["ranks"])})


def _counters_of(fields: Any) -> Counters:
    counters = Counters(**{**fields, "reuse": tuple(fields["reuse"])})
    if len(counters.reuse) != BUCKETS:
        raise ValueError(f"{len(counters.reuse)} buckets instead of {BUCKETS}")
    return counters
