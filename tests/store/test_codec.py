"""Compression: nothing grows, nothing damaged passes, and no stored bytes make more than was declared."""

from __future__ import annotations

import threading

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.block import MAX_BLOCK_BYTES, Codec
from dvfs.store.codec import Compression, compress, compress_page, decompress, decompress_page
from dvfs.store.errors import Corrupt, InvalidInput
from tests.store.noise import noise

POLICIES = [Compression.parse(text) for text in ("auto", "none", "zstd", "zstd:1", "zstd:19")]


@pytest.mark.parametrize(
    ("text", "mode", "level"),
    [
        ("auto", "auto", 3),
        ("none", "none", 3),
        ("zstd", "zstd", 3),
        ("zstd:7", "zstd", 7),
        (" zstd:22", "zstd", 22),
    ],
)
def test_policies_are_parsed(text: str, mode: str, level: int) -> None:
    assert Compression.parse(text) == Compression(mode, level)


@pytest.mark.parametrize("text", ["", "gzip", "zstd:0", "zstd:23", "zstd:", "zstd:-1", "auto:3", "none:3", "ZSTD"])
def test_unknown_policies_are_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Compression.parse(text)
    assert caught.value.hint is not None


def test_a_policy_reads_back_what_it_writes() -> None:
    assert [Compression.parse(str(policy)) for policy in POLICIES] == POLICIES


@given(st.binary(max_size=5000), st.integers(1, 40), st.sampled_from(POLICIES))
def test_blocks_come_back_and_never_grow(piece: bytes, times: int, policy: Compression) -> None:
    raw = piece * times
    codec, stored = compress(raw, policy)
    assert len(stored) <= len(raw)
    assert decompress(codec, stored, len(raw)) == raw


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_noise_is_stored_raw(policy: Compression) -> None:
    raw = noise(300_000)
    codec, stored = compress(raw, policy)
    assert (codec, stored) == (Codec.RAW, raw)


def test_auto_compresses_text_and_leaves_a_block_that_is_noise_at_every_sample() -> None:
    text = b"the same words over and over; " * 30_000
    codec, stored = compress(text, Compression())
    assert codec == Codec.ZSTD
    assert len(stored) < len(text) // 50
    # Nine tenths text, but noise at the start, in the middle and at the end, where the sample looks.
    hidden = noise(32 << 10) + text[:430_000] + noise(64 << 10) + text[:430_000] + noise(32 << 10)
    assert compress(hidden, Compression())[0] == Codec.RAW
    assert compress(hidden, Compression("zstd"))[0] == Codec.ZSTD


def test_memoryviews_are_taken() -> None:
    raw = b"some words " * 1000
    codec, stored = compress(memoryview(raw), Compression())
    assert decompress(codec, memoryview(stored), len(raw)) == raw


@pytest.mark.parametrize("length", [0, 999, 1001, -1, MAX_BLOCK_BYTES + 1])
@pytest.mark.parametrize("policy", [Compression("none"), Compression("zstd")], ids=str)
def test_another_length_is_damage(length: int, policy: Compression) -> None:
    codec, stored = compress(b"x" * 1000, policy)
    with pytest.raises(Corrupt):
        decompress(codec, stored, length)


def test_an_unknown_codec_is_damage() -> None:
    with pytest.raises(Corrupt, match="codec 2"):
        decompress(2, b"abc", 3)


def test_a_bomb_makes_no_more_than_was_declared() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    with pytest.raises(Corrupt):
        decompress(Codec.ZSTD, bomb, 1000)
    with pytest.raises(Corrupt):
        decompress_page(bomb, 1 << 20)
    # The same bytes under a header that lies about them.
    honest = zstandard.ZstdCompressor().compress(bytes(1000))
    header = honest[: zstandard.frame_header_size(honest)]
    liar = header + bomb[zstandard.frame_header_size(bomb) :]
    with pytest.raises(Corrupt):
        decompress(Codec.ZSTD, liar, 1000)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"(",
        b"no frame at all",
        compress_page(b"x" * 999)[:-1],
        compress_page(b"x" * 999) + b"x",
        compress_page(b"x" * 999) * 2,
        compress_page(b"") + b"x",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 999),
        bytes.fromhex("502a4d1804000000") + b"skip",
    ],
)
def test_damaged_frames_are_refused(stored: bytes) -> None:
    with pytest.raises(Corrupt):
        decompress_page(stored, 1 << 20)
    with pytest.raises(Corrupt):
        decompress(Codec.ZSTD, stored, 999)


@given(st.binary(max_size=300), st.data())
def test_a_changed_byte_never_ends_in_another_error(raw: bytes, data: st.DataObject) -> None:
    stored = bytearray(compress_page(raw * 7))
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= data.draw(st.integers(1, 255))
    try:
        assert len(decompress_page(stored, 4096)) <= 4096
    except Corrupt:
        pass


def test_pages_are_deterministic_and_bounded() -> None:
    raw = noise(5000) + b"words " * 5000
    assert compress_page(raw) == compress_page(memoryview(raw))
    assert decompress_page(compress_page(raw), len(raw)) == raw
    assert decompress_page(compress_page(b""), 0) == b""
    with pytest.raises(Corrupt, match="at most"):
        decompress_page(compress_page(raw), len(raw) - 1)


def test_threads_do_not_share_contexts() -> None:
    raws = [bytes([n]) * 50_000 + noise(20_000, seed=n) for n in range(8)]
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(20):
            codec, stored = compress(raws[n], Compression("zstd"))
            if decompress(codec, stored, len(raws[n])) != raws[n]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
