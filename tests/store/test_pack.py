"""Packs: what is written is found again, an old pack still reads, and nothing that lies passes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef, Codec
from dvfs.store.codec import Compression, compress, decompress
from dvfs.store.digest import block_digest
from dvfs.store.errors import Corrupt, Internal, NotFound, UnsupportedFormat
from dvfs.store.ids import PackId, VersionId, new_pack_id, pack_key
from dvfs.store.pack import TRAILER_BYTES, PackBuilder, PackFooter, footer_bytes, parse_footer, read_footer
from tests.memory_backend import MemoryBackend
from tests.store.noise import noise

VERSION = VersionId("0123456789abcdef" * 2)
PACK = new_pack_id(VERSION, lambda count: bytes(range(count)))
GOLDEN = Path(__file__).parents[1] / "format" / "pack.bin"
GOLDEN_BLOCKS = [b"a", b"the same words again " * 20, noise(300)]


def stored(data: bytes) -> MemoryBackend:
    """A backend with one pack."""
    backend = MemoryBackend()
    backend.objects[pack_key(PACK)] = data
    return backend


def build(blocks: list[bytes], policy: Compression | None = None) -> tuple[bytes, list[BlockRef]]:
    builder = PackBuilder(PACK)
    refs = []
    for raw in blocks:
        codec, stored = compress(raw, policy or Compression())
        refs.append(builder.append(stored, len(raw), codec, block_digest(raw)))
    return bytes(builder.finish()), refs


def parse(data: bytes, pack: PackId = PACK) -> PackFooter:
    return parse_footer(data, pack=pack, pack_bytes=len(data))


@given(st.lists(st.binary(min_size=1, max_size=500), max_size=20), st.integers(0, 40))
def test_what_was_appended_is_listed_and_read(blocks: list[bytes], times: int) -> None:
    raws = [raw * (times + 1) for raw in blocks]
    data, refs = build(raws)
    footer = parse(data)
    assert footer == PackFooter(VERSION, PACK, tuple(refs), len(data))
    assert len(data) == sum(ref.stored for ref in refs) + footer_bytes(len(refs))
    for ref, raw in zip(footer.blocks, raws, strict=True):
        assert decompress(ref.codec, data[ref.offset : ref.offset + ref.stored], ref.raw) == raw
        assert ref.digest == block_digest(raw)


def test_the_golden_pack_still_reads() -> None:
    data = GOLDEN.read_bytes()
    footer = parse(data)
    assert footer.version == VERSION
    assert [ref.codec for ref in footer.blocks] == [Codec.RAW, Codec.ZSTD, Codec.RAW]
    raws = [decompress(ref.codec, data[ref.offset :][: ref.stored], ref.raw) for ref in footer.blocks]
    assert raws == GOLDEN_BLOCKS
    assert [block_digest(raw) for raw in raws] == [ref.digest for ref in footer.blocks]


def test_a_pack_of_the_golden_blocks_is_the_golden_pack_but_for_zstd() -> None:
    """The footer is laid as ever; only what zstd makes of a block may change with its version."""
    golden, data = GOLDEN.read_bytes(), build(GOLDEN_BLOCKS)[0]
    stored = parse(golden).blocks[1]
    builder = PackBuilder(PACK)
    for index, raw in enumerate(GOLDEN_BLOCKS):
        piece = golden[stored.offset :][: stored.stored] if index == 1 else raw
        builder.append(piece, len(raw), Codec.ZSTD if index == 1 else Codec.RAW, block_digest(raw))
    assert builder.finish() == golden
    assert parse(data).pack == parse(golden).pack


def test_every_changed_byte_of_the_footer_is_damage() -> None:
    data, refs = build(GOLDEN_BLOCKS)
    start = sum(ref.stored for ref in refs)
    for at in range(start, len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(Corrupt):
            parse(bytes(changed))


def test_every_truncation_is_damage() -> None:
    data, _ = build(GOLDEN_BLOCKS)
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            parse(data[:length])
        with pytest.raises(Corrupt):
            parse(data[length + 1 :])


def test_another_pack_under_the_name_is_damage() -> None:
    data, _ = build(GOLDEN_BLOCKS)
    with pytest.raises(Corrupt, match="calls itself"):
        parse(data, new_pack_id(VERSION, lambda count: bytes(count)))


def resealed(data: bytes, count: int, change: dict[int, bytes]) -> bytes:
    """Return the pack with bytes of its footer changed (by offset in the footer) and the digest made to fit."""
    start = len(data) - footer_bytes(count)
    footer = bytearray(data[start:-TRAILER_BYTES])
    for at, new in change.items():
        footer[at : at + len(new)] = new
    length = struct.pack("<I", len(footer))
    return data[:start] + bytes(footer) + length + block_digest(footer) + data[-8:]


u32 = struct.Struct("<I").pack
HEAD = 56


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({8: u32(2)}, UnsupportedFormat),
        ({0: b"DVFSPACK"}, Corrupt),
        ({12: u32(1)}, Corrupt),
        ({12: u32(0xFFFFFFFF)}, Corrupt),
        ({16: bytes(16)}, Corrupt),
        ({HEAD: u32(1)}, Corrupt),
        ({HEAD + 4: u32(0)}, Corrupt),
        ({HEAD + 8: u32(99)}, Corrupt),
        ({HEAD + 8: u32(0)}, Corrupt),
        ({HEAD + 8 + 8: u32(101)}, Corrupt),
        ({HEAD + 8 + 8: u32(MAX_BLOCK_BYTES + 1), HEAD + 24: b"\1"}, Corrupt),
        ({HEAD + 24: b"\2"}, Corrupt),
    ],
)
def test_a_footer_that_lies_under_a_right_digest_is_refused(change: dict[int, bytes], error: type[Corrupt]) -> None:
    data, _ = build([noise(100, 1), noise(200, 2)])
    assert parse(resealed(data, 2, {})).pack == PACK
    with pytest.raises(error):
        parse(resealed(data, 2, change))


def test_bytes_between_blocks_and_footer_are_refused() -> None:
    data, _ = build([noise(100)])
    with pytest.raises(Corrupt, match="its blocks end"):
        parse(data[:100] + b"x" + data[100:])


def test_the_builder_refuses_what_no_block_is() -> None:
    builder = PackBuilder(PACK)
    for stored, raw, codec in [
        (b"", 0, 0),
        (b"ab", 1, 0),
        (b"ab", 1, 1),
        (b"ab", 2, 7),
        (b"a", MAX_BLOCK_BYTES + 1, 1),
    ]:
        with pytest.raises(Internal):
            builder.append(stored, raw, codec, bytes(32))
    with pytest.raises(Internal):
        builder.append(b"ab", 2, 0, bytes(31))
    assert not builder.fits((2 << 30) - 100)
    assert (len(builder), builder.stored_bytes) == (0, 0)


def test_a_footer_is_read_in_one_get_and_a_long_one_in_two() -> None:
    short, _ = build([noise(100_000)])
    long, refs = build([struct.pack("<I", number) for number in range(2000)])
    backend = stored(short)
    assert len(read_footer(backend, PACK).blocks) == 1
    assert len(backend.gets) == 1
    backend = stored(long)
    assert read_footer(backend, PACK).blocks == tuple(refs)
    assert len(backend.gets) == 2


def test_a_missing_or_empty_pack_is_told_apart() -> None:
    with pytest.raises(NotFound):
        read_footer(MemoryBackend(), PACK)
    with pytest.raises(Corrupt):
        read_footer(stored(b""), PACK)
    empty, _ = build([])
    assert read_footer(stored(empty), PACK).blocks == ()
