"""Changes: what a commit is told of each path, and how that lies in a staging database.

A `Change` becomes a `Source` whose `source` is no local path but says where the bytes are. All here is immutable.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, overload

from dvfs.store.block import BlockRef
from dvfs.store.catalog.entry import BlockTreeRef, Content, Entry
from dvfs.store.errors import Corrupt, InvalidInput
from dvfs.store.external import External, from_bytes, to_bytes
from dvfs.store.ids import PackId
from dvfs.store.source import Kind, Source, removal
from dvfs.store.staging import decode_extents, encode_extents


class Kept(NamedTuple):
    """The bytes are in the store already: of a file that was moved, linked, or got another mode."""

    digest: bytes
    content: Content


class Local(NamedTuple):
    """All bytes are to be read by *handle*."""

    handle: bytes


class Edited(NamedTuple):
    """A file edited in place: its bytes are to be read by *handle* where they may not be those of *before*.

    *before*: the file under the edits. *floor*: its bytes from here on are gone (the file was shorter in between).
    *written*: ranges [start, stop) in bytes, sorted and disjoint, that may differ; all else below *floor* and below the
    size of the file now is as in *before*.
    """

    handle: bytes
    before: Entry
    floor: int
    written: Sequence[tuple[int, int]]


Bytes = Kept | Local | Edited
Tag = bytes


class Change(NamedTuple):
    """What becomes of *path*. *entry*: what it is now, None where it is gone.

    Of a file *entry* needs no digest and no content: *bytes* says where they come from. *tag*: the caller's own; it is
    told again with the digest and content that the file got. Of a directory that is gone the caller names every path
    below it, too.
    """

    path: bytes
    entry: Entry | None
    bytes: Bytes | None = None
    tag: Tag = b""


class Reader(Protocol):
    """Reads the bytes of handles. Thread-safe.

    A handle stands for the same bytes for good, in later attempts of the same commit too.
    """

    def readinto(self, handle: bytes, start: int, view: memoryview) -> int:
        """Fill *view* with the bytes of *handle* from byte *start* on; return how many, fewer only at its end.

        Raises DvfsError.
        """
        ...


_KEPT, _LOCAL, _EDITED = b"k", b"l", b"e"
_LENGTH = struct.Struct("<I")
_TREE = struct.Struct("<I24sIIIB32sIQ")
_EXTERNAL = b"\xff\xff\xff\xff"
"""Begins an external file; the others begin with the tag of a storage, which has 16 bits."""
_BEFORE = struct.Struct("<IqqQ32sI")
_RANGE = struct.Struct("<QQ")


def to_source(change: Change, *, gap_bytes: int = 0) -> Source:
    """Return *change* as a row to stage; ranges written no more than *gap_bytes* apart become one.

    Raises InvalidInput for a file without bytes, and for what is no file, directory or link.
    """
    path, entry, data, tag = change
    if entry is None:
        return removal(path)
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFREG:
        if data is None:
            raise InvalidInput(f"the change of {path!r} says nothing of the file's bytes")
        encoded = _encode(data, tag, gap_bytes)
        staged = Kind.KEPT if isinstance(data, Kept) else Kind.FILE
        return Source(path, staged, encoded, entry.mode, entry.size, entry.mtime_ns)
    if kind == stat.S_IFDIR:
        return Source(path, Kind.DIRECTORY, b"", entry.mode, 0, entry.mtime_ns)
    if kind == stat.S_IFLNK:
        return Source(path, Kind.LINK, b"", entry.mode, len(entry.target), entry.mtime_ns, target=entry.target)
    raise InvalidInput(f"{path!r} is no file, directory or symbolic link, and cannot be part of a version")


def tag_of(source: Source) -> bytes:
    """Return the tag of the change that *source* was made of."""
    (size,) = _LENGTH.unpack_from(source.source, 1)
    return source.source[1 + _LENGTH.size : 1 + _LENGTH.size + size]


def bytes_of(source: Source) -> Bytes:
    """Return where the bytes of *source*, a file, come from. Raises Corrupt."""
    data = source.source
    try:
        start = 1 + _LENGTH.size + _LENGTH.unpack_from(data, 1)[0]
        kind, body = data[:1], data[start:]
        if kind == _LOCAL:
            return Local(body)
        if kind == _KEPT:
            return Kept(body[:32], decode_content(body[32:]))
        if kind == _EDITED:
            return _decode_edited(body)
    except struct.error as exc:
        raise Corrupt(f"what is staged for {source.path!r} cannot be read: {exc}") from exc
    raise Corrupt(f"what is staged for {source.path!r} is no change")


def before_of(source: Source) -> Entry | None:
    """Return what lies under the edits of *source*; None where it is no edited file, but, say, a local path."""
    if source.source[:1] != _EDITED:  # paths begin with a slash
        return None
    found = bytes_of(source)
    assert isinstance(found, Edited)
    return found.before


def encode_content(content: Content) -> bytes:
    """Return *content* as bytes."""
    if isinstance(content, External):
        return _EXTERNAL + to_bytes(content)
    if isinstance(content, BlockTreeRef):
        return _TREE.pack(*content.block, content.level, content.number)
    return encode_extents(content)


def decode_content(data: bytes) -> Content:
    """Return the content that `encode_content` made *data* of. Raises Corrupt."""
    if data.startswith(_EXTERNAL):
        return from_bytes(data[len(_EXTERNAL) :])
    if len(data) != _TREE.size:  # which is no multiple of an extent's
        return decode_extents(data)
    storage, pack, offset, stored, raw, codec, digest, level, number = _TREE.unpack(data)
    return BlockTreeRef(BlockRef(storage, PackId(pack), offset, stored, raw, codec, digest), level, number)


def joined(ranges: Iterable[tuple[int, int]], gap_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield sorted *ranges* with those no more than *gap_bytes* apart as one; empty ones are left out."""
    first = last = -1
    for start, stop in ranges:
        if start >= stop:
            continue
        if first < 0:
            first, last = start, stop
        elif start <= last + gap_bytes:
            last = max(last, stop)
        else:
            yield first, last
            first, last = start, stop
    if first >= 0:
        yield first, last


def _encode(data: Bytes, tag: bytes, gap_bytes: int) -> bytes:
    head = _LENGTH.pack(len(tag)) + tag
    if isinstance(data, Kept):
        return b"".join((_KEPT, head, data.digest, encode_content(data.content)))
    if isinstance(data, Local):
        return b"".join((_LOCAL, head, data.handle))
    content = encode_content(data.before.content)
    before = data.before
    return b"".join(
        (
            _EDITED,
            head,
            _LENGTH.pack(len(data.handle)),
            data.handle,
            _BEFORE.pack(before.mode, before.size, before.mtime_ns, data.floor, before.digest, len(content)),
            content,
            *[_RANGE.pack(start, stop) for start, stop in joined(data.written, gap_bytes)],
        )
    )


def _decode_edited(body: bytes) -> Edited:
    start = _LENGTH.size
    stop = start + _LENGTH.unpack_from(body)[0]
    handle = body[start:stop]
    mode, size, mtime_ns, floor, digest, length = _BEFORE.unpack_from(body, stop)
    start = stop + _BEFORE.size
    content = decode_content(body[start : start + length])
    ranges = _Ranges(body[start + length :])
    return Edited(handle, Entry(mode, size, mtime_ns, digest, content), floor, ranges)


class _Ranges(Sequence[tuple[int, int]]):
    """Ranges as they are encoded: a file of many GiB may have a million."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // _RANGE.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((start, stop) for start, stop in _RANGE.iter_unpack(self._data))

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        return list(self)[index]
