"""The file under the history: opened, locked against a second writer, set aside where it cannot be read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from recommender import history_changes, history_clock, history_trends

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 5
_PAGE_BYTES = 16384
"""A row holds an interval of all pods of a workload: some kilobytes."""
_SCHEMA = (
    """
CREATE TABLE workloads (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL, owner_group TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    container TEXT NOT NULL, fingerprint TEXT NOT NULL,
    UNIQUE (namespace, owner_group, kind, name, container, fingerprint)
);
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    workload INTEGER NOT NULL REFERENCES workloads (id),
    pod TEXT NOT NULL, uid TEXT NOT NULL, engine TEXT NOT NULL,
    facts TEXT NOT NULL, seen_at REAL NOT NULL, counters BLOB NOT NULL, seal INTEGER NOT NULL, expires REAL NOT NULL,
    UNIQUE (workload, pod, uid, engine)
);
CREATE INDEX series_by_age ON series (expires);
CREATE TABLE observed (
    workload INTEGER NOT NULL REFERENCES workloads (id),
    newest REAL NOT NULL, expires REAL NOT NULL,
    engines INTEGER NOT NULL, width INTEGER NOT NULL, content BLOB NOT NULL, seal INTEGER NOT NULL,
    merged INTEGER NOT NULL
);
CREATE INDEX observed_by_workload ON observed (workload, newest);
CREATE INDEX observed_single ON observed (workload) WHERE NOT merged;
CREATE INDEX observed_by_age ON observed (expires);
CREATE TABLE candidates (
    workload INTEGER NOT NULL REFERENCES workloads (id),
    policy TEXT NOT NULL, at REAL NOT NULL, kv_bytes INTEGER NOT NULL, seal INTEGER NOT NULL, expires REAL NOT NULL
);
CREATE INDEX candidates_by_workload ON candidates (workload, policy, at);
CREATE INDEX candidates_by_age ON candidates (expires);
CREATE TABLE standings (
    workload INTEGER PRIMARY KEY REFERENCES workloads (id),
    own_bytes INTEGER NOT NULL, recommended_bytes INTEGER, policy TEXT, seal INTEGER NOT NULL, expires REAL NOT NULL
);
CREATE TABLE policies (name TEXT PRIMARY KEY, spec TEXT NOT NULL, seal INTEGER NOT NULL);
"""
    + history_trends.SCHEMA
    + history_changes.SCHEMA
    + history_clock.SCHEMA
)
_STEPS = {3: history_changes.SCHEMA, 4: history_clock.SCHEMA}
"""From a layout to the next one."""
_SPOILT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)
_SPOILT_WORDS = ("no such table", "no such column", "Could not decode")
"""Our statements fit our layout, and we write text: where they do not any more, what is in the file has changed."""
_LONGEST_HOLDER = 300
_SIDE_FILES = ("", "-wal", "-shm")


class HistoryError(Exception):
    """The store cannot be used; the message says why and what to do."""


class HistoryInUseError(HistoryError):
    """Another recommender writes to this store."""


class VolumeError(HistoryError):
    """The volume takes nothing at this moment: it is full, or read-only."""


class UnreadableHistoryError(HistoryError):
    """The store's content cannot be trusted."""


def is_spoilt(error: sqlite3.Error) -> bool:
    """Does `error` say that the file is damaged, rather than out of reach, locked or full?"""
    # The low byte is the primary code, the rest says where it happened.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SPOILT or str(error).startswith(_SPOILT_WORDS)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with the file's name."""
    try:
        yield
    except UnicodeDecodeError as error:
        # SQLite's message about a spoilt layout quotes it.
        raise UnreadableHistoryError(f"the history {path} is damaged: {error}") from error
    except sqlite3.Error as error:
        if is_spoilt(error):
            raise UnreadableHistoryError(f"the history {path} is damaged: {error}") from error
        kind = VolumeError if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_ROOM else HistoryError
        raise kind(f"the history {path} cannot be used: {error}; is the disk full, or the volume read-only?") from error


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Raises `HistoryError`."""
    if not path.is_file():
        raise HistoryError(f"there is no history at {path}: name the file that the recommender writes (--history)")
    with translated(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        _require_version(connection, path)
    return connection


def connect_to_write(path: Path) -> sqlite3.Connection:
    """The one connection that writes; a new store where there is none, or none that can be read.

    Raises `HistoryError` where the path cannot be used at all. Call with the writer's lock held.
    """
    try:
        return _opened(path)
    except UnreadableHistoryError as error:
        aside = set_aside(path)
        logger.error("%s; it was set aside as %s and a new history begins: recommendations wait for data", error, aside)
        return _opened(path)


def set_aside(path: Path) -> Path:
    """Rename the store and what SQLite keeps beside it; the new name of the store."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.unreadable-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.unreadable-{stamp}-{number}")
    for suffix in _SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


@contextlib.contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the store for writing; the kernel gives the lock back when the process ends, however it ends.

    Raises `HistoryInUseError` where another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        kind = VolumeError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else HistoryError
        raise kind(f"the history {path} cannot be used: {error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, _LONGEST_HOLDER).decode(errors="replace").strip() or "unknown"
            raise HistoryInUseError(
                f"the history {path} is in use by another recommender (process {holder}): "
                "stop that one, or give this one a history of its own"
            ) from error
        os.ftruncate(handle, 0)
        # In pods every process is number 1: the pod's name tells them apart.
        os.write(handle, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> sqlite3.Connection:
    with translated(path):
        # It may be opened in one thread, and is then used in another.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            # In WAL mode NORMAL loses nothing when the process dies, and never the file's integrity.
            connection.execute("PRAGMA synchronous = NORMAL")
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
            for version in range(_version(connection), _SCHEMA_VERSION):
                if version in _STEPS:
                    connection.executescript(f"BEGIN; {_STEPS[version]} PRAGMA user_version = {version + 1}; COMMIT;")
            _require_version(connection, path)
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise UnreadableHistoryError(f"the history {path} is damaged: {found}")
        except BaseException:
            connection.close()
            raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@functools.cache
def _layout() -> frozenset[str]:
    """How a new store describes itself."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _described(connection)


def _described(connection: sqlite3.Connection) -> frozenset[str]:
    return frozenset(row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL"))


def _require_version(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection)
    if version == _SCHEMA_VERSION and _described(connection) != _layout():
        raise UnreadableHistoryError(f"the history {path} is damaged: its tables are not those that were made")
    if version != _SCHEMA_VERSION:
        raise UnreadableHistoryError(
            f"the history {path} has layout {version}, this release reads {_SCHEMA_VERSION}: "
            "it is no history, or another release wrote it"
        )
