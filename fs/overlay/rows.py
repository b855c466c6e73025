"""The rows of a live overlay: read through memory, changed as a whole or not at all.

A change goes to the log, then to the database, in a transaction that stays open until `checkpoint`: so it is cheap, and
a kill loses nothing. Belongs to one thread, but for `sync_log`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dvfs.fs.overlay.log import Log, Statement
from dvfs.fs.overlay.reserve import RESERVE_BYTES, Reserve
from dvfs.fs.overlay.schema import FIRST_NEW_INODE, Dentry, Node, connect, get_meta
from dvfs.store.database import database_errors
from dvfs.store.errors import DvfsError, NoSpace

_log = logging.getLogger(__name__)

DATABASE = "overlay.db"
LOG = "log"
RESERVE = "reserve"
_CHECKPOINT_BYTES = 4 << 20
_REMEMBERED = 1 << 16
_LOW_BYTES = 64 << 20
"""With less room on the disk than this, the database takes over what the log has while that fits into the reserve."""
_CHANGES_IN_RESERVE = RESERVE_BYTES // (8 * 4096)
"""A change touches at most so many pages, but for long names and targets."""

_PUT_INODE, _KEEP_INODE, _DROP_INODE, _PUT_DENTRY, _KEEP_DENTRY, _DROP_DENTRY = range(6)
_PUT_XATTR, _KEEP_XATTR, _DROP_XATTR, _DROP_XATTRS = range(6, 10)
_STATEMENTS = (
    f"INSERT OR REPLACE INTO inodes VALUES ({','.join('?' * len(Node._fields))})",
    "INSERT OR IGNORE INTO old_inodes SELECT * FROM inodes WHERE ino = ?",
    "DELETE FROM inodes WHERE ino = ?",
    "INSERT OR REPLACE INTO dentries VALUES (?,?,?,?,?)",
    "INSERT OR IGNORE INTO old_dentries SELECT * FROM dentries WHERE parent = ? AND name = ?",
    "DELETE FROM dentries WHERE parent = ? AND name = ?",
    "INSERT OR REPLACE INTO xattrs VALUES (?,?,?,?)",
    "INSERT OR IGNORE INTO old_xattrs SELECT * FROM xattrs WHERE ino = ? AND name = ?",
    "DELETE FROM xattrs WHERE ino = ? AND name = ?",
    "DELETE FROM xattrs WHERE ino = ?",
)
"""Their numbers stand in logs: a new one goes to the end."""


class Change:
    """Rows to be written together, at the layer *top*."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.statements: list[Statement] = []
        self.nodes: dict[int, Node | None] = {}
        self.dentries: dict[tuple[int, bytes], Dentry | None] = {}

    def put(self, node: Node, *, floor: int | None = None) -> Node:
        """Have *node* stand as it is, in the top layer; return it so. *floor*: the layer holds bytes of it from now."""
        top = self._rows.top
        if node.layer != top:
            if node.layer:
                self.statements.append((_KEEP_INODE, (node.ino,)))
            node = node._replace(layer=top, floor=None)  # what older layers hold of its bytes stays theirs
        if floor is not None:
            node = node._replace(floor=floor)
        self.statements.append((_PUT_INODE, tuple(node)))
        self.nodes[node.ino] = node
        return node

    def drop(self, node: Node) -> None:
        """Forget *node*, which has no name any more, and of which no older layer says anything."""
        self.statements += [(_DROP_INODE, (node.ino,)), (_DROP_XATTRS, (node.ino,))]
        self.nodes[node.ino] = None

    def name(self, parent: int, name: bytes, ino: int, id: int | None = None) -> None:
        """Have *name* in *parent* stand for *ino*; 0: for nothing, whatever the version has there."""
        self._keep(parent, name)
        row = Dentry(parent, name, self._rows.top, ino, self._rows.new_id() if id is None else id)
        self.statements.append((_PUT_DENTRY, tuple(row)))
        self.dentries[parent, name] = row

    def unname(self, parent: int, name: bytes, *, in_version: bool) -> None:
        """Have nothing stand for *name* in *parent*; *in_version*: whether the version has that name."""
        old = self._rows.dentry(parent, name)
        if in_version or (old is not None and old.layer != self._rows.top) or self._rows.has_old(parent, name):
            self.name(parent, name, 0, 0)
        elif old is not None:
            self.statements.append((_DROP_DENTRY, (parent, name)))
            self.dentries[parent, name] = None

    def set_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Give *ino* the extended attribute *name*; None takes it away."""
        found = self._rows.xattr(ino, name)
        if found is not None and found[0] != self._rows.top:
            self.statements.append((_KEEP_XATTR, (ino, name)))
        self.statements.append((_PUT_XATTR, (ino, name, self._rows.top, value)))

    def _keep(self, parent: int, name: bytes) -> None:
        old = self._rows.dentry(parent, name)
        if old is not None and old.layer != self._rows.top:
            self.statements.append((_KEEP_DENTRY, (parent, name)))


class Rows:
    """The rows of the overlay in *folder*. *top*: the layer that is written now. Raises as `schema.connect`, `Log`."""

    def __init__(self, folder: Path, *, checkpoint_bytes: int = _CHECKPOINT_BYTES) -> None:
        self._path = folder / DATABASE
        self._checkpoint_bytes = checkpoint_bytes
        self._nodes: dict[int, Node | None] = {}
        self._dentries: dict[tuple[int, bytes], Dentry | None] = {}
        self._unsaved: dict[int, Node] = {}
        self._checkpoint_at = checkpoint_bytes
        self._changes = 0
        self.reserve = Reserve(folder / RESERVE)
        self.reserve.give_up()
        self.connection = connect(self._path)
        self._open()
        self.log = Log(folder / LOG, self.meta("serial") or 0)
        self.replayed = self._replay()

    def _open(self) -> None:
        with database_errors(self._path):
            self.connection.execute("BEGIN IMMEDIATE")
        self.top: int = self.meta("top") or 1
        self._next_ino: int = self.meta("next_ino") or FIRST_NEW_INODE
        self._next_id: int = self.meta("next_id") or 1

    def _replay(self) -> int:
        number = 0
        with database_errors(self._path):
            for statements in self.log.replay():
                number += 1
                for which, values in statements:
                    self.connection.execute(_STATEMENTS[which], values)
                    first: Any = values[0]
                    if which == _PUT_INODE and first >= self._next_ino:
                        self._next_ino = first + 1
                    elif which == _PUT_DENTRY and (last := values[-1]) >= self._next_id:  # type: ignore[operator]
                        self._next_id = last + 1  # type: ignore[operator]
        return number

    # --- what stands there

    def meta(self, key: str) -> Any:
        """Return the value of *key* in meta, None when it has none."""
        with database_errors(self._path):
            return get_meta(self.connection, key)

    def set_meta(self, **values: object) -> None:
        """Set *values* in meta. Kept from the next checkpoint on."""
        with database_errors(self._path):
            self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", list(values.items()))

    def node(self, ino: int) -> Node | None:
        """Return the row of *ino*, None when it has none."""
        try:
            return self._nodes[ino]
        except KeyError:
            pass
        row = self.one("SELECT * FROM inodes WHERE ino = ?", ino)
        return self._remember(ino, None if row is None else Node._make(row))

    def dentry(self, parent: int, name: bytes) -> Dentry | None:
        """Return the row of *name* in *parent*, a whiteout too; None when it has none."""
        key = parent, name
        try:
            return self._dentries[key]
        except KeyError:
            pass
        row = self.one("SELECT * FROM dentries WHERE parent = ? AND name = ?", parent, name)
        if len(self._dentries) >= _REMEMBERED:
            self._dentries.clear()
        found = self._dentries[key] = None if row is None else Dentry._make(row)
        return found

    def has_old(self, parent: int, name: bytes) -> bool:
        """Tell whether *name* in *parent* has rows of older layers."""
        if self.top == 1:
            return False
        return self.one("SELECT 1 FROM old_dentries WHERE parent = ? AND name = ?", parent, name) is not None

    def has_old_inode(self, ino: int) -> bool:
        """Tell whether *ino* has rows of older layers."""
        return self.top > 1 and self.one("SELECT 1 FROM old_inodes WHERE ino = ?", ino) is not None

    def listed(self, parent: int, after: int, limit: int) -> list[Dentry]:
        """Return the names that the overlay gives *parent*, in order of their ids, from above *after* on."""
        rows = self.all(
            "SELECT * FROM dentries WHERE parent = ? AND id > ? AND ino <> 0 ORDER BY id LIMIT ?", parent, after, limit
        )
        return [Dentry._make(row) for row in rows]

    def covered(self, parent: int, first: bytes, last: bytes) -> set[bytes]:
        """Return those names from *first* to *last* of which the overlay says what they stand for in *parent*."""
        rows = self.all("SELECT name FROM dentries WHERE parent = ? AND name BETWEEN ? AND ?", parent, first, last)
        return {name for (name,) in rows}

    def names_of(self, ino: int) -> list[tuple[int, bytes]]:
        """Return parent and name of each name that the overlay gives *ino*."""
        return self.all("SELECT parent, name FROM dentries WHERE ino = ?", ino)

    def xattr(self, ino: int, name: bytes) -> tuple[int, bytes | None] | None:
        """Return layer and value of the extended attribute *name* of *ino*; None when it has no row."""
        found: tuple[int, bytes | None] | None = self.one(
            "SELECT layer, value FROM xattrs WHERE ino = ? AND name = ?", ino, name
        )
        return found

    def xattrs(self, ino: int) -> list[bytes]:
        """Return the names of the extended attributes of *ino*."""
        return [name for (name,) in self.all("SELECT name FROM xattrs WHERE ino = ? AND value NOT NULL", ino)]

    def lower(self, ino: int) -> list[tuple[int, int]]:
        """Return layer and floor of the older layers that hold bytes of *ino*, the newest first."""
        return self.all("SELECT layer, floor FROM old_inodes WHERE ino = ? AND floor NOT NULL ORDER BY layer DESC", ino)

    def has_rows_above(self, layer: int, *, but_directories: bool = False) -> bool:
        """Tell whether layers above *layer* say anything; with *but_directories* not of attributes of directories."""
        inodes = "layer > ?1" + (" AND nlink > 0 AND mode & 61440 <> 16384" if but_directories else "")
        found = self.one(
            "SELECT EXISTS (SELECT 1 FROM dentries WHERE layer > ?1) OR EXISTS (SELECT 1 FROM xattrs WHERE layer > ?1)"
            f" OR EXISTS (SELECT 1 FROM inodes WHERE {inodes})",
            layer,
        )
        return bool(found[0])

    def above(self, table: str, layer: int) -> list[Any]:
        """Return the rows of *table* that layers above *layer* wrote."""
        return self.all(f"SELECT * FROM {table} WHERE layer > ?", layer)

    def one(self, query: str, *values: object) -> Any:
        """Return the first row of *query*."""
        with database_errors(self._path):
            return self.connection.execute(query, values).fetchone()

    def all(self, query: str, *values: object) -> list[Any]:
        """Return the rows of *query*."""
        with database_errors(self._path):
            return self.connection.execute(query, values).fetchall()

    # --- changes

    def new_inode(self) -> int:
        """Return a number that no inode had."""
        self._next_ino += 1
        return self._next_ino - 1

    def new_id(self) -> int:
        """Return a number for a dentry, higher than all before."""
        self._next_id += 1
        return self._next_id - 1

    def write(self, change: Change, *, removes: bool = False) -> None:
        """Make *change*. Raises NoSpace, and then nothing is changed; one that *removes* may use what is reserved."""
        if not removes and not self.reserve.hold_again():
            raise NoSpace(f"no space for {self._path}")
        try:
            self.log.append(change.statements, removes=removes)
        except NoSpace:
            if not self.log.bytes:
                raise
            self.checkpoint()
            if not removes and self.reserve.is_missing:
                raise
            self.log.append(change.statements, removes=removes)
        with database_errors(self._path):
            execute = self.connection.execute
            for which, values in change.statements:
                execute(_STATEMENTS[which], values)
        for ino, node in change.nodes.items():
            self._unsaved.pop(ino, None)
            self._remember(ino, node)
        self._dentries.update(change.dentries)
        if self._should_checkpoint():
            try:
                self.checkpoint()
            except NoSpace as exc:  # the log has it all, and goes on
                _log.warning("%s", exc.message)
                self._checkpoint_at = self.log.bytes + self._checkpoint_bytes // 4

    def _should_checkpoint(self) -> bool:
        self._changes += 1
        if self.log.bytes >= self._checkpoint_at:
            return True
        if self._checkpoint_at > self._checkpoint_bytes:
            return False  # there was no room for the last one
        return self._changes % _CHANGES_IN_RESERVE == 0 and self._is_low()

    def _is_low(self) -> bool:
        disk = os.fstatvfs(self.log.fileno())
        return disk.f_bavail * disk.f_frsize < _LOW_BYTES

    def note(self, node: Node) -> None:
        """Have *node* stand as it is in memory alone; `save` writes it. After a kill its data file tells the size."""
        self._nodes[node.ino] = self._unsaved[node.ino] = node

    def save(self, inos: Iterable[int] | None = None) -> None:
        """Write what was noted, of *inos* only if given."""
        nodes = self._unsaved.values() if inos is None else [self._unsaved[ino] for ino in inos if ino in self._unsaved]
        change = Change(self)
        for node in list(nodes):
            change.put(node)
        if change.statements:
            self.write(change, removes=True)

    def checkpoint(self) -> None:
        """Have the database hold all, whatever happens to the machine; the log starts anew.

        Where there is little space, the reserve is used. Raises NoSpace, Unavailable; then all is as it was, but what
        the log does not have: `set_meta` and `execute`.
        """
        is_low = self._is_low()
        if is_low:
            self.reserve.give_up()
        try:
            self._commit()
            if is_low:
                self._empty_wal()
        finally:
            self.reserve.hold_again()
        self._unsaved.clear()
        self._checkpoint_at = self._checkpoint_bytes
        self.log.restart()
        with database_errors(self._path):
            self.connection.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        self._save_all()
        try:
            with database_errors(self._path):
                self.set_meta(serial=self.log.serial, top=self.top, next_ino=self._next_ino, next_id=self._next_id)
                self.connection.execute("COMMIT")
        except DvfsError:
            if not self.connection.in_transaction:  # SQLite took all back
                self._make_again()
            raise

    def _empty_wal(self) -> None:
        """Move what SQLite's own log holds to where it belongs, so that the next checkpoint finds room there."""
        try:
            with database_errors(self._path):
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except NoSpace as exc:
            _log.warning("%s", exc.message)

    def begin_layer(self) -> int:
        """Begin a new layer; return the one that ends. Raises as `checkpoint`; then none began."""
        ended = self.top
        self.top += 1
        try:
            self.checkpoint()
        except BaseException:
            self.top = ended
            raise
        return ended

    def forget_memory(self) -> None:
        """Forget what was read: rows were changed otherwise. What was noted stays; `save` it before if those change."""
        self._nodes = dict(self._unsaved)
        self._dentries.clear()

    def execute(self, statements: Iterable[tuple[str, tuple[object, ...]]]) -> None:
        """Run *statements* that no log has, on all that was noted; a checkpoint must follow."""
        self.save()
        self.forget_memory()
        with database_errors(self._path):
            for statement, values in statements:
                self.connection.execute(statement, values)

    def rewrite(self, statements: Iterable[tuple[str, tuple[object, ...]]]) -> None:
        """Run *statements* that no log has, as a whole or not at all, whatever happens to the machine.

        Raises as `checkpoint`; then nothing is changed.
        """
        self.save()  # so that the log has all that is in memory alone
        self.forget_memory()
        try:
            self.execute(statements)
            self.checkpoint()
        except BaseException:
            with database_errors(self._path):
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
            self.forget_memory()
            self._make_again()
            raise

    def close(self) -> None:
        """Write all, and let go."""
        try:
            self.checkpoint()
        finally:
            self.connection.close()
            self.log.close()

    def _make_again(self) -> None:
        """Begin a transaction of all that the log has since the last checkpoint."""
        self._open()
        self.log.rewind(self.meta("serial") or 0)
        self._replay()

    def _save_all(self) -> None:
        with database_errors(self._path):
            for node in self._unsaved.values():
                self.connection.execute(_STATEMENTS[_PUT_INODE], tuple(node))

    def _remember(self, ino: int, node: Node | None) -> Node | None:
        if len(self._nodes) >= _REMEMBERED + len(self._unsaved):
            self._nodes = dict(self._unsaved)
        self._nodes[ino] = node
        return node
