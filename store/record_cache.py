"""The local cache of records: by id and ETag, so that listing fetches only what changed. SQLite, one file a store.

Thread-safe. Losing the file costs requests, nothing else; a file that cannot be used is done without.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

_TIMEOUT_SECONDS = 10.0


class RecordCache:
    """Bodies of records in the file *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def get_all(self) -> dict[str, tuple[str, bytes]]:
        """Return id → (etag, body) of every record here."""
        with self._lock:
            try:
                rows = self._open().execute("SELECT id, etag, body FROM record").fetchall()
            except _errors():
                return {}
        return {name: (etag, body) for name, etag, body in rows}

    def get(self, version: str) -> tuple[str, bytes] | None:
        """Return (etag, body) of one record."""
        with self._lock:
            try:
                found = self._open().execute("SELECT etag, body FROM record WHERE id = ?", (version,)).fetchone()
            except _errors():
                return None
        return None if found is None else (found[0], found[1])

    def put(self, records: Iterable[tuple[str, str, bytes]]) -> None:
        """Keep *records*: id, etag, body."""
        with self._lock:
            try:
                database = self._open()
                with database:
                    database.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", records)
            except _errors():
                return  # a full or read-only disk: the next listing fetches again

    def remove(self, versions: Iterable[str]) -> None:
        """Forget the records of *versions*."""
        with self._lock:
            try:
                database = self._open()
                with database:
                    database.executemany("DELETE FROM record WHERE id = ?", [(version,) for version in versions])
            except _errors():
                return

    @property
    def fork_lock(self) -> threading.Lock:
        """What a fork waits for: under it, all is done."""
        return self._lock

    def before_fork(self) -> None:
        """Close the file, which a child must not have open through its parent; the next use opens it again."""
        self._disconnect()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            from dvfs.store.connections import connect
            from dvfs.store.fork_gate import GATE

            self._path.parent.mkdir(parents=True, exist_ok=True)
            GATE.add(self)
            self._database = connect(self._path, timeout=_TIMEOUT_SECONDS, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, etag TEXT, body BLOB)")
        return self._database


def _errors() -> tuple[type[Exception], ...]:
    import sqlite3

    return (sqlite3.Error, OSError)
