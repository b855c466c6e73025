"""The local block cache: content-addressed files that all versions, mounts and processes on a machine share.

    blocks/<xx>/<digest>   raw bytes of a block or stored bytes of a page, named by their block digest; or a range of
                           an external file, named by what it is a range of, and sealed; or a link into a whole file
    files/<xx>/<digest>    a large file in one piece, or what there is of it, named by its file digest
    tmp/<x>/<session>-<n>  a block being written
    sessions/<session>     a process that writes, or that died before it had closed the cache
    lock                   byte locks: one fetch for each block, and which sessions live
    index.sqlite           sizes and last use
    budget                 the default budget in bytes, found at the first use

Threading rule: all methods are thread-safe; `read_nowait` may be called on an event loop. Threads, locks and SQLite
handles come with the first write, so a process may fork before. A forked child has its own.

The cache never fails its caller: what it cannot read is a miss, what it cannot store is not stored, each with one
log line. It requests nothing from a store; that is the fetcher's.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dvfs.store.cache_budget import default_reserve, disk_space, stored_budget
from dvfs.store.cache_check import VerifyReport, check, remove
from dvfs.store.cache_cost import COSTLY_NS, WriteCosts
from dvfs.store.cache_files import BlockFiles
from dvfs.store.cache_index import Index, IndexBusy
from dvfs.store.cache_into import Laid, runs, write_into
from dvfs.store.cache_join import Join
from dvfs.store.cache_keeper import Keeper
from dvfs.store.cache_listing import Listing
from dvfs.store.cache_locks import FetchLocks, LockFile, Sessions
from dvfs.store.cache_open import OpenBlock, Scratch
from dvfs.store.cache_temporary import TemporaryFiles
from dvfs.store.cache_verified import Identity, SharedVerified, identity_of
from dvfs.store.cache_whole import Place, WholeFiles
from dvfs.store.clock import Clock, SystemClock
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.digest import DIGEST_SIZE, Buffer, seal_of
from dvfs.store.errors import Internal
from dvfs.store.log_once import LogOnce

_log = logging.getLogger(__name__)

_RWF_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What is in a cache: *bytes* of *blocks* files, its *budget_bytes*, the folder *path*."""

    path: Path
    bytes: int
    blocks: int
    budget_bytes: int


class Cache:
    """The cache in folder *root*, which is made when it is not there.

    *budget_bytes*: most bytes of block files; the default is found at the first use and kept in the folder.
    *reserve_bytes*: what is left free of the disk whatever the budget (default: 10 GiB, or 5% of a smaller disk).
    *max_open*: descriptors kept open. *lock_wait_seconds*: how long to wait for a process that fetches the same
    block. *interval_seconds*: how long the index may lag. *costly_write_ns*: see `WriteCost`. *crash*: see
    `BlockFiles`, `Keeper` and `Index`.
    """

    def __init__(
        self,
        root: Path,
        *,
        budget_bytes: int | None = None,
        reserve_bytes: int | None = None,
        max_open: int | None = None,
        lock_wait_seconds: float = 5.0,
        interval_seconds: float = 1.0,
        costly_write_ns: int = COSTLY_NS,
        clock: Clock | None = None,
        crash: CrashPoint = no_crash,
    ) -> None:
        clock = clock or SystemClock()
        self._root = root
        self._budget_bytes = budget_bytes
        self._reserve_bytes = reserve_bytes
        self._log = LogOnce(_log)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            self._log.warning("folder", "cache %s cannot be made: %s", root, exc)
        self._lock_file = LockFile(root / "lock")
        self._locks = FetchLocks(self._lock_file, wait_seconds=lock_wait_seconds, clock=clock, log=self._log)
        self._sessions = Sessions(root / "sessions", self._lock_file)
        self._temporary = TemporaryFiles(root, self._sessions)
        self._whole = WholeFiles(root, self._temporary)
        self._files = BlockFiles(
            root, self._temporary, self._whole, log=self._log, on_use=self._note_use, max_open=max_open, crash=crash
        )
        self._listing = Listing(self._files, self._whole)
        self._keeper = Keeper(
            root,
            self._files,
            self._listing,
            Index(root / "index.sqlite", log=self._log, crash=crash),
            self._sessions,
            budget=self._find_budget,
            reserve_bytes=self._find_reserve,
            clock=clock,
            log=self._log,
            crash=crash,
            interval_seconds=interval_seconds,
        )
        self._open = self._files.open
        self._nowait_flags = _RWF_NOWAIT
        self._scratch = Scratch()
        self._write_costs = WriteCosts(costly_write_ns, clock)
        self._remove_strays()

    @property
    def folder(self) -> Path:
        """The folder that it is in."""
        return self._root

    @property
    def spares_pages(self) -> bool:
        """Whether writing large files costs so much that pages of the page cache are to be spared; see `WriteCosts`."""
        return self._write_costs.small.is_high

    def share_verified(self, shared: SharedVerified) -> None:
        """Verify no file that another process with *shared* has verified. To be called before the first use."""
        self._files.share_verified(shared)

    def make_folders(self) -> None:
        """Make the folders of a new cache, which blocks need one by one, beforehand. Raises nothing.

        On ext4 they are spread over the disk (see `spread_folders_in`), and each takes half a millisecond.
        """
        with contextlib.suppress(OSError):  # that is told when a block comes
            self._files.make_folders()

    def get(self, digest: bytes) -> bytes | None:
        """Return the whole block *digest*; None when it is not here."""
        block = self._open.get(digest)
        if block is not None:
            block.used = True
            return self._pread(digest, block, 0, block.size)
        found = self._files.load(digest)
        if found is None:
            return None
        block, data = found
        self._keeper.note_use(block.row)
        return bytes(data) if data is not None else self._pread(digest, block, 0, block.size)

    def read(self, digest: bytes, start: int, length: int) -> bytes | None:
        """Return *length* bytes from byte *start* of the block *digest*, fewer at its end; None when not here."""
        block = self._open.get(digest)
        if block is None:
            found = self._files.load(digest)
            if found is None:
                return None
            block, data = found
            self._keeper.note_use(block.row)
            if data is not None:
                return bytes(data[start : start + length])
        block.used = True
        return self._pread(digest, block, start, length)

    def readinto(self, digest: bytes, view: memoryview) -> int | None:
        """Fill *view* with the whole block *digest*, and return its length; None when it is not here.

        If that is another length than that of *view*, anything may be in *view*.
        """
        block = self._open.get(digest)
        if block is None:
            found = self._files.load(digest, view)
            if found is None:
                return None
            block, data = found
            self._keeper.note_use(block.row)
            if data is not None:
                return len(data)
        block.used = True
        if block.size != len(view):
            return block.size
        try:
            got = os.preadv(block.fd, (view,), block.start)
        except OSError as exc:
            self._files.remove_damaged(digest, block, str(exc))
            return None
        if got != block.size:
            self._files.remove_damaged(digest, block, "it was truncated while open")
            return None
        return got

    def read_nowait(self, digest: bytes, start: int, length: int) -> bytes | None:
        """Do as `read`, but only when the block is open and all bytes are in memory; None otherwise. Never blocks."""
        block = self._open.get(digest)
        if block is None:
            return None
        length = min(length, block.size - start)
        if length <= 0:
            return b""
        view = self._scratch.of(length)
        return bytes(view) if self.readinto_nowait(digest, start, view) else None

    def readinto_nowait(self, digest: bytes, start: int, view: memoryview) -> bool:
        """Fill *view* from byte *start* of the block *digest*; return whether that was done. Never blocks.

        It is not when the block is not open, ends before, or the kernel does not have all bytes in memory.
        """
        block = self._open.get(digest)
        if block is None or not 0 <= start <= block.size - len(view) or not self._nowait_flags:
            return False
        try:
            got = os.preadv(block.fd, (view,), block.start + start, self._nowait_flags)
        except BlockingIOError:
            return False
        except OSError:
            self._nowait_flags = 0  # this file system cannot
            return False
        block.used = True
        return got == len(view)

    def opened(self, digest: bytes) -> OpenBlock | None:
        """Return the block *digest* if it is open, and so verified; None otherwise. Never blocks."""
        return self._open.get(digest)

    def has(self, digest: bytes) -> bool:
        """Tell whether the block *digest* is here; whether it is sound is found out when it is read."""
        return digest in self._open or self._files.exists(digest)

    def is_unverified(self, digest: bytes) -> bool:
        """Tell whether the block *digest* is here, and not open: it is verified when it is read next."""
        return digest not in self._open and self._files.exists(digest)

    def ready(self, digest: bytes) -> bool:
        """Open and verify the block *digest*, so that reading it is quick; return whether it is here, and sound."""
        if digest in self._open:
            return True
        found = self._files.load(digest)
        if found is None:
            return False
        self._keeper.note_use(found[0].row)
        return True

    def foresee(self, digest: bytes) -> None:
        """Have the disk begin to read the block *digest*, if it is here: it will be read soon."""
        if digest not in self._open:
            self._files.foresee(digest)

    def put(self, digest: bytes, data: Buffer, *, sealed: bool = False) -> bool:
        """Store *data*, whose block digest the caller has found to be *digest*; return whether it was stored.

        *sealed*: they are what *digest* names in another way, and the caller has found that they are.
        """
        laid = None if sealed else self._laid(digest, data)
        return (laid is not None and self._put_into([laid])) or self._put_alone(digest, data, sealed=sealed)

    def put_all(self, blocks: Sequence[tuple[bytes, Buffer]]) -> list[bool]:
        """Do as `put` with each of *blocks*; those that follow one another in a whole file are written in one go."""
        laid = [found for digest, data in blocks if (found := self._laid(digest, data)) is not None]
        written = {block.digest for run in runs(laid) if self._put_into(run) for block in run}
        return [digest in written or self._put_alone(digest, data) for digest, data in blocks]

    def is_laid(self, digest: bytes) -> bool:
        """Tell whether the block *digest* shall lie in a whole file. Never blocks."""
        return self._whole.is_laid(digest)

    def _laid(self, digest: bytes, data: Buffer) -> Laid | None:
        laid = self._whole.laid(digest)
        return Laid(digest, data, *laid) if laid is not None and laid[0].length == len(data) else None

    def _put_alone(self, digest: bytes, data: Buffer, *, sealed: bool = False) -> bool:
        if not self._keeper.has_room(len(data)):
            if self._budget_bytes != 0 and not self._keeper.is_closed:
                self._log.warning("room", "cache %s has no room: reading on uncached", self._root)
            return False
        try:
            self._files.write(digest, data, seal_of(digest, data) if sealed else b"")
        except OSError as exc:
            self._log.warning(("put", exc.errno), "cache %s: cannot store: %s; reading on uncached", self._root, exc)
            self._keeper.wake()
            return False
        self._keeper.note_put(digest, len(data) + (DIGEST_SIZE if sealed else 0))
        return True

    def _put_into(self, run: Sequence[Laid]) -> bool:
        size = sum(block.place.length for block in run)
        if not self._keeper.has_room(size):
            return False
        try:
            if not write_into(self._files, run, self._write_costs):
                return False
        except OSError as exc:  # there may be no links here
            self._log.warning("whole", "cache %s: a file is not kept in one piece: %s", self._root, exc)
            return False
        self._keeper.note_grown(run[0].place.file, size)
        return True

    def lay(self, digest: bytes, place: Place, size: int) -> None:
        """Have the block *digest*, when it is stored, lie at *place* in a whole file of *size* bytes. Never blocks."""
        self._whole.lay(digest, place, size)

    def join(self, file: bytes, size: int, blocks: Sequence[tuple[bytes, int, int]]) -> Identity | None:
        """See that the whole file *file* of *size* bytes is here, verified; return what `open_whole` knows it by.

        *blocks*: digest, start and length of each, in order. Blocks that lie elsewhere are copied into it, where there
        is room. Blocks on their way here are waited for, for a bounded time. None as long as one is missing, or many
        were not verified yet: that takes reading them.
        """
        try:
            return Join(self._files, self._whole, self._keeper, self._locks, file, size, blocks).run()
        except (OSError, ImportError, IndexBusy) as exc:
            self._log.warning("whole", "cache %s: a file is not kept in one piece: %s", self._root, exc)
            return None

    def open_whole(self, file: bytes, identity: Identity) -> int | None:
        """Return a descriptor, to be closed, of the whole file *file* that `join` gave that *identity*; None when it is
        gone, or was changed."""
        try:
            fd = self._whole.open(file)
        except OSError:
            return None
        if identity_of(os.fstat(fd)) != identity:
            os.close(fd)
            return None
        self.note_use(file)
        return fd

    def note_use(self, file: bytes) -> None:
        """Take note that the whole file *file* is read."""
        self._keeper.note_use(file)

    def fetching(self, digest: bytes) -> contextlib.AbstractContextManager[bool]:
        """Be the one process and thread that fetches *digest*; look into the cache again once inside.

        Waits for another that does, for a bounded time: then, or without locks, yields False: fetch all the same.
        """
        return self._locks.fetching(digest)

    def try_fetching(self, digest: bytes) -> contextlib.AbstractContextManager[bool]:
        """Do as `fetching` without waiting; yields False when somebody else is at it."""
        return self._locks.try_fetching(digest)

    def info(self) -> CacheInfo:
        """Return what is in the cache now. Raises nothing; what cannot be found out is 0."""
        self._keeper.settle()
        return self.use()

    def use(self) -> CacheInfo:
        """Do as `info` by what the index says now, which lags a little; nothing is written."""
        total = self._keeper.total()
        try:
            budget = self._find_budget()
        except OSError:
            budget = 0
        return CacheInfo(self._root, total.bytes if total else 0, total.blocks if total else 0, budget)

    def settle(self) -> None:
        """Write the index and evict down to the budget now, instead of soon."""
        self._keeper.settle()

    def clear(self) -> None:
        """Remove all blocks. Who reads one reads on. Raises nothing; what cannot be removed is logged."""
        self._files.let_all_go()
        for path in (*self._listing.blocks(), *self._listing.whole_files()):
            remove(path)
        self._remove_strays()
        self._keeper.settle(everything=True)

    def verify(self, on_block: Callable[[int], None] | None = None) -> VerifyReport:
        """Check each file, remove the damaged ones and what dead processes left, and bring the index up to date.

        *on_block* is called with the size in bytes of each block checked.
        """
        report = check(self._files, self._listing, self._remove_strays(), on_block)
        self._keeper.settle(everything=True)
        return report

    def close(self) -> None:
        """Write the index, stop the thread, close all files. What is here may be read on, nothing is stored."""
        self._keeper.close()
        self._files.let_all_go()
        self._lock_file.close()

    def _pread(self, digest: bytes, block: OpenBlock, start: int, length: int) -> bytes | None:
        length = max(0, min(length, block.size - start))  # behind it there may be other bytes, and before it
        if start < 0:
            raise Internal(f"block {digest.hex()} cannot be read at {start}, {length} bytes")
        try:
            data = os.pread(block.fd, length, block.start + start)
        except OSError as exc:
            self._files.remove_damaged(digest, block, str(exc))
            return None
        if len(data) != length:
            self._files.remove_damaged(digest, block, "it was truncated while open")
            return None
        return data

    def _remove_strays(self) -> int:
        try:
            return self._temporary.remove_strays()
        except OSError as exc:
            self._log.warning("strays", "cache %s: temporary files are not looked at: %s", self._root, exc)
            return 0

    def _note_use(self, row: bytes) -> None:
        self._keeper.note_use(row)

    def _find_reserve(self) -> int:
        if self._reserve_bytes is None:
            self._reserve_bytes = default_reserve(disk_space(self._root))
        return self._reserve_bytes

    def _find_budget(self) -> int:
        if self._budget_bytes is None:
            self._budget_bytes = stored_budget(self._root, self._find_reserve())
        return self._budget_bytes
