"""The files of a commit: their bytes come through the caller's `Reader`, and around edits alone where that is enough.

Thread-safe, as the reader is. What a handle stands for never changes: nothing here looks at stat.
"""

from __future__ import annotations

from collections.abc import Iterator

from dvfs.store.block import Extent
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.blocktree import LoadBlocks
from dvfs.store.catalog.entry import BlockTreeRef
from dvfs.store.change import Edited, Kept, Reader, bytes_of
from dvfs.store.cut import Cutting, cut_views
from dvfs.store.errors import Corrupt
from dvfs.store.external import External
from dvfs.store.recut import ReadAt, dirty_ranges, is_cut, recut
from dvfs.store.source import Source


class ReaderFiles:
    """`Files` behind *reader*; *load_blocks* brings the pages that list the blocks of the files under edits."""

    def __init__(self, reader: Reader, cutting: Cutting, load_blocks: LoadBlocks) -> None:
        self._reader = reader
        self._small_file_bytes = cutting.small_file_bytes
        self._load_blocks = load_blocks

    def refreshed(self, source: Source) -> Source:
        return source

    def read_whole(self, source: Source, data: memoryview) -> None:
        found = bytes_of(source)
        assert not isinstance(found, Kept)
        self._read_at(source, found.handle)(0, data)

    def has_old_blocks(self, source: Source) -> bool:
        found = bytes_of(source)
        return isinstance(found, Edited) and self._can_recut(source, found)

    def blocks(self, source: Source, cutting: Cutting) -> Iterator[memoryview | Extent]:
        found = bytes_of(source)
        assert not isinstance(found, Kept)
        read_at = self._read_at(source, found.handle)
        if isinstance(found, Edited) and self._can_recut(source, found):
            before = found.before
            old = blocktree.iter_extents(before.content, 0, before.size, self._load_blocks)
            dirty = dirty_ranges(found.written, floor=found.floor, before_size=before.size, size=source.size)
            yield from recut(old, dirty, source.size, cutting, read_at)
            return
        at = 0

        def readinto(window: memoryview) -> int:
            nonlocal at
            window = window[: source.size - at]
            if len(window):
                read_at(at, window)
            at += len(window)
            return len(window)

        yield from cut_views(readinto, cutting)

    def _can_recut(self, source: Source, edited: Edited) -> bool:
        before = edited.before
        if isinstance(before.content, External) or min(source.size, before.size) <= self._small_file_bytes:
            return False
        return isinstance(before.content, BlockTreeRef) or is_cut(before.content)

    def _read_at(self, source: Source, handle: bytes) -> ReadAt:
        """Return what fills a view with bytes of *source*. That raises Corrupt where the bytes end too early."""
        readinto = self._reader.readinto

        def read_at(start: int, view: memoryview) -> None:
            done = 0
            while done < len(view):
                count = readinto(handle, start + done, view[done:])
                if count <= 0:
                    raise Corrupt(f"{source.path!r} ends after {start + done} of its {source.size} bytes")
                done += count

        return read_at
