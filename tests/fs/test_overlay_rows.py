"""The rows of an overlay: what memory alone holds is lost by nothing but a kill."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from dvfs.fs.overlay.rows import Change, Rows
from dvfs.fs.overlay.schema import Node
from dvfs.store.errors import NoSpace


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path)


class _Full:
    """A connection whose disk is full when it commits: SQLite takes all back then."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement != "COMMIT":
            return self._connection.execute(statement, *values)
        self._connection.execute("ROLLBACK")
        full = sqlite3.OperationalError("database or disk is full")
        full.sqlite_errorname = "SQLITE_FULL"
        raise full


def _file(rows: Rows) -> Node:
    change = Change(rows)
    made = change.put(Node(rows.new_inode(), rows.top, stat.S_IFREG | 0o644, 0, 0, 0, 1, 1, 1, 1))
    change.name(1, b"file", made.ino)
    rows.write(change)
    return made


def test_statements_hold_over_what_was_noted_before(rows: Rows) -> None:
    made = _file(rows)
    rows.note(made._replace(size=7))
    rows.execute([("UPDATE inodes SET source = ? WHERE ino = ?", (b"elsewhere", made.ino))])
    rows.forget_memory()
    rows.checkpoint()
    assert rows.node(made.ino) == made._replace(size=7, source=b"elsewhere")
    rows.close()


def test_what_was_noted_outlives_a_checkpoint_that_fails(rows: Rows, tmp_path: Path) -> None:
    made = _file(rows)
    rows.checkpoint()
    rows.note(made._replace(size=7))
    connection = rows.connection
    rows.connection = cast("sqlite3.Connection", _Full(connection))
    with pytest.raises(NoSpace):
        rows.checkpoint()
    rows.connection = connection
    rows.forget_memory()
    rows.checkpoint()
    rows.close()
    again = Rows(tmp_path)
    assert again.node(made.ino) == made._replace(size=7)
    again.close()
