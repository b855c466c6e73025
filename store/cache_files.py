"""The block files of the cache: written to a temporary name and renamed, verified when first opened, kept open.

A file is the bytes of the block that its name is the digest of; or, of a range of an external file, the bytes and
behind them 32 more, the seal: a digest over the name and the bytes.

Threading rule: `BlockFiles` is thread-safe. Finding an open block takes no lock. A descriptor is closed when the
last reference to its `OpenBlock` goes, so never under a reader: the reference count is the use count.

Files are read with pread, never mapped: of a mapped file that is truncated the next access is SIGBUS.
This module counts no bytes and evicts nothing.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from dvfs.store.block import MAX_BLOCK_BYTES
from dvfs.store.cache_locks import Sessions
from dvfs.store.cache_verified import Identity, SharedVerified
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.digest import DIGEST_SIZE, Buffer, block_digest, seal_of
from dvfs.store.ext4 import spread_folders_in
from dvfs.store.log_once import LogOnce

SHARDS = 256
_TEMPORARY_SHARDS = 16
_MIN_OPEN = 16
_MAX_OPEN = 4096
_MAX_VERIFIED = 1 << 16
_LOADING = 64

_UNKNOWN: tuple[Identity, int] = (0, 0, 0, 0), 0


class Scratch(threading.local):
    """A buffer for each thread, as long as the longest read so far: fresh memory costs more than the read."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(1 << 17))

    def of(self, length: int) -> memoryview:
        """Return *length* bytes of it, which the next call in this thread gives again."""
        if len(self._view) < length:
            self._view = memoryview(bytearray(length))
        return self._view[:length]


class OpenBlock:
    """A verified block file: descriptor *fd*, *size* in bytes; *used* is set by each read, cleared by the LRU."""

    __slots__ = ("fd", "size", "used")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.used = True

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class BlockFiles:
    """The files under `blocks/` and `tmp/` of the cache folder *root*.

    *on_use* is called with a digest when its block was used since the last such call, at the latest when its
    descriptor is closed. *max_open* bounds the descriptors kept; the default is a quarter of what the process may.
    Crash points: `fetch:after-temp` (created, empty), `fetch:before-rename` (whole), `fetch:after-rename`.
    """

    def __init__(
        self,
        root: Path,
        sessions: Sessions,
        *,
        log: LogOnce,
        on_use: Callable[[bytes], None],
        max_open: int | None = None,
        crash: CrashPoint = no_crash,
    ) -> None:
        self._blocks = os.fspath(root / "blocks")
        self._temporary = os.fspath(root / "tmp")
        self._sessions = sessions
        self._log = log
        self._on_use = on_use
        self._crash = crash
        self._max_open = max_open or _default_max_open()
        self._numbers = itertools.count()
        self._scratch = Scratch()
        self._guard = threading.Lock()  # over changes of the two dicts; never held across I/O
        self._loading = [threading.Lock() for _ in range(_LOADING)]  # by digest; held while a block is read
        self._verified: dict[bytes, tuple[Identity, int]] = {}  # and how long the block is
        self._shared: SharedVerified | None = None
        self.open: dict[bytes, OpenBlock] = {}
        """Open blocks by digest, least recently used first (by second chance); only this class changes it."""

    def share_verified(self, shared: SharedVerified) -> None:
        """Verify no file that *shared* knows, and tell it what is verified here. To be called before the first use."""
        self._shared = shared

    def path(self, digest: bytes) -> str:
        """Return where the block *digest* is, or would be."""
        name = digest.hex()
        return f"{self._blocks}/{name[:2]}/{name}"

    def exists(self, digest: bytes) -> bool:
        """Tell whether there is a file for *digest*, unverified."""
        return os.path.lexists(self.path(digest))

    def load(self, digest: bytes, into: memoryview | None = None) -> tuple[OpenBlock, memoryview | None] | None:
        """Open the block *digest* and keep it open; also return its bytes where they were read to verify them.

        The bytes are in *into*, if that is as long, or in a buffer of this thread, to be used before it calls again.

        None when it is not there, or is damaged: then it is removed, with a line in the log. Of several threads that
        ask at once, as the kernel's read-ahead does, one reads and verifies; the others wait for it.
        """
        with self._loading[digest[-1] % _LOADING]:
            block = self.open.get(digest)
            return (block, None) if block is not None else self._load(digest, into)

    def _load(self, digest: bytes, into: memoryview | None) -> tuple[OpenBlock, memoryview | None] | None:
        path = self.path(digest)
        try:
            fd = self._open_file(path)
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._log.warning(("open", exc.errno), "cache file %s cannot be opened: %s", path, exc)
            return None
        block = OpenBlock(fd, 0)
        try:
            found = os.fstat(fd)
            identity = _identity(found)
            data = None
            known = self._known(digest, identity)
            if known[0] != identity:
                data = self._verified_bytes(fd, found, digest, into)
                if data is None:
                    self.remove_damaged(digest, block, "its bytes do not have the digest of its name")
                    return None
        except OSError as exc:
            self.remove_damaged(digest, block, str(exc))
            return None
        block.size = len(data) if data is not None else known[1]
        self._keep(digest, block, identity)
        return block, data

    def _known(self, digest: bytes, identity: Identity) -> tuple[Identity, int]:
        """Return with what identity the file of *digest* was verified, and the length of the block."""
        known = self._verified.get(digest, _UNKNOWN)
        if known[0] != identity and self._shared is not None:
            length = self._shared.length(digest, identity)
            return known if length is None else (identity, length)
        return known

    def foresee(self, digest: bytes) -> None:
        """Have the kernel begin to read the file for *digest*, if there is one; `load` finds what is wrong."""
        try:
            fd = self._open_file(self.path(digest))
        except OSError:
            return
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)

    def write(self, digest: bytes, data: Buffer, seal: bytes = b"") -> None:
        """Make *data* the block *digest*, and keep it open. Raises OSError; then nothing is left behind.

        *seal*: of bytes whose digest is not *digest*, what `seal_of` gives; it is written behind them.
        """
        number = next(self._numbers)
        folder = f"{self._temporary}/{number % _TEMPORARY_SHARDS:x}"
        temporary = f"{folder}/{self._sessions.current()}-{number:x}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(self._temporary, exist_ok=True)
            spread_folders_in(self._temporary)
            os.makedirs(folder, exist_ok=True)
            fd = os.open(temporary, flags, 0o666)
        block = OpenBlock(fd, len(data))
        try:
            self._crash("fetch:after-temp")
            _write_all(fd, data)
            if seal:
                _write_all(fd, seal)
            self._crash("fetch:before-rename")
            self._rename(temporary, self.path(digest))
        except BaseException:
            _unlink(temporary)
            raise
        self._crash("fetch:after-rename")
        self._keep(digest, block, _identity(os.fstat(fd)))

    def remove(self, digest: bytes) -> None:
        """Remove the block *digest*, which need not be there; who reads it reads on. Raises OSError."""
        self.let_go(digest)
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            pass

    def remove_damaged(self, digest: bytes, block: OpenBlock, why: str) -> None:
        """Remove the file that *block* has open, unless its name belongs to another file by now; log its name."""
        path = self.path(digest)
        self.let_go(digest)
        try:
            ours, there = os.fstat(block.fd), os.lstat(path)
            if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
                return
            os.unlink(path)
            outcome = "removed"
        except FileNotFoundError:
            return
        except OSError as exc:
            outcome = f"not removable: {exc}"
        self._log.warning(("damaged", digest), "cache file %s is damaged (%s), %s", path, why, outcome)

    def let_go(self, digest: bytes) -> None:
        """Close the block *digest* when its last reader is done, and verify it again at its next use."""
        with self._guard:
            self.open.pop(digest, None)
            known = self._verified.pop(digest, None)
        if known is not None and self._shared is not None:
            self._shared.forget(digest, *known)

    def let_all_go(self) -> None:
        """Close all blocks."""
        with self._guard:
            self.open.clear()
            self._verified.clear()

    def sweep_open(self) -> None:
        """Report all blocks used, and close those that were removed by others, whose bytes the disk still holds."""
        with self._guard:
            blocks = list(self.open.items())
        for digest, block in blocks:
            if block.used:
                block.used = False
                self._on_use(digest)
            if os.fstat(block.fd).st_nlink == 0:
                self.let_go(digest)

    def listed(self, shard: int) -> Iterator[str]:
        """Yield the paths of all that lies in directory *shard* of 0–255. Raises OSError."""
        folder = f"{self._blocks}/{shard:02x}"
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return
        for name in names:
            yield f"{folder}/{name}"

    def digest_of(self, path: str) -> bytes | None:
        """Return the digest that the listed *path* stands for; None when no block is named so."""
        try:
            digest = bytes.fromhex(os.path.basename(path))
        except ValueError:
            return None
        return digest if len(digest) == DIGEST_SIZE and self.path(digest) == path else None

    def is_sound(self, digest: bytes) -> bool:
        """Tell whether the file of *digest* holds its block now. Raises OSError (not there, not readable)."""
        block = OpenBlock(self._open_file(self.path(digest)), 0)
        return self._verified_bytes(block.fd, os.fstat(block.fd), digest) is not None

    def remove_strays(self) -> int:
        """Remove the temporary files of dead processes; return how many. Raises OSError."""
        removed = 0
        alive: dict[str, bool] = {}
        for shard in range(_TEMPORARY_SHARDS):
            folder = f"{self._temporary}/{shard:x}"
            try:
                names = os.listdir(folder)
            except FileNotFoundError:
                continue
            for name in names:
                session = name.partition("-")[0]
                if session not in alive:
                    alive[session] = self._sessions.is_alive(session)
                if not alive[session]:
                    removed += _unlink(f"{folder}/{name}")
        return removed

    def _verified_bytes(
        self, fd: int, found: os.stat_result, digest: bytes, into: memoryview | None = None
    ) -> memoryview | None:
        """Return the bytes of the block, in *into* or the buffer of this thread, if the file is the block *digest*."""
        size = found.st_size
        if not stat.S_ISREG(found.st_mode) or size > MAX_BLOCK_BYTES:
            return None
        data = into if into is not None and len(into) == size else self._scratch.of(size)
        if os.preadv(fd, [data], 0) != size:
            return None
        if block_digest(data) == digest:
            return data
        sealed, seal = data[:-DIGEST_SIZE], data[-DIGEST_SIZE:]
        if size <= DIGEST_SIZE or seal != seal_of(digest, sealed):
            return None
        if into is None or len(into) != len(sealed):
            return sealed
        into[:] = sealed
        return into

    def _open_file(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(path, flags)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._guard:
            for digest in list(self.open)[: (len(self.open) + 1) // 2]:
                del self.open[digest]
        return os.open(path, flags)

    def _rename(self, temporary: str, path: str) -> None:
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.rename(temporary, path)

    def _keep(self, digest: bytes, block: OpenBlock, identity: Identity) -> None:
        if self._shared is not None:
            self._shared.add(digest, identity, block.size)
        used: list[bytes] = []
        dropped: list[OpenBlock] = []  # closed after the guard is released
        with self._guard:
            if len(self._verified) >= _MAX_VERIFIED:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = identity, block.size
            replaced = self.open.pop(digest, None)
            if replaced is not None:
                dropped.append(replaced)
            while len(self.open) >= self._max_open:
                oldest = next(iter(self.open))
                candidate = self.open.pop(oldest)
                if candidate.used:
                    candidate.used = False
                    used.append(oldest)
                    self.open[oldest] = candidate
                else:
                    dropped.append(candidate)
            self.open[digest] = block
        for oldest in used:
            self._on_use(oldest)


def _identity(found: os.stat_result) -> Identity:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write_all(fd: int, data: Buffer) -> None:
    written = os.write(fd, data)
    view = memoryview(data)
    while written < len(view):
        written += os.write(fd, view[written:])


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _default_max_open() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_OPEN if soft == resource.RLIM_INFINITY else max(_MIN_OPEN, min(soft // 4, _MAX_OPEN))
