"""External files as values: their URLs, their blocks, and what a page may say of them."""

from __future__ import annotations

import struct

import pytest

from dvfs.store.block import BlockRef
from dvfs.store.catalog.columns import CRITICAL, DIGESTED, Column, Kind, RawPage, Type, encode_page, pack_numbers
from dvfs.store.catalog.entry import Entry, directory, external_file, link
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.leaf import EXTERNALS, Leaf, encode_leaf
from dvfs.store.change import decode_content, encode_content
from dvfs.store.digest import block_digest
from dvfs.store.errors import Corrupt, InvalidInput
from dvfs.store.external import BLOCK_BYTES, EXTERNAL, External, check_url, external_of, from_bytes, to_bytes
from dvfs.store.fetch_pack import check_ref

BIG = External(b"s3://bucket/a key/\xc3\xbc", b"abc", 2 * BLOCK_BYTES + 5)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/key",
        "s3://bucket/a key//\u00fc?#%",
        "gs://b/k",
        "azure://container/k",
        "http://host:8080/",
        "https://host/a%20b?x=1&y=@",
        "file:///a/b%20c",
        "https://host/" + "x" * 4083,
    ],
)
def test_urls_that_may_be(url: str) -> None:
    check_url(url.encode())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (b"", "no URL"),
        (b"/a/path", "no URL"),
        (b"ftp://host/file", "no URL"),
        (b"javascript://host/x", "no URL"),
        (b"HTTP://host/file", "no URL"),
        (b"az://container/key", "no URL"),
        (b"s3://bucket", "no URL"),
        (b"s3:///key", "no URL"),
        (b"http:///key", "no URL"),
        (b"file://host/path", "no URL"),
        (b"s3://bucket/a\0b", "control"),
        (b"http://host/a\r\nX: y", "control"),
        (b"s3://bucket/\xff", "UTF-8"),
        (b"http://host/a b", "as it is sent"),
        (b"http://host/a#b", "as it is sent"),
        ("http://host/\u00fc".encode(), "as it is sent"),
        (b"http://host:port/a", "is no URL"),
        (b"http://user:secret@host/a", "no credentials"),
        (b"s3://key:secret@bucket/a", "no credentials"),
        (b"https://host/a?x=1&X-Amz-Signature=secret", "credential"),
        (b"https://host/a?sig=secret", "credential"),
        (b"https://host/" + b"x" * 4084, "too long"),
    ],
)
def test_urls_that_may_not_be(url: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_the_digest_is_over_all_that_is_known() -> None:
    digests = {
        external.digest
        for external in (
            BIG,
            BIG._replace(url=b"s3://bucket/other"),
            BIG._replace(pin=b"abd"),
            BIG._replace(size=5),
            External(b"s3://b/ka", b"bc", BIG.size),
            External(b"s3://b/k", b"abc", BIG.size),
        )
    }
    assert len(digests) == 6
    assert BIG.digest.hex() == "9e38f997ac648dc5371d9a72a24e8707b2535190b4b7f4c7f53e5134f18e5e17"


def test_blocks_have_fixed_places_and_cover_any_range() -> None:
    whole = list(BIG.extents(0, 1 << 63))
    assert [(extent.block.offset, extent.block.raw) for extent in whole] == [
        (0, BLOCK_BYTES),
        (BLOCK_BYTES, BLOCK_BYTES),
        (2 * BLOCK_BYTES, 5),
    ]
    (first, second) = BIG.extents(BLOCK_BYTES - 1, BLOCK_BYTES + 2)
    assert (first.block, first.start, first.length) == (whole[0].block, BLOCK_BYTES - 1, 1)
    assert (second.block, second.start, second.length) == (whole[1].block, 0, 2)
    assert list(BIG.extents(BIG.size, BIG.size + 9)) == []
    assert len({extent.block.digest for extent in whole}) == 3
    for extent in whole:
        check_ref(extent.block)
        assert external_of(extent.block) == BIG


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 5},
        {"raw": BLOCK_BYTES + 1},
        {"raw": 0},
        {"offset": 2 * BLOCK_BYTES, "raw": 6},
        {"digest": bytes(32)},
        {"pack": to_bytes(BIG._replace(pin=b"x"))},
        {"pack": bytes(24)},
    ],
)
def test_references_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    block: BlockRef = next(BIG.extents(0, 1)).block
    with pytest.raises(Corrupt):
        check_ref(block._replace(**fields))  # type: ignore[arg-type]


def test_content_goes_through_an_overlay() -> None:
    assert decode_content(encode_content(BIG)) == BIG
    assert decode_content(encode_content(())) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<QHH", 1, 5, 5) + b"s3://",
        to_bytes(BIG) + b"x",
        to_bytes(BIG._replace(pin=b"")),
        to_bytes(BIG._replace(pin=b"a\nb")),
        to_bytes(BIG._replace(pin=b"\xff")),
        to_bytes(BIG._replace(pin=b"x" * 1025)),
        to_bytes(BIG._replace(url=b"ftp://host/x")),
        to_bytes(BIG._replace(url=b"http://u:p@host/x")),
        to_bytes(BIG._replace(size=1 << 63)),
    ],
)
def test_bytes_that_are_no_external_file_are_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        from_bytes(data)


# --- in a page


def items() -> list[tuple[bytes, Entry]]:
    entries = {
        b"": directory(),
        b"a": external_file(BIG, 7, 0o600),
        b"b": link(b"a"),
        b"c": external_file(External(b"https://host/empty", b'"e", 0 bytes', 0)),
        b"d": Entry(0o100644, 0, 1, block_digest(b"")),
    }
    return [(key_of(path), entry) for path, entry in entries.items()]


def test_a_page_holds_external_files() -> None:
    leaf = Leaf(encode_leaf(items()))
    assert list(leaf.items()) == items()
    assert (leaf.files, leaf.size) == (3, BIG.size)
    assert [leaf.external_at(index) for index in range(5)] == [entry.external for _, entry in items()]


def test_pin_and_url_count_for_the_content_digest() -> None:
    def content(external: External, mtime_ns: int = 0) -> bytes:
        return Leaf(encode_leaf([(b"", directory()), (key_of(b"a"), external_file(external, mtime_ns))])).content

    assert content(BIG) == content(BIG, 5)
    assert len({content(BIG), content(BIG._replace(pin=b"x")), content(BIG._replace(url=b"s3://b/k"))}) == 3


def forged(change: bytes | None, kind: Type = Type.VAR, row: int = 1) -> bytes:
    """Return the page of `items` with another value for entry *row* in the column of external files."""
    page = RawPage(encode_leaf(items()))
    values = [to_bytes(entry.external) if entry.external else b"" for _, entry in items()]
    if change is not None:
        values[row] = change
    data = pack_numbers(Type.U32, map(len, values)) + b"".join(values)
    columns = [column for column in page.columns.values() if column.tag != EXTERNALS]
    return encode_page(Kind.LEAF, 0, page.count, [*columns, Column(EXTERNALS, kind, CRITICAL, data)])


def test_the_column_is_critical_and_not_digested() -> None:
    page = RawPage(encode_leaf(items()))
    assert page.columns[EXTERNALS].flags == CRITICAL
    assert forged(None) == encode_leaf(items())
    assert not page.columns[EXTERNALS].flags & DIGESTED


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (forged(to_bytes(BIG._replace(pin=b"other"))), "not that of its digest"),
        (forged(to_bytes(BIG._replace(url=b"file:///etc/shadow"))), "not that of its digest"),
        (forged(to_bytes(BIG._replace(size=1))), "no file of that size"),
        (forged(b""), "no blocks"),
        (forged(b"x"), "ends inside"),
        (forged(to_bytes(BIG._replace(url=b"ftp://h/x"))), "URL cannot be"),
    ],
)
def test_an_entry_that_is_not_as_its_digest_says_is_refused(page: bytes, why: str) -> None:
    leaf = Leaf(page)
    with pytest.raises(Corrupt, match=why):
        leaf.entry_at(1)
    assert leaf.entry_at(4) == items()[4][1]


def test_a_directory_or_symbolic_link_with_a_url_is_refused() -> None:
    for row in (0, 2):
        with pytest.raises(Corrupt, match="no file of that size"):
            Leaf(forged(to_bytes(BIG), row=row)).entry_at(row)


def test_a_column_of_another_type_or_length_is_refused() -> None:
    with pytest.raises(Corrupt, match="has type"):
        Leaf(forged(None, Type.BYTES))
    page = RawPage(encode_leaf(items()))
    columns = [column for column in page.columns.values() if column.tag != EXTERNALS]
    for data in (b"\0", bytes(19), pack_numbers(Type.U32, [0, 9, 0, 0, 0])):
        with pytest.raises(Corrupt, match=r"ends inside|does not fit"):
            Leaf(encode_page(Kind.LEAF, 0, page.count, [*columns, Column(EXTERNALS, Type.VAR, CRITICAL, data)]))


def test_no_page_can_name_a_block_of_an_external_file() -> None:
    """A storage tag of packs has 16 bits: blocks of external files come from entries that say so alone."""
    assert EXTERNAL > 0xFFFF
