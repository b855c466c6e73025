"""What the rows of an overlay said at a layer: read by who commits or looks, while the mount goes on.

Thread-safe: one connection under a lock, in one read transaction, so nothing that is written later is seen.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvfs.fs.overlay.contents import Held, Stack
from dvfs.fs.overlay.rows import DATABASE
from dvfs.fs.overlay.schema import FIRST_NEW_INODE, Committed, Dentry, Node, connect, decode_source, get_meta
from dvfs.fs.view import ROOT_INODE, View
from dvfs.store.database import database_errors

Key = tuple[int, bytes]
"""Parent and name."""

_LISTED_AT_ONCE = 1024
_REMEMBERED = 1 << 14


class Snapshot:
    """The rows of the overlay in *folder*, over the version of *view*, which may wait for the store."""

    def __init__(self, folder: Path, view: View) -> None:
        self._path = folder / DATABASE
        self.view = view
        self._lock = threading.Lock()
        self._connection = connect(self._path, read_only=True)
        with database_errors(self._path):
            self._connection.execute("BEGIN")
        self.committed: int = self.meta("committed") or 0
        self.top: int = self.meta("top") or 1
        self._paths: dict[tuple[int, int], bytes | None] = {}

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def meta(self, key: str) -> Any:
        """Return the value of *key* in meta."""
        with self._lock, database_errors(self._path):
            return get_meta(self._connection, key)

    def all(self, query: str, *values: object) -> list[Any]:
        """Return the rows of *query*."""
        with self._lock, database_errors(self._path):
            return self._connection.execute(query, values).fetchall()

    # --- rows at a layer

    def node(self, ino: int, layer: int) -> Node | None:
        """Return what was known of *ino* at *layer*: its row, or what the version says; None for nothing."""
        rows = self.all("SELECT * FROM inodes WHERE ino = ? AND layer <= ?", ino, layer) or self.all(
            "SELECT * FROM old_inodes WHERE ino = ? AND layer <= ? ORDER BY layer DESC LIMIT 1", ino, layer
        )
        if rows:
            return Node._make(rows[0])
        if ino >= FIRST_NEW_INODE:
            return None
        _, mode, size, mtime_ns = self.view.getattr(ino)
        return Node(ino, 0, mode, -1, -1, size, mtime_ns, mtime_ns, mtime_ns, 1)

    def dentry(self, key: Key, layer: int) -> Dentry | None:
        """Return the row of *key* at *layer*, a whiteout too; None when there was none."""
        rows = self.all("SELECT * FROM dentries WHERE parent = ? AND name = ? AND layer <= ?", *key, layer) or self.all(
            "SELECT * FROM old_dentries WHERE parent = ? AND name = ? AND layer <= ? ORDER BY layer DESC LIMIT 1",
            *key,
            layer,
        )
        return Dentry._make(rows[0]) if rows else None

    def child(self, key: Key, layer: int) -> int:
        """Return the inode that *key* stood for at *layer*, 0 for nothing."""
        row = self.dentry(key, layer)
        if row is not None:
            return row.ino
        parent, name = key
        if parent >= FIRST_NEW_INODE:
            return 0
        found = self.view.lookup(parent, name)
        return 0 if found is None else found.inode

    def children(self, ino: int, layer: int) -> Iterator[tuple[bytes, int]]:
        """Yield name and inode of what directory *ino* held at *layer*."""
        told: set[bytes] = set()
        for query in (
            "SELECT * FROM dentries WHERE parent = ? AND layer <= ? AND name > ? ORDER BY name LIMIT ?",
            "SELECT * FROM old_dentries o WHERE parent = ? AND layer <= ? AND name > ? AND NOT EXISTS (SELECT 1 FROM"
            " old_dentries n WHERE n.parent = o.parent AND n.name = o.name AND n.layer > o.layer AND n.layer <= ?2)"
            " ORDER BY name LIMIT ?",
        ):
            after = b""
            while rows := self.all(query, ino, layer, after, _LISTED_AT_ONCE):
                for row in map(Dentry._make, rows):
                    after = row.name
                    if row.name not in told:
                        told.add(row.name)
                        if row.ino:
                            yield row.name, row.ino
        if ino < FIRST_NEW_INODE:
            for child in self.view.readdir(ino, 2):
                if child.name not in told:
                    yield child.name, child.attributes.inode

    # --- where things are

    def homes(self, ino: int, layer: int) -> list[Key]:
        """Return the keys that stood for *ino* at *layer*."""
        rows = self.all(
            "SELECT parent, name FROM dentries WHERE ino = ?1 AND layer <= ?2"
            " UNION SELECT parent, name FROM old_dentries WHERE ino = ?1 AND layer <= ?2",
            ino,
            layer,
        )
        homes = [key for key in rows if self.child(key, layer) == ino]
        if ROOT_INODE < ino < FIRST_NEW_INODE:
            key = self.view.parent_of(ino), self.view.name_of(ino)
            if key not in homes and self.dentry(key, layer) is None:
                homes.append(key)
        return homes

    def path(self, ino: int, layer: int) -> bytes | None:
        """Return the path of directory *ino* at *layer*; None when it had none: it was removed, or was not there."""
        unknown: list[tuple[int, bytes]] = []  # a tree may be deeper than Python calls itself
        while (found := self._known(ino, layer)) == b"" and ino != ROOT_INODE:
            homes = self.homes(ino, layer)
            if not homes:
                found = self._paths[ino, layer] = None
                break
            unknown.append((ino, homes[0][1]))
            ino = homes[0][0]
        if len(self._paths) + len(unknown) >= _REMEMBERED:
            self._paths.clear()
        for below, name in reversed(unknown):
            if found is not None:
                found = found + b"/" + name if found else name
            self._paths[below, layer] = found
        return found

    def _known(self, ino: int, layer: int) -> bytes | None:
        """Return what is remembered of `path`; b"" when nothing is, and of the root."""
        return self._paths.get((ino, layer), b"")

    def path_of(self, key: Key, layer: int) -> bytes | None:
        """Return the path of *key* at *layer*; None when its directory had none."""
        parent = self.path(key[0], layer)
        if parent is None:
            return None
        return parent + b"/" + key[1] if parent else key[1]

    def touched_keys(self, after: int, upto: int) -> Iterator[Key]:
        """Yield the keys with rows of layers above *after* up to *upto*."""
        yield from self._touched("parent, name", "dentries", after, upto)

    def touched_inodes(self, after: int, upto: int) -> Iterator[int]:
        """Yield the inodes with rows of layers above *after* up to *upto*."""
        for (ino,) in self._touched("ino", "inodes", after, upto):
            yield ino

    def _touched(self, columns: str, table: str, after: int, upto: int) -> Iterator[Any]:
        query = (
            f"SELECT {columns} FROM {table} WHERE layer > ?1 AND layer <= ?2"
            f" UNION SELECT {columns} FROM old_{table} WHERE layer > ?1 AND layer <= ?2"
        )
        yield from self.all(query, after, upto)

    # --- bytes

    def below(self, node: Node) -> Committed | None:
        """Return what a version has of the file *node*, under all layers; None for nothing."""
        if node.source is not None:
            return decode_source(node.source)
        if node.is_new:
            return None
        entry = self.view.entry(node.ino)
        return Committed(entry.size, entry.digest, entry.content)

    def stack(self, node: Node, layer: int) -> Stack:
        """Return what the file *node* was made of at *layer*."""
        rows = self.all(
            "SELECT layer, floor FROM inodes WHERE ino = ?1 AND layer <= ?2 AND floor NOT NULL"
            " UNION SELECT layer, floor FROM old_inodes WHERE ino = ?1 AND layer <= ?2 AND floor NOT NULL"
            " ORDER BY layer DESC",
            node.ino,
            layer,
        )
        return Stack(node.ino, node.size, tuple(Held(*row) for row in rows), self.below(node))


def is_special(mode: int) -> bool:
    """Tell whether *mode* is of a kind that no version keeps: fifos, sockets, devices."""
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
