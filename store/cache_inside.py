"""Which blocks of whole files were verified, or written, where they are in them, by this process.

Thread-safe.
"""

from __future__ import annotations

import os
import threading

from dvfs.store.cache_open import OpenFile

_MOST_BLOCKS = 1 << 16


class _Inside:
    """A whole file, kept open, and digest and start of the *blocks* verified in it."""

    __slots__ = ("_inode", "blocks", "file")

    def __init__(self, file: OpenFile, found: os.stat_result) -> None:
        self.file = file
        self._inode = found.st_dev, found.st_ino
        self.blocks: set[tuple[bytes, int]] = set()

    def is_of(self, found: os.stat_result) -> bool:
        return self._inode == (found.st_dev, found.st_ino)


class VerifiedInside:
    """The blocks that were noted, by file.

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
                    inside = _Inside(OpenFile(os.dup(fd)), found)
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
        gone = [(file, inside) for file, inside in files if inside.file.is_removed]
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
