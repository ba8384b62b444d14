"""The points of the last 30 days, in the tables of the store."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable

from recommender.history_rows import seal, unsealed
from recommender.trends import KEPT_SECONDS, Point, slot_of

SCHEMA = """
CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE points (
    subject INTEGER NOT NULL REFERENCES subjects (id), at REAL NOT NULL,
    used_bytes INTEGER, recommended_bytes INTEGER, requested_bytes INTEGER, original_bytes INTEGER,
    allocatable_bytes INTEGER, seal INTEGER NOT NULL,
    PRIMARY KEY (subject, at)
) WITHOUT ROWID;
CREATE INDEX points_by_age ON points (at);
"""
_AT_ONCE = 1000
_POINT = ", ".join(field.name for field in dataclasses.fields(Point))


def keep(connection: sqlite3.Connection, subject: str, at: float, point: Point) -> None:
    """Store the point of the half hour that `at` is in, in the place of an earlier one."""
    connection.execute("INSERT OR IGNORE INTO subjects (name) VALUES (?)", (subject,))
    (number,) = connection.execute("SELECT id FROM subjects WHERE name = ?", (subject,)).fetchone()
    values = (number, slot_of(at), *dataclasses.astuple(point))
    marks = ", ".join("?" * (len(values) + 1))
    connection.execute(
        f"INSERT OR REPLACE INTO points (subject, at, {_POINT}, seal) VALUES ({marks})", (*values, seal(*values))
    )


def read(connection: sqlite3.Connection, subject: str, since: float) -> tuple[tuple[float, Point], ...]:
    """The points of `subject` from `since` on, with the beginning of each half hour, oldest first.

    Raises `DamagedRowError`.
    """
    rows = connection.execute(
        f"SELECT subject, at, {_POINT}, seal FROM points "
        "WHERE subject = (SELECT id FROM subjects WHERE name = ?) AND at >= ? ORDER BY at",
        (subject, since),
    ).fetchall()
    return tuple((at, Point(*values)) for _, at, *values in map(unsealed, rows))


def total(connection: sqlite3.Connection, since: float, check: Callable[[], None]) -> dict[float, Point]:
    """The points of all subjects together from `since` on, by the beginning of each half hour: sums of what is known.

    `check` is called now and then, and may raise. Raises `DamagedRowError`.
    """
    names = [field.name for field in dataclasses.fields(Point)]
    found: dict[float, dict[str, int]] = {}
    rows = connection.execute(f"SELECT subject, at, {_POINT}, seal FROM points WHERE at >= ?", (since,))
    for number, row in enumerate(rows):
        _, at, *values = unsealed(row)
        sums = found.setdefault(at, {})
        for name, value in zip(names, values, strict=True):
            if value is not None:
                sums[name] = sums.get(name, 0) + value
        if number % _AT_ONCE == 0:
            check()
    return {at: Point(**sums) for at, sums in found.items()}


def forget(connection: sqlite3.Connection, now: float, future: float) -> None:
    """Leave the last 30 days, and nothing from `future` on."""
    connection.execute("DELETE FROM points WHERE at < ? OR at > ?", (now - KEPT_SECONDS, future))
    connection.execute("DELETE FROM subjects WHERE id NOT IN (SELECT subject FROM points)")
