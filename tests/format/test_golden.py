"""What format 1 wrote stays readable, and is what this dvfs writes: pages, a record, the parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dvfs.store import parameters, record
from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.boundary import Boundary
from dvfs.store.catalog.entry import Entry, directory, external_file, link
from dvfs.store.catalog.inner import Inner, PageRef, encode_inner
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.leaf import Leaf, encode_leaf
from dvfs.store.codec import decompress_page
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.external import External
from dvfs.store.ids import PackId, VersionId
from dvfs.store.parameters import Parameters

HERE = Path(__file__).parent
PACK = PackId(bytes(range(24)))


def block(number: int, raw: int = 1000) -> BlockRef:
    return BlockRef(0, PACK, number * 500, 500, raw, Codec.ZSTD, block_digest(b"%d" % number))


def leaf_items() -> list[tuple[bytes, Entry]]:
    shared = block(1)
    many = (block(2), block(3))
    tree = blocktree.build([block(number) for number in range(70)], Boundary(2, 4, 8, 4, 2, 99), _page)
    entries = {
        b"": directory(0o750, 1),
        b"a": directory(0o755, -1),
        b"a/\xff odd\n": Entry(0o100644, 10, 17 * 10**17 + 9, block_digest(b"small"), (Extent(shared, 5, 10),)),
        b"a/empty": Entry(0o100755, 0, 0, block_digest(b"")),
        b"a.b": link(b"../x", 7),
        b"two": Entry(0o100600, 2000, 2, file_digest(2000, [ref.digest for ref in many]), tuple(
            Extent(ref, 0, ref.raw) for ref in many
        )),
        b"large": Entry(0o100444, 70_000, 3, file_digest(70_000, [block(n).digest for n in range(70)]), tree),
    }  # fmt: skip
    return sorted((key_of(path), entry) for path, entry in entries.items())


def _page(stored: bytes) -> BlockRef:
    return BlockRef(0, PACK, 9, len(stored), len(stored), Codec.RAW, block_digest(decompress_page(stored, 1 << 20)))


def inner_refs() -> list[PageRef]:
    def page(number: int) -> BlockRef:
        return block(number)._replace(codec=Codec.RAW, raw=500)

    return [
        PageRef(b"", 0, 600, 590, 12345, block_digest(b"c1"), page(1)),
        PageRef(key_of(b"a/b"), 0, 700, 700, 1 << 40, block_digest(b"c2"), page(2)),
    ]


def test_leaf_page() -> None:
    golden = (HERE / "leaf.page").read_bytes()

    assert encode_leaf(leaf_items()) == golden
    leaf = Leaf(golden)
    assert list(leaf.items()) == leaf_items()
    assert (leaf.count, leaf.files, leaf.size) == (7, 4, 72_010)
    assert leaf.content.hex() == "5bc04ccf16e05bb3c54afed8397f538cab48bcec8cb0391c0f3467b4abf7b589"


def test_leaf_page_with_external_files() -> None:
    golden = (HERE / "external.page").read_bytes()
    external = External(b"s3://bucket/data/a.bin", b"5d41402abc4b2a76b9719d911017c592", 3 << 20)
    page = External(b"https://example.org/page?x=1", b'"abc", 0 bytes', 0)
    items = [
        (key_of(b""), directory(0o755, 1)),
        (key_of(b"a.bin"), external_file(external, 2, 0o640)),
        (key_of(b"own"), Entry(0o100644, 10, 3, block_digest(b"small"), (Extent(block(1), 5, 10),))),
        (key_of(b"page"), external_file(page, 4)),
    ]

    assert encode_leaf(items) == golden
    leaf = Leaf(golden)
    assert list(leaf.items()) == items
    assert leaf.content.hex() == "74fd87d7d5e20d828e6b147bf0e9cdd075237487199aed27b4daf4a97690b29a"
    assert [leaf.digest_at(1).hex(), leaf.digest_at(3).hex()] == [
        "30ddb173d9ddec170f93ec8655b0230204a46fb0a40cbb560139fcfbb831db19",
        "a7f9491167253d1e3e70cd7efd4a9cded8bff032f37fe87255cb68c96966f754",
    ]


def test_inner_page() -> None:
    golden = (HERE / "inner.page").read_bytes()

    assert encode_inner(1, inner_refs()) == golden
    inner = Inner(golden)
    assert inner.children() == inner_refs()
    assert inner.content.hex() == "d1bf19953386e66a8dad6acbefc04714f25b89b391fc8eb8c88b03a4e9f5a319"


def test_record() -> None:
    golden = (HERE / "record.json").read_bytes()

    read = record.decode(golden, "0123456789abcdef0123456789abcdef")

    again = json.loads(record.encode(read))
    expected = json.loads(golden)
    assert again.pop("write_id") != expected.pop("write_id")
    assert again == expected
    assert read.status == record.Status.COMPLETED
    assert read.root is not None
    assert read.root.page.entries == 1300
    assert read.others == {"from_the_future": [1]}


def test_parameters() -> None:
    golden = (HERE / "format.json").read_bytes()

    assert parameters.decode(golden) == Parameters()
    again = json.loads(parameters.encode(Parameters()))
    expected = json.loads(golden)
    assert again.pop("write_id") != expected.pop("write_id")
    assert again == expected


def make_golden() -> None:
    """Write the files anew; the format number must change with them."""
    (HERE / "leaf.page").write_bytes(encode_leaf(leaf_items()))
    (HERE / "inner.page").write_bytes(encode_inner(1, inner_refs()))
    (HERE / "format.json").write_bytes(parameters.encode(Parameters()))
    block_ref = block(1)._replace(codec=Codec.RAW, raw=500)
    page = PageRef(b"", 1, 1300, 1290, 1 << 41, block_digest(b"root"), block_ref)
    root = record.Root(page, block_ref)
    one = record.Record(
        id=VersionId("0123456789abcdef0123456789abcdef"),
        project="vision/street",
        name="signs",
        version="1.0.1",
        status=record.Status.COMPLETED,
        tags=("latest", "größe"),
        description="two\nlines",
        parents=(VersionId("f" * 32),),
        base=root,
        root=root,
        counts=record.Counts(1300, 1290, 1 << 41, 1, 2, 3, 4),
        created_ns=1_700_000_000_000_000_000,
        completed_ns=1_700_000_001_000_000_000,
        creator="someone",
        origin=record.Origin("dvfs close", "c" * 40, "host", {"slurm": "17"}),
        metadata={"k": [1, 2.5, None]},
        others={"from_the_future": [1]},
    )
    (HERE / "record.json").write_bytes(record.encode(one))


def data_of(page: Leaf | Inner) -> list[object]:
    """All that a page says but for locations and mtimes."""
    if isinstance(page, Leaf):
        return [(key, entry.mode, entry.size, entry.digest, entry.target) for key, entry in page.items()]
    return [ref._replace(block=block(0)) for ref in page.children()]


@pytest.mark.parametrize("name", ["leaf.page", "inner.page"])
def test_every_bit_of_a_page_matters_or_is_refused(name: str) -> None:
    """No flipped bit crashes the decoder; one that is accepted and digested changes the content digest."""
    from dvfs.store.errors import Corrupt

    golden = (HERE / name).read_bytes()
    kind = Leaf if name == "leaf.page" else Inner
    whole = kind(golden)
    refused = 0
    for at in range(len(golden) * 8):
        damaged = bytearray(golden)
        damaged[at // 8] ^= 1 << at % 8
        try:
            page = kind(bytes(damaged))
            if isinstance(page, Leaf):
                for index in range(page.count):
                    page.entry_at(index)
            elif isinstance(page, Inner):
                page.children()
        except Corrupt:
            refused += 1
        else:
            assert page.content != whole.content or data_of(page) == data_of(whole)
    assert refused > 0
