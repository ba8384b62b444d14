"""What happened to recommendations during the last 30 days, in the tables of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from recommender.changes import Change
from recommender.history_rows import seal, unsealed
from recommender.trends import KEPT_SECONDS

MOST = 100
"""Of one workload: what goes back and forth for days must not fill the disk."""
SCHEMA = """
CREATE TABLE changes (
    number INTEGER PRIMARY KEY, subject TEXT NOT NULL, at REAL NOT NULL, content TEXT NOT NULL, seal INTEGER NOT NULL
);
CREATE INDEX changes_by_subject ON changes (subject, number);
CREATE INDEX changes_by_age ON changes (at);
"""


def keep(connection: sqlite3.Connection, subject: str, changes: Iterable[Change]) -> None:
    """Store `changes` behind what is there of `subject`, and leave the newest of it."""
    rows = [(subject, change.at, change.to_text()) for change in changes]
    if not rows:
        return
    connection.executemany(
        "INSERT INTO changes (subject, at, content, seal) VALUES (?, ?, ?, ?)", [(*row, seal(*row)) for row in rows]
    )
    connection.execute(
        "DELETE FROM changes WHERE subject = ? AND number <= "
        "(SELECT number FROM changes WHERE subject = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (subject, subject, MOST),
    )


def read(connection: sqlite3.Connection, subject: str) -> tuple[Change, ...]:
    """What is kept of `subject`, oldest first. Raises `DamagedRowError`."""
    rows = connection.execute(
        "SELECT subject, at, content, seal FROM changes WHERE subject = ? ORDER BY number", (subject,)
    ).fetchall()
    return tuple(Change.from_text(unsealed(row)[2]) for row in rows)


def forget(connection: sqlite3.Connection, now: float) -> None:
    """Leave the last 30 days."""
    connection.execute("DELETE FROM changes WHERE at < ?", (now - KEPT_SECONDS,))
