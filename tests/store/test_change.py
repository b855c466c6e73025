"""Changes as staged rows: what goes in comes out."""

from __future__ import annotations

import pytest

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog.entry import BlockTreeRef, Content, Entry, directory, link
from dvfs.store.change import Bytes, Change, Edited, Kept, Local, before_of, bytes_of, decode_content, tag_of, to_source
from dvfs.store.errors import Corrupt
from dvfs.store.ids import PackId
from dvfs.store.source import Kind, Source
from tests.commit_kit import file_entry

BLOCK = BlockRef(3, PackId(b"p" * 24), 5, 100, 200, Codec.ZSTD, b"d" * 32)
CONTENTS: list[Content] = [
    (),
    (Extent(BLOCK, 10, 20),),
    tuple(Extent(BLOCK, number, 1) for number in range(64)),
    BlockTreeRef(BLOCK, 2, 1 << 28),
]


@pytest.mark.parametrize("tag", [b"", b"tag\0"])
@pytest.mark.parametrize("content", CONTENTS, ids=["none", "one", "many", "tree"])
def test_bytes_come_back(content: Content, tag: bytes) -> None:
    before = Entry(0o100600, 1 << 40, -5, b"x" * 32, content)
    for data in (
        Kept(b"k" * 32, content),
        Local(b"handle\0/"),
        Edited(b"", before, 1 << 39, [(0, 1), (1 << 33, 1 << 34)]),
        Edited(b"h" * 300, before, 0, []),
    ):
        source = to_source(Change(b"a/b", file_entry(77, 0o755, -9), data, tag))
        assert (source.path, source.size, source.mode & 0o7777, source.mtime_ns) == (b"a/b", 77, 0o755, -9)
        assert source.kind == (Kind.KEPT if isinstance(data, Kept) else Kind.FILE)
        assert tag_of(source) == tag
        assert _plain(bytes_of(source)) == data
        assert before_of(source) == (before if isinstance(data, Edited) else None)


def _plain(found: Bytes) -> Bytes:
    return found._replace(written=list(found.written)) if isinstance(found, Edited) else found


def test_ranges_near_each_other_become_one() -> None:
    edited = Edited(b"h", file_entry(1000), 1000, [(1, 2), (3, 4), (100, 101)])
    found = bytes_of(to_source(Change(b"a", file_entry(1000), edited), gap_bytes=10))
    assert isinstance(found, Edited)
    assert list(found.written) == [(1, 4), (100, 101)]
    assert (len(found.written), found.written[1], found.written[:1]) == (2, (100, 101), [(1, 4)])


def test_what_is_no_file() -> None:
    assert to_source(Change(b"a", None)) == Source(b"a", Kind.REMOVED)
    assert to_source(Change(b"a", directory(0o700, 5))) == Source(b"a", Kind.DIRECTORY, mode=0o40700, mtime_ns=5)
    made = to_source(Change(b"a", link(b"there", 5)))
    assert (made.kind, made.target, made.size, made.mtime_ns) == (Kind.LINK, b"there", 5, 5)


@pytest.mark.parametrize("data", [b"", b"l", b"e\0\0\0\0", b"e\0\0\0\0\1\0\0\0", b"/a/path of some length"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        bytes_of(Source(b"a", Kind.FILE, data))


def test_content_of_another_length_is_refused() -> None:
    with pytest.raises(Corrupt):
        decode_content(bytes(80))


def test_a_local_path_lies_over_nothing() -> None:
    assert before_of(Source(b"a", Kind.FILE, b"/e")) is None
