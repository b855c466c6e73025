"""Makes a large file whole in the cache, once all its blocks are there: those that lie elsewhere are copied into it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dvfs.store.cache_files import BlockFiles
from dvfs.store.cache_keeper import Keeper
from dvfs.store.cache_locks import FetchLocks
from dvfs.store.cache_verified import Identity, identity_of
from dvfs.store.cache_whole import Place, WholeFiles, holds, is_blank, write_at
from dvfs.store.digest import block_digest, file_digest

_UNVERIFIED_SHARE = 8
"""Where more than one block in so many is still to be verified, it is left to readers, who come to most of them."""


class Join:
    """One attempt to make the file *file* of *size* bytes whole.

    *blocks*: digest, start and length of each, in order.
    """

    def __init__(
        self,
        files: BlockFiles,
        whole: WholeFiles,
        keeper: Keeper,
        locks: FetchLocks,
        file: bytes,
        size: int,
        blocks: Sequence[tuple[bytes, int, int]],
    ) -> None:
        self._files = files
        self._whole = whole
        self._keeper = keeper
        self._locks = locks
        self._file = file
        self._size = size
        self._blocks = blocks

    def run(self) -> Identity | None:
        """Return what the whole file can be told by, if it is here now and all of it was verified; else None.

        Raises OSError, IndexBusy, ImportError.
        """
        if not self._is_named_so():
            return None
        if not self._are_here():
            self._files.sweep_open()  # what others evicted is read on as long as it is open, and fetched after that
            return None
        fd = self._files.open_to_write(self._file, self._size, replace=True)
        try:
            if not self._fill(fd):
                return None
            found, there = os.fstat(fd), os.stat(self._whole.path(self._file), follow_symlinks=False)
            return identity_of(found) if os.path.samestat(found, there) else None  # it may have been evicted meanwhile
        finally:
            os.close(fd)

    def _are_here(self) -> bool:
        """Tell whether all blocks are here. Those that are on their way, readers may have had already, are waited for:
        the last ones first, as behind one that nobody fetches it is in vain."""
        missing = [digest for digest, _, _ in self._blocks if not self._files.exists(digest)]
        for digest in reversed(missing):
            with self._locks.fetching(digest):
                pass
            if not self._files.exists(digest):
                return False
        return True

    def _is_named_so(self) -> bool:
        """Tell whether the blocks make up the file of that digest, so that no others ever belong there."""
        at = 0
        for _, start, length in self._blocks:
            if start != at:
                return False
            at += length
        digests = [digest for digest, _, _ in self._blocks]
        named = digests[0] if len(digests) == 1 else file_digest(self._size, digests)
        return at == self._size and named == self._file

    def _fill(self, fd: int) -> bool:
        found = os.fstat(fd)
        unverified: list[tuple[bytes, Place]] = []
        elsewhere: list[tuple[bytes, Place, Place | None]] = []
        for digest, start, length in self._blocks:
            place = Place(self._file, start, length)
            there = self._files.place(digest)
            if there != place:
                elsewhere.append((digest, place, there))
            elif not self._files.is_verified_in(found, digest, place):
                unverified.append((digest, place))
        if len(unverified) * _UNVERIFIED_SHARE > len(self._blocks):
            return False
        for digest, place in unverified:
            if not holds(fd, digest, place):
                self._files.load(digest)  # which finds out what is wrong
                return False
            self._files.inside.note(fd, found, self._file, digest, place.start)
        return self._bring(fd, found, elsewhere)

    def _bring(self, fd: int, found: os.stat_result, elsewhere: Sequence[tuple[bytes, Place, Place | None]]) -> bool:
        """Copy blocks into *fd* that are not there; return whether all could be had. Files of their own go.

        A block that is in the file twice has a link to one of its places, and is here for the other.
        """
        missing = {place for digest, place, _ in elsewhere if is_blank(fd, place) or not holds(fd, digest, place)}
        others = sum(place.length for _, place, there in elsewhere if place in missing and there is not None)
        if others and others > self._keeper.spare_bytes():
            return False
        gone: list[bytes] = []
        try:
            for digest, place, there in elsewhere:
                if place in missing and not self._copy(fd, digest, place):
                    return False
                if there is None:
                    self._files.link(digest, place)
                    self._files.let_go(digest)
                    gone.append(digest)
                self._files.inside.note(fd, found, self._file, digest, place.start)
        finally:
            if elsewhere:
                self._keeper.note_grown(self._file, others)
                self._keeper.forget([digest for digest in gone if digest != self._file])
        return True

    def _copy(self, fd: int, digest: bytes, place: Place) -> bool:
        loaded = self._files.load(digest)
        if loaded is None:
            return False
        block, data = loaded
        if data is None:
            data = memoryview(os.pread(block.fd, block.size, block.start))
        if len(data) != place.length or block_digest(data) != digest:  # of a sealed one they are not
            return False
        write_at(fd, [data], place.start)
        return True
