"""Connections to SQLite databases, in processes that fork.

SQLite has locks that all databases of a process share, and tables of the files that it has open. So every call into it
is inside the gate of forks, and a child does not open what another thread had open when it was forked: the child's
SQLite would take locks of that thread for its own. Import it where a database is opened: it brings sqlite3.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import weakref
from collections.abc import Iterable
from typing import Any, Self

from dvfs.store.fork_gate import GATE


def connect(path: str | os.PathLike[str], *, is_idle_at_forks: bool = False, **options: Any) -> sqlite3.Connection:
    """Open the database at *path* as `sqlite3.connect` does.

    *is_idle_at_forks*: its owner sees to it (see `fork_gate`) that it is in no transaction then, and it has no WAL; so
    a child may open the same. Raises OperationalError too where another thread had it open when this process was
    forked.
    """
    name = os.path.abspath(path)
    if name in _INHERITED:
        raise sqlite3.OperationalError("another thread had it open when this process was forked")
    with GATE:
        connection = sqlite3.connect(path, factory=_Connection, **options)
        connection.name = "" if is_idle_at_forks else name
        _OPEN.add(connection)
    return connection


class _Cursor(sqlite3.Cursor):
    def execute(self, *words: Any) -> Self:
        with GATE:
            return super().execute(*words)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Self:
        listed = list(rows)  # outside of the gate: whoever makes them may take long
        with GATE:
            return super().executemany(sql, listed)

    def fetchone(self) -> Any:
        with GATE:
            return super().fetchone()

    def fetchall(self) -> list[Any]:
        with GATE:
            return super().fetchall()

    def __next__(self) -> Any:
        with GATE:
            return super().__next__()

    def close(self) -> None:
        with GATE:
            super().close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # its connection may be closed, or another thread's
            self.close()


class _Connection(sqlite3.Connection):
    name = ""

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(_Cursor)

    def execute(self, *words: Any) -> sqlite3.Cursor:
        return super().cursor(_Cursor).execute(*words)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        return super().cursor(_Cursor).executemany(sql, rows)

    def commit(self) -> None:
        with GATE:
            super().commit()

    def rollback(self) -> None:
        with GATE:
            super().rollback()

    def close(self) -> None:
        with GATE:
            _OPEN.discard(self)
            super().close()

    def __exit__(self, *words: Any) -> Any:
        with GATE:
            return super().__exit__(*words)


_OPEN: weakref.WeakSet[_Connection] = weakref.WeakSet()
_INHERITED: set[str] = set()


def _note_inherited() -> None:
    _INHERITED.update(connection.name for connection in _OPEN if connection.name)


os.register_at_fork(after_in_child=_note_inherited)
