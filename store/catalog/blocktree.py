"""The tree of pages that lists the blocks of a file of many, and the extents that cover a range of any file.

Pages end by content, at the digests of blocks, so that an edit inside a file of a terabyte writes a few pages anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog.boundary import Boundary
from dvfs.store.catalog.columns import CRITICAL, Column, Kind, RawPage, Type, encode_page, pack_numbers
from dvfs.store.catalog.entry import BlockTreeRef, Content
from dvfs.store.catalog.locations import TAGS as LOCATION_TAGS
from dvfs.store.catalog.locations import Locations, encode_locations
from dvfs.store.codec import compress_page
from dvfs.store.errors import Corrupt
from dvfs.store.external import External

LENGTHS = 48
COUNTS = 49
_KNOWN = frozenset((LENGTHS, COUNTS)) | LOCATION_TAGS

LoadBlocks = Callable[[BlockRef], "BlocksPage"]


class BlocksPage:
    """A decoded page of a block tree. `ends`: where each child or block ends, in bytes from the start.

    `counts`: the blocks below each child; of no meaning in a page of blocks.
    """

    __slots__ = ("blocks", "count", "counts", "ends", "level", "weight")

    def __init__(self, data: bytes) -> None:
        """Decode and check the raw page *data*. Raises Corrupt, UnsupportedFormat."""
        page = RawPage(data)
        if page.kind not in (Kind.BLOCKS, Kind.BLOCKS_INNER) or (page.kind == Kind.BLOCKS_INNER) != (page.level > 0):
            raise Corrupt(f"page of kind {page.kind} where a page of blocks belongs")
        page.unknown(_KNOWN)
        self.weight = len(data)
        self.level = page.level
        self.blocks = Locations(page)
        if not page.count or len(self.blocks) != page.count:
            raise Corrupt("page of blocks: its number of blocks is not what it says")
        if self.level:
            lengths: Iterable[int] = page.numbers(LENGTHS, Type.U64, page.count)
            self.counts = page.numbers(COUNTS, Type.U64, page.count)
            self.count = sum(self.counts)
        else:
            self.counts = ()
            lengths = [block.raw for block in self.blocks.all()]
            self.count = page.count
        self.ends = list(accumulate(lengths))
        if 0 in lengths:
            raise Corrupt("page of blocks: an empty block")

    @property
    def size(self) -> int:
        """What the blocks below this page hold, in bytes."""
        return self.ends[-1]

    def child(self, index: int) -> BlockRef:
        """Return where child page *index* is. Raises Corrupt when it is no stored page."""
        block = self.blocks[index]
        if block.codec != Codec.RAW or block.raw != block.stored:
            raise Corrupt("page of blocks: a child is not referred to by its stored bytes")
        return block


def build(blocks: Iterable[BlockRef], boundary: Boundary, write: Callable[[bytes], BlockRef]) -> BlockTreeRef:
    """Write the tree of *blocks*, a file's in order and at least one, through *write*; return its root."""
    row = [(block, block.raw, 1) for block in blocks]
    level = 0
    while True:
        pages: list[tuple[BlockRef, int, int]] = []
        page: list[tuple[BlockRef, int, int]] = []
        for number, item in enumerate(row, 1):
            page.append(item)
            if number == len(row) or boundary.ends(level, len(page), 0, item[0].digest):
                stored = compress_page(_encode(level, page))
                pages.append((write(stored), sum([size for _, size, _ in page]), sum([n for _, _, n in page])))
                page = []
        if len(pages) == 1:
            return BlockTreeRef(pages[0][0], level, pages[0][2])
        row = pages
        level += 1


def _encode(level: int, page: list[tuple[BlockRef, int, int]]) -> bytes:
    columns = encode_locations([block for block, _, _ in page])
    if level:
        columns += [
            Column(LENGTHS, Type.U64, CRITICAL, pack_numbers(Type.U64, [size for _, size, _ in page])),
            Column(COUNTS, Type.U64, CRITICAL, pack_numbers(Type.U64, [number for _, _, number in page])),
        ]
    return encode_page(Kind.BLOCKS_INNER if level else Kind.BLOCKS, level, len(page), columns)


def extents(content: Content, start: int, length: int, load: LoadBlocks) -> list[Extent]:
    """Return the extents that cover *length* bytes from byte *start* of a file with *content*, cut to that range.

    Less comes back where the file ends. *load* brings the pages of a block tree. Raises Corrupt, and as *load*.
    """
    return list(iter_extents(content, start, length, load))


def iter_extents(content: Content, start: int, length: int, load: LoadBlocks) -> Iterator[Extent]:
    """Do as `extents`, one after another: a file may have 2^28 blocks."""
    stop = start + length
    if isinstance(content, BlockTreeRef):
        found = load(content.block).count
        if found != content.number:
            raise Corrupt(f"page of blocks {content.block.digest.hex()} has {found} blocks below, not {content.number}")
        yield from _below(content.block, content.level, start, stop, load)
        return
    if isinstance(content, External):
        yield from content.extents(start, stop)
        return
    at = 0
    for block, offset, size in content:
        first, last = max(start, at), min(stop, at + size)
        if first < last:
            yield Extent(block, offset + first - at, last - first)
        at += size


def _below(ref: BlockRef, level: int, start: int, stop: int, load: LoadBlocks) -> Iterator[Extent]:
    page = load(ref)
    if page.level != level:
        raise Corrupt(f"page of blocks {ref.digest.hex()} is of level {page.level}, not {level}")
    ends = page.ends
    for index in range(bisect_right(ends, start), len(ends)):
        begin = ends[index - 1] if index else 0
        if begin >= stop:
            break
        first, last = max(start, begin) - begin, min(stop, ends[index]) - begin
        if level:
            child = page.child(index)
            below = load(child)
            if (below.size, below.count) != (ends[index] - begin, page.counts[index]):
                raise Corrupt(f"page of blocks {child.digest.hex()} holds something else than its parent says")
            yield from _below(child, level - 1, first, last, load)
        else:
            yield Extent(page.blocks[index], first, last - first)


def all_blocks(content: Content, load: LoadBlocks) -> Iterator[BlockRef]:
    """Yield every block of a file with *content*, in order."""
    for block, _, _ in iter_extents(content, 0, 1 << 63, load):
        yield block


def pages_of(content: Content, load: LoadBlocks) -> Iterator[BlockRef]:
    """Yield the pages of the block tree of *content*, root first; none where the leaf lists the blocks."""
    if isinstance(content, BlockTreeRef):
        todo = [content.block]
        while todo:
            ref = todo.pop()
            yield ref
            page = load(ref)
            if page.level:
                todo += [page.child(index) for index in reversed(range(len(page.blocks)))]
