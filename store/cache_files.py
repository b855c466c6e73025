"""The blocks of the cache: written to a temporary name and renamed, verified when first opened, kept open.

A file is the bytes of the block that its name is the digest of; or, of a range of an external file, the bytes and
behind them 32 more, the seal: a digest over the name and the bytes. In a file's place there may be a link into a large
file that is kept in one piece; see `cache_whole.py`.

Threading rule: `BlockFiles` is thread-safe. Finding an open block takes no lock.

Files are read with pread, never mapped: of a mapped file that is truncated the next access is SIGBUS.
This module counts no bytes and evicts nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from dvfs.store.cache_inside import VerifiedInside
from dvfs.store.cache_open import OpenBlock, OpenFile, Scratch, default_max_open, verified_bytes
from dvfs.store.cache_temporary import TemporaryFiles, unlinked
from dvfs.store.cache_verified import Identity, SharedVerified
from dvfs.store.cache_whole import (
    FILE_FLAGS,
    Place,
    WholeFiles,
    identity_at,
    is_blank,
    is_link,
    place_of,
    unlink_pointer,
    write_at,
)
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.digest import Buffer
from dvfs.store.ext4 import spread_folders_in
from dvfs.store.log_once import LogOnce

SHARDS = 256

_MAX_VERIFIED = 1 << 16
_LOADING = 64
_WRITING = 16

_INSIDE_SHARE = 4
"""One whole file is kept open for each so many blocks."""

_UNKNOWN: tuple[Identity, int] = (0, 0, 0, 0, 0), 0


class BlockFiles:
    """The files under `blocks/` of the cache folder *root*, and what of *whole* lies behind links there.

    *on_use* is called with a row when a block of it was used since the last such call, at the latest when its
    descriptor is closed. *max_open* bounds the descriptors kept; the default is a quarter of what the process may.
    Crash points: `fetch:after-temp` (created, empty), `fetch:before-rename` (whole), `fetch:after-rename`; of a block
    in a whole file `whole:before-link` (its bytes are there), `whole:after-link`.
    """

    def __init__(
        self,
        root: Path,
        temporary: TemporaryFiles,
        whole: WholeFiles,
        *,
        log: LogOnce,
        on_use: Callable[[bytes], None],
        max_open: int | None = None,
        crash: CrashPoint = no_crash,
    ) -> None:
        self._blocks = os.fspath(root / "blocks")
        self._temporary = temporary
        self._whole = whole
        self._log = log
        self._on_use = on_use
        self._crash = crash
        self._max_open = max_open or default_max_open()
        self._scratch = Scratch()
        self._guard = threading.Lock()  # over changes of the two dicts; never held across I/O
        self._writing = [threading.Lock() for _ in range(_WRITING)]  # by file; ext4 lets nobody else write it
        self._loading = [threading.Lock() for _ in range(_LOADING)]  # by digest; held while a block is read
        self._verified: dict[bytes, tuple[Identity, int]] = {}  # and how long the block is
        self.inside = VerifiedInside(max(1, self._max_open // _INSIDE_SHARE))
        self._shared: SharedVerified | None = None
        self.open: dict[bytes, OpenBlock] = {}
        """Open blocks by digest, least recently used first (by second chance); only this class changes it."""

    def share_verified(self, shared: SharedVerified) -> None:
        """Verify no file that *shared* knows, and tell it what is verified here. To be called before the first use."""
        self._shared = shared

    def folder(self, shard: int) -> str:
        """Return where the blocks are whose digests begin with the byte *shard*."""
        return f"{self._blocks}/{shard:02x}"

    def make_folders(self) -> None:
        """Make the folders of all shards where the last one is not there. Raises OSError."""
        if not os.path.isdir(self.folder(SHARDS - 1)):
            for shard in range(SHARDS):
                self._make_folder(self.path(bytes([shard])))

    def path(self, digest: bytes) -> str:
        """Return where the block *digest* is, or would be."""
        name = digest.hex()
        return f"{self._blocks}/{name[:2]}/{name}"

    def exists(self, digest: bytes) -> bool:
        """Tell whether there is a file for *digest*, unverified."""
        path = self.path(digest)
        try:
            return not stat.S_ISLNK(os.lstat(path).st_mode) or self._whole.leads_to_a_file(path)
        except OSError:
            return False

    def is_verified_in(self, found: os.stat_result, digest: bytes, place: Place) -> bool:
        """Tell whether this process verified the block *digest* at *place* in the whole file that is *found*."""
        if self.inside.has(found, place.file, digest, place.start):
            return True
        block = self.open.get(digest)
        return (
            block is not None
            and Place(block.row, block.start, block.size) == place
            and os.path.samestat(os.fstat(block.fd), found)
        )

    def place(self, digest: bytes) -> Place | None:
        """Return where the block *digest* lies, None when it lies in no whole file. Raises nothing."""
        try:
            return place_of(self.path(digest))
        except OSError:
            return None

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
            block, place = self._opened(digest)
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._log.warning(("open", exc.errno), "cache file %s cannot be opened: %s", path, exc)
            return None
        try:
            found = os.fstat(block.fd)
            identity = identity_at(found, place)
            data = None
            known = self._known(digest, identity)
            if known[0] != identity:
                data = verified_bytes(block.fd, found, digest, place, self._scratch.of, into)
                if data is None:
                    if place is not None and is_blank(block.fd, place):
                        unlink_pointer(path, place)
                    else:
                        self.remove_damaged(digest, block, "its bytes do not have the digest of its name")
                    return None
        except OSError as exc:
            self.remove_damaged(digest, block, str(exc))
            return None
        block.size = len(data) if data is not None else known[1]
        self._keep(digest, block, found, place)
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
            block, place = self._opened(digest)
        except OSError:
            return
        with contextlib.suppress(OSError):  # it is no file
            os.posix_fadvise(block.fd, block.start, 0 if place is None else place.length, os.POSIX_FADV_WILLNEED)

    def write(self, digest: bytes, data: Buffer, seal: bytes = b"") -> None:
        """Make *data* the block *digest*, and keep it open. Raises OSError; then nothing is left behind.

        *seal*: of bytes whose digest is not *digest*, what `seal_of` gives; it is written behind them.
        """
        temporary, fd = self._temporary.create()
        block = OpenBlock(OpenFile(fd), len(data), digest)
        try:
            self._crash("fetch:after-temp")
            write_at(fd, [data, seal], 0)
            self._crash("fetch:before-rename")
            self._rename(temporary, self.path(digest))
        except BaseException:
            unlinked(temporary)
            raise
        self._crash("fetch:after-rename")
        self._keep(digest, block, os.fstat(fd))

    def link_and_keep(self, fd: int, blocks: Sequence[tuple[bytes, Place]]) -> bool:
        """Say of *blocks* that they lie in the whole file that is open as *fd*, where they were written, and keep them
        open; return whether it still has its name. Raises OSError."""
        for digest, place in blocks:
            self._crash("whole:before-link")
            self.link(digest, place)
            self._crash("whole:after-link")
        found = os.fstat(fd)
        if not found.st_nlink:
            return False  # it was evicted meanwhile
        file = OpenFile(os.dup(fd))
        for digest, place in blocks:
            self._keep(digest, OpenBlock(file, place.length, place.file, place.start), found, place)
        return True

    def open_to_write(self, file: bytes, size: int, *, replace: bool = False) -> int:
        """Return what `WholeFiles.open_to_write` does, having seen that this process is known to write."""
        self._temporary.begin()
        return self._whole.open_to_write(file, size, replace=replace)

    def writing(self, file: bytes) -> threading.Lock:
        """Return what to hold while the whole file *file* is written: who waits in the kernel wastes a processor."""
        return self._writing[file[-1] % _WRITING]

    def link(self, digest: bytes, place: Place) -> None:
        """Say that the block *digest* lies at *place*; a file of its own goes. Raises OSError."""
        path, target = self.path(digest), place.encode()
        try:
            try:
                os.symlink(target, path)
            except FileNotFoundError:
                self._make_folder(path)
                os.symlink(target, path)
            return
        except FileExistsError:
            pass
        temporary = self._temporary.new_path()
        try:
            os.symlink(target, temporary)
        except FileNotFoundError:
            self._temporary.make_folder(temporary)
            os.symlink(target, temporary)
        try:
            os.rename(temporary, path)
        except BaseException:
            unlinked(temporary)
            raise

    def remove(self, row: bytes) -> None:
        """Remove the file that the index has in *row*, if it is there; who reads it reads on. Raises OSError."""
        path = self.path(row)
        if not is_link(path):  # else the row was left when the block came to lie in a whole file
            self.let_go(row)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._whole.path(row))
            self._let_go_inside(row)

    def remove_damaged(self, digest: bytes, block: OpenBlock, why: str) -> None:
        """Remove the file that *block* has open, unless its name belongs to another file by now; log its name."""
        path = self.path(digest)
        self.let_go(digest)
        try:
            ours, there = os.fstat(block.fd), os.lstat(path)
            if not os.path.samestat(ours, there):
                if self.place(digest) != Place(block.row, block.start, block.size):
                    return
                self.inside.forget(block.row, digest)
                with contextlib.suppress(OSError):
                    os.utime(self._whole.path(block.row), follow_symlinks=False)  # it is not what it was joined as
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

    def _let_go_inside(self, file: bytes) -> None:
        """Close all blocks in the whole file *file*."""
        with self._guard:
            inside = [digest for digest, block in self.open.items() if block.row == file]
        for digest in inside:
            self.let_go(digest)
        self.inside.forget(file)

    def let_all_go(self) -> None:
        """Close all blocks."""
        with self._guard:
            self.open.clear()
            self._verified.clear()
        self.inside.clear()

    def sweep_open(self) -> None:
        """Report all blocks used, and close those that were removed by others, whose bytes the disk still holds."""
        with self._guard:
            blocks = list(self.open.items())
        removed = {file: file.is_removed for file in {block.file for _, block in blocks}}
        for digest, block in blocks:
            if block.used:
                block.used = False
                self._on_use(block.row)
            if removed[block.file]:
                self.let_go(digest)
        self.inside.sweep()

    def is_sound(self, digest: bytes) -> bool:
        """Tell whether the file of *digest* holds its block now. Raises OSError (not there, not readable)."""
        block, place = self._opened(digest)
        if verified_bytes(block.fd, os.fstat(block.fd), digest, place, self._scratch.of) is not None:
            return True
        if place is not None:
            self.inside.forget(place.file, digest)
            if is_blank(block.fd, place):
                path = self.path(digest)
                unlink_pointer(path, place)
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return False

    def _opened(self, digest: bytes) -> tuple[OpenBlock, Place | None]:
        """Open what there is for *digest*, unverified; its size is not known yet, but by its place. Raises OSError."""
        path = self.path(digest)
        try:
            return self._open_at(path, digest)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._guard:
            for other in list(self.open)[: (len(self.open) + 1) // 2]:
                del self.open[other]
        return self._open_at(path, digest)

    def _open_at(self, path: str, digest: bytes) -> tuple[OpenBlock, Place | None]:
        try:
            return OpenBlock(OpenFile(os.open(path, os.O_RDONLY | FILE_FLAGS)), 0, digest), None
        except OSError as exc:
            if exc.errno != errno.ELOOP:
                raise
        fd, place = self._whole.open_block(path)
        return OpenBlock(OpenFile(fd), place.length, place.file, place.start), place

    def _rename(self, temporary: str, path: str) -> None:
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            self._make_folder(path)
            os.rename(temporary, path)

    def _make_folder(self, path: str) -> None:
        """Make the folder that the block at *path* is in. Raises OSError."""
        if not os.path.isdir(self._blocks):
            os.makedirs(self._blocks, exist_ok=True)
            spread_folders_in(self._blocks)  # where links are made
        os.makedirs(os.path.dirname(path), exist_ok=True)

    def _keep(self, digest: bytes, block: OpenBlock, found: os.stat_result, place: Place | None = None) -> None:
        identity = identity_at(found, place)
        if place is not None:
            self.inside.note(block.fd, found, place.file, digest, place.start)
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
                    used.append(candidate.row)
                    self.open[oldest] = candidate
                else:
                    dropped.append(candidate)
            self.open[digest] = block
        for row in used:
            self._on_use(row)
