"""The tables of an overlay, its rows, and how they are opened.

    inodes     what is known of an inode now: attributes, and where its bytes come from
    dentries   names that the overlay gives, now; ino 0: a name that is there no more (a whiteout)
    xattrs     extended attributes, now; value NULL: removed
    old_…      what a row said in an older *layer* that is still needed: until it is committed, or to undo
    meta       counters, and what the overlay lies on

Each row carries the layer it was written in. A freeze begins a new layer; the first change of a row in a new layer
keeps the older row in the table of old ones. What a key said at layer L is its newest row of a layer up to L.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dvfs.store.catalog.entry import Content
from dvfs.store.change import decode_content, encode_content
from dvfs.store.database import database_errors
from dvfs.store.errors import Corrupt, UnsupportedFormat

if TYPE_CHECKING:
    import sqlite3

SCHEMA_VERSION = 1
EDITED = "edited"
"""In meta 0 when nothing but times of directories differs from the version; mounted again, it shows them."""
FIRST_NEW_INODE = 1 << 48
"""Inodes below it are entries of the version that was mounted: rank + 1."""

_INODE = (
    "ino INTEGER, layer INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,"
    " size INTEGER NOT NULL, atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,"
    " nlink INTEGER NOT NULL, rdev INTEGER NOT NULL, target BLOB NOT NULL, source BLOB, floor INTEGER,"
    " set_mtime INTEGER"
)
_DENTRY = (
    "parent INTEGER NOT NULL, name BLOB NOT NULL, layer INTEGER NOT NULL, ino INTEGER NOT NULL, id INTEGER NOT NULL"
)
_XATTR = "ino INTEGER NOT NULL, name BLOB NOT NULL, layer INTEGER NOT NULL, value BLOB"
_TABLES = (
    f"CREATE TABLE inodes ({_INODE}, PRIMARY KEY (ino))",
    f"CREATE TABLE old_inodes ({_INODE}, PRIMARY KEY (ino, layer)) WITHOUT ROWID",
    f"CREATE TABLE dentries ({_DENTRY}, PRIMARY KEY (parent, name)) WITHOUT ROWID",
    f"CREATE TABLE old_dentries ({_DENTRY}, PRIMARY KEY (parent, name, layer)) WITHOUT ROWID",
    f"CREATE TABLE xattrs ({_XATTR}, PRIMARY KEY (ino, name)) WITHOUT ROWID",
    f"CREATE TABLE old_xattrs ({_XATTR}, PRIMARY KEY (ino, name, layer)) WITHOUT ROWID",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE INDEX dentries_by_ino ON dentries (ino) WHERE ino <> 0",
    "CREATE INDEX dentries_by_id ON dentries (parent, id) WHERE ino <> 0",
    "CREATE INDEX old_dentries_by_ino ON old_dentries (ino) WHERE ino <> 0",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class Node(NamedTuple):
    """A row of inodes. A tuple, because it is one.

    *layer*: that wrote it; 0 stands for an entry of the version without a row. *mode*: with type bits. *size* in
    bytes, times in ns since the epoch. *target*: of a symbolic link. *source*: where bytes come from that the overlay
    does not have, see `encode_source`; None: the version's entry, nothing for a new inode. *floor*: None when this
    layer holds no bytes of the file; else it holds some, and bytes at or above *floor* that it does not hold are zeros,
    whatever lies below. *set_mtime_ns*: of a directory, the mtime that somebody set; a version keeps that one.
    """

    ino: int
    layer: int
    mode: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    nlink: int
    rdev: int = 0
    target: bytes = b""
    source: bytes | None = None
    floor: int | None = None
    set_mtime_ns: int | None = None

    @property
    def is_new(self) -> bool:
        """Whether the overlay made it: the version has no entry of this number."""
        return self.ino >= FIRST_NEW_INODE


class Dentry(NamedTuple):
    """A row of dentries. *ino* 0: nothing has this name. *id*: where it stands in a listing."""

    parent: int
    name: bytes
    layer: int
    ino: int
    id: int


class Committed(NamedTuple):
    """The bytes of a file in a version that was committed: *size* in bytes, *digest*, and where they are."""

    size: int
    digest: bytes
    content: Content


_SOURCE = struct.Struct("<Q32s")


def encode_source(committed: Committed) -> bytes:
    """Return *committed* as the `source` of a row."""
    return _SOURCE.pack(committed.size, committed.digest) + encode_content(committed.content)


def decode_source(data: bytes) -> Committed:
    """Return what `encode_source` made *data* of. Raises Corrupt."""
    try:
        size, digest = _SOURCE.unpack_from(data)
    except struct.error as exc:
        raise Corrupt(f"a row of the overlay names no source: {exc}") from exc
    return Committed(size, digest, decode_content(data[_SOURCE.size :]))


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the database of an overlay, making it where it is not. Raises NoSpace, Corrupt, Unavailable.

    A connection that writes holds one transaction open between `Rows.checkpoint`s: nothing reaches the disk else.
    """
    import sqlite3

    with database_errors(path):
        uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            connection.execute("PRAGMA cache_size = -65536" if not read_only else "PRAGMA cache_size = -8192")
            if not read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA cache_spill = OFF")
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found == 0 and not read_only:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _TABLES:
                    connection.execute(statement)
                connection.execute("COMMIT")
            elif found != SCHEMA_VERSION:
                raise UnsupportedFormat(f"{path} was written by another dvfs: its format is {found}")
        except BaseException:
            connection.close()
            raise
    return connection


def get_meta(connection: sqlite3.Connection, key: str) -> Any:
    """Return the value of *key* in meta, None when it has none."""
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if found is None else found[0]
