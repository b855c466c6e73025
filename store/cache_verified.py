"""Which blocks were verified, for several processes that use one cache together.

A process verifies each file of the cache when it first opens it, and again when the file has changed since. Processes
that share a `SharedVerified` verify it once for all of them.

Thread-safe, and safe between processes: a slot is written and read as a whole, and whoever finds another file's there
verifies. Reads no file.
"""

from __future__ import annotations

import mmap
import os
import struct

from dvfs.store.digest import DIGEST_SIZE, block_digest

_SLOTS = 1 << 16
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


def identity_of(found: os.stat_result, start: int = 0, length: int | None = None) -> Identity:
    """Return what tells the file *found*, or a block of *length* bytes from *start* in it, from what is there later."""
    size = found.st_size if length is None else length
    return found.st_ino, size, found.st_mtime_ns, found.st_ctime_ns, start
