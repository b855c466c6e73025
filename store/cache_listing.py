"""What is in the folders of the cache, for those who go through all of it: the index, `verify` and `clear`.

Thread-safe, and others may write and remove at the same time: what was listed may be gone. Verifies nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat

from dvfs.store.cache_files import SHARDS, BlockFiles
from dvfs.store.cache_temporary import unlinked
from dvfs.store.cache_whole import WholeFiles, is_link, names_in
from dvfs.store.digest import DIGEST_SIZE


class Listing:
    """What *files* and *whole* have on the disk.

    The index has a row for each file: that of a block in a file of its own has the digest of the block, that of a
    large file the digest of the file. A link into a large file has none.
    """

    def __init__(self, files: BlockFiles, whole: WholeFiles) -> None:
        self._files = files
        self._whole = whole

    def blocks(self) -> list[str]:
        """Return the paths of all blocks, links too, and of what lies among them. Raises OSError."""
        paths: list[str] = []
        for shard in range(SHARDS):
            folder = self._files.folder(shard)
            with contextlib.suppress(NotADirectoryError, PermissionError):
                paths += (f"{folder}/{name}" for name in names_in(folder))
        return paths

    def whole_files(self) -> list[str]:
        """Return the paths of all whole files. Raises OSError."""
        paths: list[str] = []
        for shard in range(SHARDS):
            with contextlib.suppress(NotADirectoryError, PermissionError):
                paths += map(self._whole.path, self._whole.rows(shard))
        return paths

    def rows(self, shard: int) -> set[bytes]:
        """Return the rows that the index should have of *shard*; links that lead nowhere go. Raises OSError."""
        found = self.whole_rows(shard)
        try:
            with os.scandir(self._files.folder(shard)) as entries:
                for entry in entries:
                    digest = self.digest_of(entry.path)
                    if digest is None:
                        continue
                    if not entry.is_symlink():
                        found.add(digest)
                    elif not self._files.exists(digest) and is_link(entry.path):  # as it still is
                        unlinked(entry.path)
        except FileNotFoundError:
            pass
        return found

    def whole_rows(self, shard: int) -> set[bytes]:
        """Return those rows of *shard* that are whole files. Raises OSError."""
        return set(self._whole.rows(shard))

    def row(self, row: bytes) -> tuple[int, int] | None:
        """Return bytes and time in ns, for the index, of what *row* stands for; None when it is not there."""
        for path, is_whole in ((self._files.path(row), False), (self._whole.path(row), True)):
            try:
                found = os.lstat(path)
            except OSError:
                continue
            if not stat.S_ISLNK(found.st_mode):
                return found.st_blocks * 512 if is_whole else found.st_size, found.st_mtime_ns
        return None

    def digest_of(self, path: str) -> bytes | None:
        """Return the digest that the listed *path* stands for; None when no block is named so."""
        try:
            digest = bytes.fromhex(os.path.basename(path))
        except ValueError:
            return None
        return digest if len(digest) == DIGEST_SIZE and self._files.path(digest) == path else None
