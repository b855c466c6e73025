"""The index of the cache: size and last use of each block, in SQLite, to evict by.

It is a hint: the files are the truth. Written in batches, rebuilt from the files when it is lost or damaged, and
never consulted to read a block. Thread-safe (one lock around the connection) and shared by processes. Where the
file cannot be used, an index in memory takes its place, which knows what this process finds on the disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.log_once import LogOnce

if TYPE_CHECKING:
    import sqlite3

_T = TypeVar("_T")

_VERSION = 1
_SCHEMA = (
    "CREATE TABLE block (digest BLOB PRIMARY KEY, size INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX block_used ON block (used)",
    "CREATE TABLE total (only INTEGER PRIMARY KEY CHECK (only = 0), bytes INTEGER, blocks INTEGER, whole INTEGER)",
    "INSERT INTO total VALUES (0, 0, 0, 0)",
    "CREATE TRIGGER block_added AFTER INSERT ON block BEGIN"
    " UPDATE total SET bytes = bytes + new.size, blocks = blocks + 1; END",
    "CREATE TRIGGER block_removed AFTER DELETE ON block BEGIN"
    " UPDATE total SET bytes = bytes - old.size, blocks = blocks - 1; END",
    "CREATE TRIGGER block_resized AFTER UPDATE OF size ON block BEGIN"
    " UPDATE total SET bytes = bytes + new.size - old.size; END",
    f"PRAGMA user_version = {_VERSION}",
)
_PUT = """
INSERT INTO block VALUES (?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET size = excluded.size, used = max(used, excluded.used)
"""
_TRANSIENT = frozenset({5, 6, 13})  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_FULL
_DAMAGED = frozenset({1, 11, 26})  # SQLITE_ERROR (another schema), SQLITE_CORRUPT, SQLITE_NOTADB


class IndexBusy(Exception):
    """The index cannot be used right now (locked, or no room on its disk); nothing was changed."""


class Row(NamedTuple):
    """A block as the index knows it: *digest*, *size* in bytes, last use in ns since the epoch."""

    digest: bytes
    size: int
    used_ns: int


class Total(NamedTuple):
    """Sum over all blocks known; *is_whole* is False until the files of all folders were added to a new index."""

    bytes: int
    blocks: int
    is_whole: bool


class Index:
    """Sizes and last use of blocks. All methods raise IndexBusy; ImportError where Python has no sqlite3.

    *opened* counts how often the index was opened: another number, perhaps another index.
    Crash points: `index:before-commit`.
    """

    def __init__(self, path: Path, *, log: LogOnce, crash: CrashPoint = no_crash, busy_seconds: float = 5.0) -> None:
        self._path = path
        self._log = log
        self._crash = crash
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._pid = 0
        self._in_memory = False
        self.opened = 0

    def apply(
        self, puts: Mapping[bytes, tuple[int, int]], uses: Mapping[bytes, int], gone: Iterable[bytes] = ()
    ) -> None:
        """Note blocks put (digest to size and time in ns), blocks used (digest to time in ns), blocks gone."""

        def change(db: sqlite3.Connection) -> None:
            db.executemany(_PUT, [(digest, size, used) for digest, (size, used) in puts.items()])
            db.executemany(
                "UPDATE block SET used = max(used, ?) WHERE digest = ?",
                [(used, digest) for digest, used in uses.items()],
            )
            db.executemany("DELETE FROM block WHERE digest = ?", [(digest,) for digest in gone])

        if puts or uses or gone:
            self._run(change, write=True)

    def remove(self, rows: Iterable[Row]) -> None:
        """Forget evicted *rows*, but not those that were used or put anew since they were read."""
        pairs = [(row.digest, row.used_ns) for row in rows]
        query = "DELETE FROM block WHERE digest = ? AND used = ?"
        self._run(lambda db: db.executemany(query, pairs), write=True)

    def total(self) -> Total:
        """Return bytes and number of all blocks."""
        query = "SELECT bytes, blocks, whole FROM total"
        size, blocks, whole = self._run(lambda db: db.execute(query).fetchone())
        return Total(size, blocks, bool(whole))

    def set_whole(self) -> None:
        """Note that the files of all folders have been added."""
        self._run(lambda db: db.execute("UPDATE total SET whole = 1"), write=True)

    def oldest(self, limit: int) -> list[Row]:
        """Return the *limit* blocks whose last use is longest ago, oldest first."""
        query = "SELECT digest, size, used FROM block ORDER BY used LIMIT ?"
        return [Row(*row) for row in self._run(lambda db: db.execute(query, (limit,)).fetchall())]

    def shard(self, shard: int) -> set[bytes]:
        """Return the digests that start with the byte *shard*."""
        low, high = bytes([shard]), (bytes([shard + 1]) if shard < 255 else b"\xff" * 33)
        query = "SELECT digest FROM block WHERE digest >= ? AND digest < ?"
        return {row[0] for row in self._run(lambda db: db.execute(query, (low, high)).fetchall())}

    @property
    def fork_lock(self) -> threading.Lock:
        """What a fork waits for: under it, all is done."""
        return self._lock

    def before_fork(self) -> None:
        """Nothing: the index is in no transaction now, and a child opens it anew."""

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._lock:
            self._disconnect()

    def _run(self, work: Callable[[sqlite3.Connection], _T], *, write: bool = False) -> _T:
        import sqlite3

        with self._lock:
            for _ in range(3):
                try:
                    db = self._connect()
                    with self._transaction(db) if write else contextlib.nullcontext():
                        return work(db)
                except sqlite3.Error as exc:
                    self._recover(exc)
            raise IndexBusy(f"{self._path} is damaged again and again")

    @contextlib.contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._crash("index:before-commit")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _connect(self) -> sqlite3.Connection:
        """Return the connection of this process to the file that now has the index's name."""
        if self._db is not None and self._pid == os.getpid():
            if self._in_memory or self._identity == self._file_identity():
                return self._db
            self._disconnect()
        from dvfs.store.connections import connect
        from dvfs.store.fork_gate import GATE

        if self._pid != os.getpid():
            self._db = None  # the parent's: closing it here would roll back what the parent is writing
        where = ":memory:" if self._in_memory else self._path
        GATE.add(self)
        db = connect(
            where,
            is_idle_at_forks=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        self._db, self._pid = db, os.getpid()
        self.opened += 1
        # Not durable against a crash of the machine, which at worst costs a rebuild; kill -9 does no harm.
        db.execute("PRAGMA synchronous = OFF")
        if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            self._create(db)
        self._identity = self._file_identity()
        return db

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:  # else another process was faster
                for statement in _SCHEMA:
                    db.execute(statement)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _recover(self, exc: sqlite3.Error) -> None:
        """After *exc* make the next try promising, or raise IndexBusy."""
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in _TRANSIENT:
            raise IndexBusy(f"{self._path}: {exc}") from exc
        self._disconnect()
        if code in _DAMAGED and not self._in_memory:
            self._log.warning(("index", code), "cache index %s is damaged and made anew: %s", self._path, exc)
            try:
                for suffix in ("", "-journal"):
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)
                return
            except OSError:
                pass  # it cannot even be removed: go on without it
        self._log.warning("index", "cache index %s is not usable, kept in memory: %s", self._path, exc)
        self._in_memory = True

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None and self._pid == os.getpid():
            with contextlib.suppress(Exception):  # a damaged file may not even close well
                db.close()
