"""Staging: what an open version is going to get, noted on the local disk until it is uploaded.

One SQLite database for one open version. Each path has at most one row: the last word on it wins. Several
processes may use one database at once: each change is one short transaction.

Changes are numbered by a *serial* that counts up. Who uploads takes `serial`, applies the `edits` up to it, and
then forgets just those with `clear`: what others staged or packed meanwhile stays.

Threads: a `Staging` belongs to the thread that made it; another thread opens its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from dvfs.store.block import BlockRef, Extent
from dvfs.store.catalog.key import key_of, path_of, subtree_bounds
from dvfs.store.database import database_errors
from dvfs.store.errors import Corrupt
from dvfs.store.ids import PackId
from dvfs.store.source import Kind, Source
from dvfs.store.staging_schema import DAMAGE_HINT, connect, incoming_table

_BODY = struct.Struct("<IqqQI")
_BLOCK = struct.Struct("<I24sIIIB32s")
_EXTENT = struct.Struct("<I24sIIIB32sII")
_BATCH = 2000
_BEFORE_ALL = ""  # SQLite sorts every text before every blob, the empty one too

_KINDS = {int(kind): kind for kind in Kind}
_FILES = f"({Kind.FILE:d}, {Kind.LINK:d}, {Kind.EXTERNAL:d})"
_DIRECTORIES = f"({Kind.DIRECTORY:d}, {Kind.PARENT:d})"
_UNPACKED = f"s.kind = {Kind.FILE:d} AND NOT EXISTS (SELECT 1 FROM packed p WHERE p.key = s.key AND p.of = s.serial)"


class Staged(NamedTuple):
    """A row: what a path gets.

    *serial*: the change that wrote it. *digest*, *extents*: of a file that is wholly in packs; None else.
    """

    source: Source
    serial: int
    digest: bytes | None = None
    extents: tuple[Extent, ...] | None = None


class PackedFile(NamedTuple):
    """A staged file whose bytes are in packs that the store has.

    *serial*: of its row. *refreshed*: what was read, where that is another source than the row's; else None. Rows
    themselves are not kept: many files wait in memory for their packs.
    """

    path: bytes
    serial: int
    digest: bytes
    extents: tuple[Extent, ...]
    refreshed: Source | None = None


class Pending(NamedTuple):
    """Files that are staged and not packed, and their bytes."""

    files: int
    bytes: int


class Staging:
    """The staged changes of one open version, in the database at *path*.

    All calls raise Unavailable (held by another process for longer than *timeout* seconds, or unusable),
    NoSpace, and Corrupt.
    """

    def __init__(self, path: Path, *, timeout: float = 60.0) -> None:
        self._path = path
        self._connection = connect(path, timeout)
        self._incoming = 0

    def close(self) -> None:
        """Close the database; nothing is lost."""
        with database_errors(self._path, DAMAGE_HINT):
            self._connection.close()

    @property
    def serial(self) -> int:
        """The number of the last change."""
        return int(self._one("SELECT serial FROM counter")[0])

    # --- changing

    def stage(self, sources: Iterable[Source]) -> int:
        """Note *sources*, all or, if iterating them raises, none; return how many of them changed a row.

        The last word on a path wins; a directory that is only needed (PARENT) never replaces one. A file or link
        in place of a directory drops what was staged below it. A row that says what was said before stays as it
        is, packed if it was. Other processes are not held up while the sources are iterated.
        """
        return self._stage(sources, instead=False)

    def replace(self, sources: Iterable[Source]) -> int:
        """Note *sources* instead of all that is staged; else as `stage`. Of what goes, `left_over` tells the packed."""
        return self._stage(sources, instead=True)

    def _stage(self, sources: Iterable[Source], *, instead: bool) -> int:
        self._incoming += 1
        table = f"incoming_{self._incoming}"
        with database_errors(self._path, DAMAGE_HINT):
            self._connection.execute(incoming_table(table))
            try:
                rows = map(_row, sources)
                while batch := list(islice(rows, _BATCH)):
                    with self._transaction("BEGIN"):
                        self._connection.executemany(f"INSERT INTO temp.{table} VALUES (?,?,?,?)", batch)
                with self._change() as serial:
                    return self._merge(table, serial, instead=instead)
            finally:
                self._connection.execute(f"DROP TABLE {table}")

    def _merge(self, table: str, serial: int, *, instead: bool) -> int:
        """Take over the rows of the temporary *table* under *serial*; return how many changed a row."""
        if instead:
            self._connection.execute(f"DELETE FROM staged WHERE key NOT IN (SELECT key FROM temp.{table})")
        elif not self.is_empty():
            covered = self._connection.execute(
                f"SELECT n.key FROM temp.{table} n CROSS JOIN staged s ON s.key = n.key"
                f" WHERE n.kind IN {_FILES} AND s.kind IN {_DIRECTORIES}"
            ).fetchall()
            for (key,) in covered:
                self._forget_below(path_of(key))
        return self._connection.execute(
            f"INSERT INTO staged SELECT key, kind, size, body, ? FROM temp.{table} WHERE true ORDER BY rowid"
            " ON CONFLICT (key) DO UPDATE SET"
            " kind = excluded.kind, size = excluded.size, body = excluded.body, serial = excluded.serial"
            f" WHERE NOT (excluded.kind = {Kind.PARENT:d} AND staged.kind IN {_DIRECTORIES})"
            " AND NOT (staged.kind = excluded.kind AND staged.size = excluded.size AND staged.body = excluded.body)",
            (serial,),
        ).rowcount

    def _forget_below(self, path: bytes) -> None:
        start, stop = subtree_bounds(path)
        if stop is None:
            self._connection.execute("DELETE FROM staged WHERE key >= ?", (start,))
        else:
            self._connection.execute("DELETE FROM staged WHERE key >= ? AND key < ?", (start, stop))

    def drop(self, paths: Iterable[bytes]) -> None:
        """Forget what is staged for *paths*, as if nothing had been said of them."""
        with database_errors(self._path, DAMAGE_HINT), self._change():
            self._connection.executemany("DELETE FROM staged WHERE key = ?", ((key_of(path),) for path in paths))

    def mark_packed(self, files: Iterable[PackedFile], blocks: Iterable[BlockRef] = ()) -> None:
        """Note that *files* lie in packs that the store has, and that it has the *blocks* of cut files.

        A file that was staged anew since its row was read stays unpacked: its new bytes are still to be packed.
        """
        with database_errors(self._path, DAMAGE_HINT), self._change() as serial:
            rows = []
            for path, of, digest, extents, refreshed in files:
                key = key_of(path)
                if refreshed is not None:
                    self._connection.execute(
                        "UPDATE staged SET size = ?, body = ? WHERE key = ? AND serial = ?",
                        (*_row(refreshed)[2:], key, of),
                    )
                rows.append((key, digest, encode_extents(extents), serial, of))
            self._connection.executemany("INSERT OR REPLACE INTO packed VALUES (?,?,?,?,?)", rows)
            self._connection.executemany(
                "INSERT OR IGNORE INTO sent VALUES (?,?)", ((block.digest, _BLOCK.pack(*block)) for block in blocks)
            )

    def clear(self, upto: int) -> None:
        """Forget what `edits` yields up to the serial *upto*, but files that were not packed by then."""
        with database_errors(self._path, DAMAGE_HINT), self._change():
            self._connection.execute(
                f"DELETE FROM staged WHERE serial <= ?1 AND (kind <> {Kind.FILE:d} OR EXISTS (SELECT 1 FROM packed p"
                " WHERE p.key = staged.key AND p.of = staged.serial AND p.serial <= ?1))",
                (upto,),
            )
            self._connection.execute(
                "DELETE FROM packed WHERE NOT EXISTS"
                " (SELECT 1 FROM staged s WHERE s.key = packed.key AND s.serial = packed.of)"
            )

    # --- reading

    def find(self, path: bytes) -> Staged | None:
        """Return what is staged for *path*, None if nothing is."""
        row = self._one(
            "SELECT s.key, s.kind, s.size, s.body, s.serial, p.digest, p.extents FROM staged s"
            " LEFT JOIN packed p ON p.key = s.key AND p.of = s.serial WHERE s.key = ?",
            key_of(path),
        )
        return None if row is None else _staged(row)

    def edits(self, upto: int | None = None) -> Iterator[Staged]:
        """Yield all rows in catalog order, as they were at the serial *upto*; no lock is held between two of them.

        Rows that changed since are left out, and files packed since have no digest.
        """
        return self._rows(
            "SELECT s.key, s.kind, s.size, s.body, s.serial, p.digest, p.extents FROM staged s"
            " LEFT JOIN packed p ON p.key = s.key AND p.of = s.serial AND p.serial <= ?2"
            " WHERE s.key > ?1 AND s.serial <= ?2 ORDER BY s.key LIMIT ?3",
            self.serial if upto is None else upto,
        )

    def unpacked(self) -> Iterator[Staged]:
        """Yield the files that are still to be packed, in catalog order; no lock is held between two of them."""
        return self._rows(
            "SELECT s.key, s.kind, s.size, s.body, s.serial, NULL, NULL FROM staged s"
            f" WHERE s.key > ?1 AND s.serial <= ?2 AND {_UNPACKED} ORDER BY s.key LIMIT ?3",
            self.serial,
        )

    def removed(self) -> Iterator[Staged]:
        """Yield the removals, in catalog order; no lock is held between two of them."""
        return self._rows(
            "SELECT s.key, s.kind, s.size, s.body, s.serial, NULL, NULL FROM staged s"
            f" WHERE s.key > ?1 AND s.serial <= ?2 AND s.kind = {Kind.REMOVED:d} ORDER BY s.key LIMIT ?3",
            self.serial,
        )

    def pending(self) -> Pending:
        """Return how many files are still to be packed, and their bytes."""
        return Pending(*self._one(f"SELECT count(*), coalesce(sum(s.size), 0) FROM staged s WHERE {_UNPACKED}"))

    def is_empty(self) -> bool:
        """Tell whether nothing is staged."""
        return not self._one("SELECT EXISTS (SELECT 1 FROM staged)")[0]

    def left_over(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield path and digest of files that were packed and are now staged otherwise, or not at all."""
        after: object = _BEFORE_ALL
        query = (
            "SELECT key, digest FROM packed p WHERE key > ? AND NOT EXISTS"
            " (SELECT 1 FROM staged s WHERE s.key = p.key AND s.serial = p.of) ORDER BY key LIMIT ?"
        )
        while rows := self._all(query, after, _BATCH):
            for key, digest in rows:
                yield path_of(key), digest
            after = rows[-1][0]

    def packed_at(self, path: bytes) -> tuple[bytes, tuple[Extent, ...]] | None:
        """Return digest and extents of the file that was packed last for *path*, whatever is staged there now."""
        row = self._one("SELECT digest, extents FROM packed WHERE key = ?", key_of(path))
        return None if row is None else (row[0], decode_extents(row[1]))

    def sent_blocks(self) -> Iterator[BlockRef]:
        """Yield the blocks of cut files that the store has, whether or not their files were finished."""
        after: object = _BEFORE_ALL
        query = "SELECT digest, block FROM sent WHERE digest > ? ORDER BY digest LIMIT ?"
        while rows := self._all(query, after, _BATCH):
            for _, block in rows:
                storage, pack, *rest = _BLOCK.unpack(block)
                yield BlockRef(storage, PackId(pack), *rest)
            after = rows[-1][0]

    def _rows(self, query: str, limit: int) -> Iterator[Staged]:
        after: object = _BEFORE_ALL
        while rows := self._all(query, after, limit, _BATCH):
            yield from map(_staged, rows)
            after = rows[-1][0]

    def _all(self, query: str, *values: object) -> list[Any]:
        with database_errors(self._path, DAMAGE_HINT):
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> Any:
        with database_errors(self._path, DAMAGE_HINT):
            return self._connection.execute(query, values).fetchone()

    @contextmanager
    def _change(self) -> Iterator[int]:
        """One transaction that changes the database; yields its serial."""
        with self._transaction("BEGIN IMMEDIATE"):
            self._connection.execute("UPDATE counter SET serial = serial + 1")
            yield self.serial

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise


def _row(source: Source) -> tuple[bytes, int, int, bytes]:
    """Return key, kind, size and body of *source*."""
    path, kind, local, mode, size, mtime_ns, ctime_ns, ino, target = source
    return key_of(path), kind, size, _BODY.pack(mode, mtime_ns, ctime_ns, ino, len(local)) + local + target


def _staged(row: Sequence[Any]) -> Staged:
    key, kind, size, body, serial, digest, extents = row
    mode, mtime_ns, ctime_ns, ino, length = _BODY.unpack_from(body)
    middle = _BODY.size + length
    local, target = body[_BODY.size : middle], body[middle:]
    # tuple.__new__ takes half the time of the constructors; a row comes by for each of a million files.
    source = tuple.__new__(Source, (path_of(key), _KINDS[kind], local, mode, size, mtime_ns, ctime_ns, ino, target))
    runs = None if extents is None else decode_extents(extents)
    return tuple.__new__(Staged, (source, serial, digest, runs))


def encode_extents(extents: Iterable[Extent]) -> bytes:
    """Return *extents* as bytes, 81 for each."""
    return b"".join([_EXTENT.pack(*block, start, length) for block, start, length in extents])


def decode_extents(data: bytes) -> tuple[Extent, ...]:
    """Return the extents that `encode_extents` made *data* of. Raises Corrupt."""
    if len(data) % _EXTENT.size:
        raise Corrupt(f"{len(data)} bytes are no extents")
    return tuple(
        Extent(BlockRef(storage, PackId(pack), offset, stored, raw, codec, digest), start, length)
        for storage, pack, offset, stored, raw, codec, digest, start, length in _EXTENT.iter_unpack(data)
    )
