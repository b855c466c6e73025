"""Rows: kept by a kill, changed as a whole or not at all, and the older layers keep what they said."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dvfs.fs.overlay import layers
from dvfs.fs.overlay.rows import Change, Rows
from dvfs.fs.overlay.schema import FIRST_NEW_INODE, Dentry, Node
from dvfs.store.errors import NoSpace

INO = FIRST_NEW_INODE


def node(ino: int = INO, size: int = 0, **more: Any) -> Node:
    return Node(ino, 0, stat.S_IFREG | 0o644, 0, 0, size, 1, 2, 3, 1, **more)


def put(rows: Rows, *nodes: Node) -> None:
    change = Change(rows)
    for row in nodes:
        change.put(row)
    rows.write(change)


def name(rows: Rows, parent: int, text: bytes, ino: int) -> None:
    change = Change(rows)
    change.name(parent, text, ino)
    rows.write(change)


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Rows]:
    """Open the rows in *folder*, and have the process die in the end."""
    rows = Rows(folder, **options)
    try:
        yield rows
    finally:
        rows.connection.close()
        rows.log.close()


def refuse_commit(rows: Rows, patch: pytest.MonkeyPatch) -> list[bool]:
    """Have the database find no room at COMMIT while the list that is returned has something in it."""
    full: list[bool] = []

    class Connection:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, statement: str, values: Any = ()) -> Any:
            if statement == "COMMIT" and full:
                pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
                self._connection.execute("ROLLBACK")
                raise NoSpace(f"no space for {pages} pages")
            return self._connection.execute(statement, values)

    patch.setattr(rows, "connection", Connection(rows.connection))
    return full


@pytest.mark.parametrize("checkpoint_bytes", [1, 300, 1 << 20])
def test_what_was_written_is_there_after_a_kill(tmp_path: Path, checkpoint_bytes: int) -> None:
    with opened(tmp_path, checkpoint_bytes=checkpoint_bytes) as rows:
        for number in range(20):
            put(rows, node(rows.new_inode(), number))
            name(rows, 1, b"%d" % number, INO + number)
        id = rows.new_id()

    with opened(tmp_path) as rows:
        assert [rows.node(INO + number).size for number in range(20)] == list(range(20))  # type: ignore[union-attr]
        assert [row.name for row in rows.listed(1, 0, 99)] == [b"%d" % number for number in range(20)]
        assert rows.new_inode() == INO + 20
        assert rows.new_id() >= id


def test_what_was_noted_is_written_by_a_checkpoint(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        put(rows, node())
        row = rows.node(INO)
        assert row is not None
        rows.note(row._replace(size=5))
        rows.checkpoint()
    with opened(tmp_path) as rows:
        assert rows.node(INO) == row._replace(size=5)


def test_a_checkpoint_without_room_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, checkpoint_bytes=1000) as rows:
        rows.checkpoint()
        full = refuse_commit(rows, monkeypatch)
        full.append(True)
        put(rows, node(rows.new_inode()))
        row = rows.node(INO)
        assert row is not None
        rows.note(row._replace(size=77))
        for number in range(1, 20):
            put(rows, node(rows.new_inode(), number))
        assert 0 < len(caplog.records) < 5  # not again with each change
        assert {record.levelno for record in caplog.records} == {logging.WARNING}
        caplog.clear()
        with pytest.raises(NoSpace):
            rows.checkpoint()
        with pytest.raises(NoSpace):
            rows.begin_layer()
        assert rows.top == 1
        full.clear()
        rows.checkpoint()
        rows._nodes.clear()
        assert rows.node(INO) == row._replace(size=77)
        assert rows.new_inode() == INO + 20

    with opened(tmp_path) as rows:
        assert rows.replayed == 0
        assert rows.node(INO) == row._replace(size=77)
        assert [rows.node(INO + number).size for number in range(1, 20)] == list(range(1, 20))  # type: ignore[union-attr]


def test_many_rows_are_read_through_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvfs.fs.overlay.rows._REMEMBERED", 4)
    with opened(tmp_path) as rows:
        for number in range(30):
            put(rows, node(INO + number))
            name(rows, 1, b"%d" % number, INO + number)
            found = rows.node(INO + number)
            assert found is not None
            rows.note(found._replace(size=number))
        assert [rows.node(INO + number).size for number in range(30)] == list(range(30))  # type: ignore[union-attr]
        assert [rows.dentry(1, b"%d" % number).ino for number in range(30)] == list(range(INO, INO + 30))  # type: ignore[union-attr]


# --- layers


def test_the_first_change_in_a_layer_keeps_what_the_older_one_said(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        put(rows, node(size=1, floor=0))
        name(rows, 1, b"a", INO)
        change = Change(rows)
        change.set_xattr(INO, b"user.x", b"1")
        rows.write(change)
        assert rows.begin_layer() == 1
        for size in (2, 3):
            row = rows.node(INO)
            assert row is not None
            put(rows, row._replace(size=size))
            name(rows, 1, b"a", INO + size)
            change = Change(rows)
            change.set_xattr(INO, b"user.x", b"%d" % size)
            rows.write(change)

        assert rows.node(INO) == node(size=3)._replace(layer=2, floor=None)
        assert [Node._make(row) for row in rows.all("SELECT * FROM old_inodes")] == [
            node(size=1, floor=None)._replace(layer=1)
        ]
        assert [Dentry._make(row)[:4] for row in rows.all("SELECT * FROM old_dentries")] == [(1, b"a", 1, INO)]
        assert rows.all("SELECT * FROM old_xattrs") == [(INO, b"user.x", 1, b"1")]
        assert rows.has_old(1, b"a")
        assert rows.has_old_inode(INO)
        assert not rows.has_old(1, b"b")


def test_a_layer_begins_with_what_was_noted_in_the_one_before(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        put(rows, node())
        row = rows.node(INO)
        assert row is not None
        rows.note(row._replace(size=9))
        rows.begin_layer()
        put(rows, row._replace(size=1))
        assert rows.all("SELECT size FROM old_inodes") == [(9,)]


@pytest.mark.parametrize(
    ("in_version", "frozen", "left"), [(False, False, []), (True, False, [(0,)]), (False, True, [(0,)])]
)
def test_a_name_that_is_taken_away_leaves_a_whiteout_where_something_older_has_it(
    tmp_path: Path, in_version: bool, frozen: bool, left: list[tuple[int]]
) -> None:
    with opened(tmp_path) as rows:
        name(rows, 1, b"a", INO)
        if frozen:
            rows.begin_layer()
        for _ in range(2):
            change = Change(rows)
            change.unname(1, b"a", in_version=in_version)
            rows.write(change)
        assert rows.all("SELECT ino FROM dentries") == left
        found = rows.dentry(1, b"a")
        assert (found is not None) == bool(left)


def test_a_name_given_and_taken_in_one_layer_over_an_older_one_leaves_a_whiteout(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        name(rows, 1, b"a", INO)
        rows.begin_layer()
        name(rows, 1, b"a", INO + 1)
        change = Change(rows)
        change.unname(1, b"a", in_version=False)
        rows.write(change)
        assert rows.all("SELECT ino FROM dentries") == [(0,)]


def test_what_layers_hold_of_a_file_is_told_newest_first(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        put(rows, node(size=50, source=b"s"))
        for floor in (40, None, 20, 10):
            row = rows.node(INO)
            assert row is not None
            change = Change(rows)
            change.put(row, floor=floor)
            rows.write(change)
            rows.begin_layer()
        row = rows.node(INO)
        assert row is not None
        put(rows, row)
        assert rows.lower(INO) == [(4, 10), (3, 20), (1, 40)]


def test_meta_is_kept_from_a_checkpoint_on(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        rows.set_meta(pending="a")
        rows.checkpoint()
        rows.set_meta(pending="b")
    with opened(tmp_path) as rows:
        assert rows.meta("pending") == "a"
        assert rows.meta("none") is None
        assert layers.state(rows).pending == "a"
