"""Leaf pages: runs of entries that are neighbours in the catalog's order, in columns.

An encoded page is a function of its entries; a decoded one answers from its columns and makes an `Entry` only where one
is asked for. Immutable and thread-safe once made.
"""

from __future__ import annotations

import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from operator import lt

from dvfs.store.block import BlockRef, Extent
from dvfs.store.catalog.columns import (
    CRITICAL,
    DIGESTED,
    WIDTH,
    Column,
    Kind,
    RawPage,
    Type,
    encode_page,
    pack_numbers,
    unpack_numbers,
)
from dvfs.store.catalog.entry import BlockTreeRef, Content, Entry, Extra, Item
from dvfs.store.catalog.key import NAME_MAX, join, split
from dvfs.store.catalog.locations import TAGS as LOCATION_TAGS
from dvfs.store.catalog.locations import Locations, encode_locations
from dvfs.store.digest import file_digest, leaf_digest
from dvfs.store.errors import Corrupt
from dvfs.store.external import External, from_bytes, to_bytes

NAMES = 1
PARENTS = 2
RUNS = 3
MODES = 4
SIZES = 5
MTIMES = 6
DIGESTS = 7
TARGETS = 8
EXTENTS = 9
EXTENT_BLOCK = 10
EXTENT_START = 11
EXTERNALS = 67
_KNOWN = frozenset((*range(NAMES, EXTENT_START + 1), EXTERNALS)) | LOCATION_TAGS

TREE = 0xFFFF
"""In column EXTENTS: the blocks are in a tree of pages; EXTENT_START has its level << 28 | its number of blocks."""

INLINE_BLOCKS = 64
"""Files of up to so many blocks list them in the leaf."""

_BOTH = DIGESTED | CRITICAL


def encode_leaf(items: Sequence[Item]) -> bytes:
    """Return the raw page of *items*, which are in order of key."""
    keys = [split(key) for key, _ in items]
    entries = [entry for _, entry in items]
    parents: list[bytes] = []
    runs: list[int] = []
    for parent, _ in keys:
        if parents and parents[-1] == parent:
            runs[-1] += 1
        else:
            parents.append(parent)
            runs.append(1)
    mode, size, mtime, digest, content, target, extra = (
        zip(*entries, strict=True) if entries else ((), (), (), (), (), (), ())
    )
    columns = [
        # A page of the root entry alone has one name, which is empty: a column of zero bytes, left out like any other.
        Column(NAMES, Type.BYTES, _BOTH, b"\0".join([name for _, name in keys])),
        Column(PARENTS, Type.BYTES, _BOTH, b"\0\0".join(parents)),
        Column(RUNS, Type.BYTES, _BOTH, pack_numbers(Type.U32, runs)),
        Column(MODES, Type.U16, _BOTH, pack_numbers(Type.U16, mode)),
        Column(SIZES, Type.U64, _BOTH, pack_numbers(Type.U64, size)),
        Column(MTIMES, Type.I64, CRITICAL, pack_numbers(Type.I64, mtime)),
        Column(DIGESTS, Type.DIGEST, _BOTH, b"".join(digest)),
        Column(TARGETS, Type.BYTES, _BOTH, b"\0".join([text for text in target if text])),
        *_encode_content([() if isinstance(where, External) else where for where in content]),
        *_encode_externals(content),
        *_encode_extra(extra),
    ]
    return encode_page(Kind.LEAF, 0, len(items), columns)


def _encode_externals(contents: Sequence[Content]) -> list[Column]:
    """Return the column of external files. It is not digested: the digest of each covers all that it says."""
    found = [to_bytes(content) if isinstance(content, External) else b"" for content in contents]
    if not any(found):
        return []
    return [Column(EXTERNALS, Type.VAR, CRITICAL, pack_numbers(Type.U32, map(len, found)) + b"".join(found))]


def _encode_content(contents: Sequence[tuple[Extent, ...] | BlockTreeRef]) -> list[Column]:
    numbers: list[int] = []
    index: dict[BlockRef, int] = {}
    extent_block: list[int] = []
    extent_start: list[int] = []
    for content in contents:
        if isinstance(content, BlockTreeRef):
            numbers.append(TREE)
            extent_block.append(index.setdefault(content.block, len(index)))
            extent_start.append(content.level << 28 | content.number)
            continue
        numbers.append(len(content))
        for block, start, _ in content:
            extent_block.append(index.setdefault(block, len(index)))
            extent_start.append(start)
    if not index:
        return []
    return [
        Column(EXTENTS, Type.U16, CRITICAL, pack_numbers(Type.U16, numbers)),
        Column(EXTENT_BLOCK, Type.BYTES, CRITICAL, pack_numbers(Type.U32, extent_block)),
        Column(EXTENT_START, Type.BYTES, CRITICAL, pack_numbers(Type.U32, extent_start)),
        *encode_locations(list(index)),
    ]


def _encode_extra(extras: Sequence[tuple[Extra, ...]]) -> list[Column]:
    if not any(extras):
        return []
    shapes = {value.tag: value for values in extras for value in values}
    columns = []
    for tag, shape in shapes.items():
        found = [next((value.value for value in values if value.tag == tag), b"") for values in extras]
        if shape.type == Type.VAR:
            data = pack_numbers(Type.U32, map(len, found)) + b"".join(found)
        else:
            width = WIDTH[Type(shape.type)]
            data = b"".join([value.ljust(width, b"\0") for value in found])
        columns.append(Column(tag, shape.type, shape.flags, data))
    return columns


class Leaf:
    """A decoded leaf page. `modes`, `sizes`, `mtimes` hold one number for each entry; `names` one name."""

    __slots__ = (
        "_digests", "_extent_block", "_extent_start", "_extents", "_externals", "_extra", "_first_extent", "_locations",
        "_targets", "content", "count", "files", "key", "modes", "mtimes", "names", "parents", "size", "sizes",
        "starts", "weight",
    )  # fmt: skip

    level = 0

    def __init__(self, data: bytes) -> None:
        """Decode and check the raw page *data*. Raises Corrupt, UnsupportedFormat."""
        page = RawPage(data)
        if page.kind != Kind.LEAF or page.level:
            raise Corrupt(f"page of kind {page.kind} where a leaf page belongs")
        self.weight = len(data)
        self.count = count = page.count
        self.content = leaf_digest(page.digested())
        self._read_keys(page)
        self.modes = page.numbers(MODES, Type.U16, count)
        self.sizes = page.numbers(SIZES, Type.U64, count)
        self.mtimes = page.numbers(MTIMES, Type.I64, count)
        self._digests = page.digests(DIGESTS, count)
        self._read_content(page)
        self._externals = {index: value for index, value in enumerate(_values(page, EXTERNALS, count)) if value}
        self._read_kinds(page)
        self._extra = _decode_extra(page, count)

    def _read_keys(self, page: RawPage) -> None:
        count = page.count
        packed = page.bytes_of(RUNS)
        if len(packed) % 4:
            raise Corrupt("leaf page: its runs end inside a number")
        runs = unpack_numbers(Type.U32, packed) if packed else ()
        self.names = page.bytes_of(NAMES).split(b"\0") if count else []
        self.parents = page.bytes_of(PARENTS).split(b"\0\0") if count else []
        self.starts = list(accumulate(runs, initial=0))
        if len(self.names) != count or len(runs) != len(self.parents) or self.starts[-1] != count:
            raise Corrupt("leaf page: names, parents and runs do not fit its number of entries")
        if not count:
            self.key = b""
            return
        if 0 in runs or not all(map(lt, self.parents, islice(self.parents, 1, None))):
            raise Corrupt("leaf page: parents are out of order")
        for start, stop in zip(self.starts, islice(self.starts, 1, None), strict=False):
            run = self.names[start:stop]
            if not all(map(lt, run, islice(run, 1, None))):
                raise Corrupt("leaf page: names are out of order")
        has_root = not self.names[0] and not self.parents[0]
        _check_names(self.names[1:] if has_root else self.names)
        parents = self.parents if self.parents[0] else self.parents[1:]
        if parents:
            _check_names(b"\0".join(parents).split(b"\0"))
        self.key = self.key_at(0)

    def _read_content(self, page: RawPage) -> None:
        self._locations = Locations(page)
        self._extents = page.numbers(EXTENTS, Type.U16, page.count if EXTENTS in page.columns else 0)
        blocks = page.bytes_of(EXTENT_BLOCK)
        starts = page.bytes_of(EXTENT_START)
        numbers = self._extents
        if TREE in numbers:
            numbers = [1 if number == TREE else number for number in numbers]
        self._first_extent = list(accumulate(numbers, initial=0))
        if len(blocks) != 4 * self._first_extent[-1] or len(starts) != len(blocks):
            raise Corrupt("leaf page: extents do not fit their number")
        self._extent_block = unpack_numbers(Type.U32, blocks)
        self._extent_start = unpack_numbers(Type.U32, starts)
        if len(self._extent_block) and max(self._extent_block) >= self._locations.count:
            raise Corrupt("leaf page: an extent names a block that the page does not list")

    def _read_kinds(self, page: RawPage) -> None:
        sizes = self.sizes
        self._targets: dict[int, bytes] = {}
        if all(map(stat.S_ISREG, set(self.modes))):  # so it is mostly
            self.files, self.size = self.count, sum(sizes)
            if page.bytes_of(TARGETS):
                raise Corrupt("leaf page: targets without links")
            return
        files = [index for index, mode in enumerate(self.modes) if mode & 0o170000 == stat.S_IFREG]
        self.files = len(files)
        self.size = sum([sizes[index] for index in files])
        links = []
        for index, mode in enumerate(self.modes):
            kind = mode & 0o170000
            if kind == stat.S_IFLNK:
                links.append(index)
            elif kind not in (stat.S_IFREG, stat.S_IFDIR):
                raise Corrupt(f"leaf page: {self.path_at(index)!r} has mode {mode:o}, which no entry has")
        targets = page.bytes_of(TARGETS)
        found = targets.split(b"\0") if targets else []
        if len(found) != len(links) or any(sizes[at] != len(to) for at, to in zip(links, found, strict=True)):
            raise Corrupt("leaf page: targets do not fit its links")
        self._targets = dict(zip(links, found, strict=True))

    def run_of(self, index: int) -> int:
        """Return which run the entry *index* stands in."""
        return bisect_right(self.starts, index) - 1

    def key_at(self, index: int) -> bytes:
        """Return the key of entry *index*."""
        parent, name = self.parents[self.run_of(index)], self.names[index]
        return parent + b"\0\0" + name if name else b""

    def path_at(self, index: int) -> bytes:
        """Return the path of entry *index*."""
        return join(self.parents[self.run_of(index)], self.names[index])

    def lower_bound(self, key: bytes) -> int:
        """Return the index of the first entry whose key is *key* or above, the count when there is none."""
        index: int = bisect_left(range(self.count), key, key=self.key_at)
        return index

    def find(self, parent: bytes, name: bytes) -> int | None:
        """Return the index of *name* in *parent* (components joined by NUL), None when it is not here."""
        run = bisect_left(self.parents, parent)
        if run == len(self.parents) or self.parents[run] != parent:
            return None
        stop = self.starts[run + 1]
        index = bisect_left(self.names, name, self.starts[run], stop)
        return index if index < stop and self.names[index] == name else None

    def digest_at(self, index: int) -> bytes:
        """Return the content digest of entry *index*, zeros unless it is a file."""
        return self._digests[32 * index : 32 * index + 32]

    def with_digest(self, start: str) -> Iterator[int]:
        """Yield the indices of the files whose digest in hex begins with *start*, at least two digits."""
        head = bytes.fromhex(start[: len(start) // 2 * 2])
        at = self._digests.find(head)
        while at >= 0:
            index, within = divmod(at, 32)
            is_file = self.modes[index] & 0o170000 == stat.S_IFREG
            if not within and is_file and self.digest_at(index).hex().startswith(start):
                yield index
            at = self._digests.find(head, at + 1)

    def target_at(self, index: int) -> bytes:
        """Return the target of the link *index*, b"" when it is none."""
        return self._targets.get(index, b"")

    def external_at(self, index: int) -> External | None:
        """Return where the bytes of entry *index* stay; None unless it is an external file. Raises as `content_at`."""
        data = self._externals.get(index) if self._externals else None
        if data is None:
            return None
        external = from_bytes(data)
        if self.modes[index] & 0o170000 != stat.S_IFREG or external.size != self.sizes[index]:
            raise Corrupt(f"{self.path_at(index)!r} has a URL, and is no file of that size")
        if external.digest != self.digest_at(index):
            raise Corrupt(f"{self.path_at(index)!r} has a URL or pin that is not that of its digest")
        return external

    def content_at(self, index: int) -> Content:
        """Return where the bytes of entry *index* are. Raises Corrupt when that does not fit its size or digest."""
        external = self.external_at(index)
        if external is not None:
            return external
        number = self._extents[index] if len(self._extents) else 0
        size = self.sizes[index] if self.modes[index] & 0o170000 == stat.S_IFREG else 0
        if not number:
            if size:
                raise Corrupt(f"{self.path_at(index)!r} has {size} bytes and no blocks")
            return ()
        at = self._first_extent[index]
        block = self._locations[self._extent_block[at]]
        start = self._extent_start[at]
        if number == TREE:
            return BlockTreeRef(block, start >> 28, start & 0x0FFFFFFF)
        if number == 1:
            if start + size > block.raw:
                raise Corrupt(f"{self.path_at(index)!r} ends after its block")
            return (Extent(block, start, size),)
        blocks = [self._locations[here] for here in self._extent_block[at : at + number]]
        if sum([block.raw for block in blocks]) != size:
            raise Corrupt(f"{self.path_at(index)!r} has {size} bytes and blocks of another length")
        if file_digest(size, [block.digest for block in blocks]) != self.digest_at(index):
            raise Corrupt(f"{self.path_at(index)!r} has blocks that are not those of its digest")
        return tuple([Extent(block, 0, block.raw) for block in blocks])

    def entry_at(self, index: int) -> Entry:
        """Return entry *index*, whole. Raises Corrupt as `content_at`."""
        return Entry(
            self.modes[index],
            self.sizes[index],
            self.mtimes[index],
            self._digests[32 * index : 32 * index + 32],
            self.content_at(index),
            self._targets.get(index, b"") if self._targets else b"",
            self._extra[index] if self._extra else (),
        )

    def keys(self) -> list[bytes]:
        """Return the keys of all entries."""
        names, starts = self.names, self.starts
        keys: list[bytes] = []
        for run, parent in enumerate(self.parents):
            prefix = parent + b"\0\0"
            keys += [prefix + name for name in names[starts[run] : starts[run + 1]]]
        if self.count and not names[0]:
            keys[0] = b""
        return keys

    def items(self, start: int = 0) -> Iterator[Item]:
        """Yield key and entry from index *start* on."""
        keys = self.keys()
        for index in range(start, self.count):
            yield keys[index], self.entry_at(index)


def _check_names(names: list[bytes]) -> None:
    joined = b"\0" + b"\0".join(names) + b"\0"
    if b"/" in joined or b"\0\0" in joined or b"\0.\0" in joined or b"\0..\0" in joined:
        if names:
            raise Corrupt("leaf page has a name that no file can have (empty, `.`, `..`, or with a slash)")
    elif max(map(len, names)) > NAME_MAX:
        raise Corrupt(f"leaf page has a name longer than {NAME_MAX} bytes")


def _bounds(tag: int, data: bytes, count: int) -> list[int]:
    """Return where each of the *count* values of a column of type VAR begins, and the last one ends."""
    if len(data) < 4 * count:
        raise Corrupt(f"leaf page: column {tag} ends inside its lengths")
    bounds = list(accumulate(unpack_numbers(Type.U32, data[: 4 * count]), initial=4 * count))
    if bounds[-1] != len(data):
        raise Corrupt(f"leaf page: column {tag} does not fit its lengths")
    return bounds


def _values(page: RawPage, tag: int, count: int) -> list[bytes]:
    """Return the values of column *tag* of type VAR; none where the page does not have it."""
    column = page.columns.get(tag)
    if column is None:
        return []
    if column.type != Type.VAR:
        raise Corrupt(f"leaf page: column {tag} has type {column.type}, not {Type.VAR}")
    data = bytes(column.data)
    bounds = _bounds(tag, data, count)
    return [data[bounds[index] : bounds[index + 1]] for index in range(count)]


def _decode_extra(page: RawPage, count: int) -> list[tuple[Extra, ...]]:
    columns = page.unknown(_KNOWN)
    if not columns:
        return []
    values: list[list[Extra]] = [[] for _ in range(count)]
    for column in columns:
        data = bytes(column.data)
        if column.type == Type.VAR:
            bounds = _bounds(column.tag, data, count)
        elif column.type in WIDTH:
            width = WIDTH[Type(column.type)]
            if len(data) != width * count:
                raise Corrupt(f"leaf page: column {column.tag} does not have one value for each entry")
            bounds = list(range(0, len(data) + 1, width))
        else:
            continue  # belongs to the page, not to its entries: nothing that a new page could keep
        for index in range(count):
            value = data[bounds[index] : bounds[index + 1]]
            if value.strip(b"\0"):
                values[index].append(Extra(column.tag, column.type, column.flags, value))
    return [tuple(found) for found in values]
