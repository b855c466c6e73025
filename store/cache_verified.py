"""Which blocks were verified: for several processes that use one cache together, and inside whole files.

A process verifies each file of the cache when it first opens it, and again when the file has changed since. Processes
that share a `SharedVerified` verify it once for all of them.

Thread-safe, and safe between processes: a slot is written and read as a whole, and whoever finds another file's there
verifies. Reads no file.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Callable

from dvfs.store.digest import DIGEST_SIZE, block_digest

_SLOTS = 1 << 16
_MOST_BLOCKS = 1 << 16
_SLOT_BYTES = 8
_EMPTY = bytes(_SLOT_BYTES)
_FILE = struct.Struct("=5qq")

Identity = tuple[int, int, int, int, int]
"""What changes when the bytes of a block that was verified change: inode of its file, its size, times of the bytes and
of the inode, where in the file it starts."""


class SharedVerified:
    """Memory that is shared with the processes forked after it was made: what `add` noted in one, all know.

    *slots*: the most files that are remembered; which of two that share one is, is left to chance.
    """

    def __init__(self, slots: int = _SLOTS) -> None:
        self._slots = slots
        self._memory = mmap.mmap(-1, slots * _SLOT_BYTES)

    def add(self, digest: bytes, identity: Identity, length: int) -> None:
        """Note that the file of the block *digest*, of *length* bytes, was verified when it had that *identity*."""
        at, word = self._place(digest, identity, length)
        self._memory[at : at + _SLOT_BYTES] = word

    def length(self, digest: bytes, identity: Identity) -> int | None:
        """Return the length of the block *digest* if its file was verified with that *identity*, else None."""
        size = identity[1]
        for length in (size, size - DIGEST_SIZE):  # with a seal behind it
            at, word = self._place(digest, identity, length)
            if self._memory[at : at + _SLOT_BYTES] == word:
                return length
        return None

    def forget(self, digest: bytes, identity: Identity, length: int) -> None:
        """Have the file verified again that `add` noted."""
        at, word = self._place(digest, identity, length)
        if self._memory[at : at + _SLOT_BYTES] == word:
            self._memory[at : at + _SLOT_BYTES] = _EMPTY

    def _place(self, digest: bytes, identity: Identity, length: int) -> tuple[int, bytes]:
        """Return where it is noted, and the 8 bytes that stand for it there: no other file has these."""
        found = block_digest(digest + _FILE.pack(*identity, length))
        return int.from_bytes(found[:8]) % self._slots * _SLOT_BYTES, found[8 : 8 + _SLOT_BYTES]


class VerifiedInside:
    """Which blocks of whole files were verified, or written, where they are in them, by this process.

    A whole file grows, so its times tell nothing. What was verified holds for as long as it is the same file: a
    descriptor that is kept of it sees to it that no other file gets its inode number. *most_files* are remembered, and
    *most_blocks* of all of them; files that were noted longest ago are forgotten first.
    """

    def __init__(self, most_files: int, most_blocks: int = _MOST_BLOCKS) -> None:
        self._most_files = most_files
        self._most_blocks = most_blocks
        self._lock = threading.Lock()  # no file is closed under it: that may take long
        self._files: dict[bytes, _Inside] = {}  # that which was noted last comes last
        self._blocks = 0

    def note(self, fd: int, found: os.stat_result, file: bytes, digest: bytes, start: int) -> None:
        """Note that the block *digest* is at *start* in the whole file *file*, open as *fd*, which is *found*."""
        dropped: list[_Inside | None] = []
        with self._lock:
            inside = self._take(file)
            if inside is None or not inside.is_of(found):
                dropped.append(inside)
                try:
                    inside = _Inside(os.dup(fd), found)
                except OSError:
                    return  # it is verified again
            inside.blocks.add((digest, start))
            while self._files and (
                len(self._files) >= self._most_files or self._blocks + len(inside.blocks) > self._most_blocks
            ):
                dropped.append(self._take(next(iter(self._files))))
            self._files[file] = inside
            self._blocks += len(inside.blocks)
        del dropped

    def has(self, found: os.stat_result, file: bytes, digest: bytes, start: int) -> bool:
        """Tell whether the block *digest* was noted at *start* in the whole file *file*, if that is *found*."""
        with self._lock:
            inside = self._files.get(file)
            return inside is not None and inside.is_of(found) and (digest, start) in inside.blocks

    def forget(self, file: bytes, digest: bytes | None = None) -> None:
        """Have the block *digest* in the whole file *file* verified again; None: all blocks in it."""
        with self._lock:
            inside = self._take(file)
            if inside is not None and digest is not None:
                inside.blocks = {block for block in inside.blocks if block[0] != digest}
                self._files[file] = inside
                self._blocks += len(inside.blocks)

    def sweep(self) -> None:
        """Forget the files that were removed, whose bytes the disk still holds."""
        with self._lock:
            files = list(self._files.items())
        gone = [(file, inside) for file, inside in files if os.fstat(inside.fd).st_nlink == 0]
        with self._lock:
            for file, inside in gone:
                if self._files.get(file) is inside:
                    self._take(file)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            files, self._files, self._blocks = self._files, {}, 0
        files.clear()

    def _take(self, file: bytes) -> _Inside | None:
        inside = self._files.pop(file, None)
        self._blocks -= 0 if inside is None else len(inside.blocks)
        return inside


class _Inside:
    """A whole file, open as *fd*, and digest and start of the *blocks* verified in it."""

    __slots__ = ("_inode", "blocks", "fd")

    def __init__(self, fd: int, found: os.stat_result) -> None:
        self.fd = fd
        self._inode = found.st_dev, found.st_ino
        self.blocks: set[tuple[bytes, int]] = set()

    def is_of(self, found: os.stat_result) -> bool:
        return self._inode == (found.st_dev, found.st_ino)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


def identity_of(found: os.stat_result, start: int = 0, length: int | None = None) -> Identity:
    """Return what tells the file *found*, or a block of *length* bytes from *start* in it, from what is there later."""
    size = found.st_size if length is None else length
    return found.st_ino, size, found.st_mtime_ns, found.st_ctime_ns, start
