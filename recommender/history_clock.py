"""The moment that history was last forgotten by, in a table of the store: see `horizons`."""

from __future__ import annotations

import sqlite3

from recommender.history_rows import seal, unsealed

SCHEMA = """
CREATE TABLE forgotten (number INTEGER PRIMARY KEY CHECK (number = 1), at REAL NOT NULL, seal INTEGER NOT NULL);
"""


def keep(connection: sqlite3.Connection, at: float) -> None:
    """In seconds since the epoch."""
    row = (1, float(at))
    connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?)", (*row, seal(*row)))


def read(connection: sqlite3.Connection) -> float | None:
    """None of a store of which nothing was forgotten yet. Raises `DamagedRowError`."""
    row = connection.execute("SELECT number, at, seal FROM forgotten").fetchone()
    return None if row is None else float(unsealed(row)[1])
