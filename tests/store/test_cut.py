"""Cutting: the library against a reference written from the rule, and against vectors that never change."""

from __future__ import annotations

import hashlib
import io
import json
import math
from itertools import accumulate
from pathlib import Path

import pyfastcdc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyfastcdc.py.constants import GEAR, MASKS

from dvfs.store.block import MAX_BLOCK_BYTES
from dvfs.store.cut import Cutter, Cutting, cut
from dvfs.store.errors import InvalidInput
from tests.store.noise import noise

VECTORS = json.loads((Path(__file__).parents[1] / "format" / "fastcdc.json").read_text())
TINY = Cutting(small_file_bytes=1024, block_bytes=1024, min_bytes=64, avg_bytes=256, max_bytes=1024)


def reference(data: bytes, cutting: Cutting) -> list[int]:
    """The rule of docs/format.md, byte by byte: return the lengths of the blocks of *data*."""
    bits = math.floor(math.log2(cutting.avg_bytes) + 0.5)
    strict, loose = MASKS[bits + cutting.normalization], MASKS[bits - cutting.normalization]
    lengths = []
    while data:
        length = _first(data, cutting, strict, loose)
        lengths.append(length)
        data = data[length:]
    return lengths


def _first(data: bytes, cutting: Cutting, strict: int, loose: int) -> int:
    if len(data) <= cutting.min_bytes:
        return len(data)
    end = min(len(data), cutting.max_bytes)
    middle = min(cutting.avg_bytes, end)
    gear = 0
    for at in range(cutting.min_bytes & ~1, end & ~1):
        gear = (2 * gear + GEAR[data[at]]) % 2**64
        if gear & (strict if at < middle & ~1 else loose) == 0:
            return at
    return end


def pieces(data: bytes, cutting: Cutting) -> list[bytes]:
    return list(cut(io.BytesIO(data).readinto, cutting))


def test_the_compiled_library_is_in_use() -> None:
    assert pyfastcdc.FastCDC.__module__.startswith("pyfastcdc.cy")


def test_the_gear_table_and_masks_are_those_of_the_format() -> None:
    table = b"".join(value.to_bytes(8, "little") for value in GEAR)
    assert len(GEAR) == 256
    assert hashlib.sha256(table).hexdigest() == VECTORS["gear_sha256"]
    assert {str(bits): f"{MASKS[bits]:016x}" for bits in range(6, 25)} == VECTORS["masks"]


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, object]) -> None:
    parameters = vector["cutting"]
    assert isinstance(parameters, dict)
    cutting = Cutting(**parameters)
    data = vector_input(vector)
    expected = vector["cuts"]
    assert list(accumulate(map(len, pieces(data, cutting)))) == expected
    assert list(accumulate(Cutter(cutting).lengths(memoryview(data)))) == expected


def vector_input(vector: dict[str, object]) -> bytes:
    """SHAKE-128 of the vector's seed, or one byte repeated."""
    size = vector["size"]
    assert isinstance(size, int)
    if "byte" in vector:
        assert isinstance(vector["byte"], int)
        return bytes([vector["byte"]]) * size
    return hashlib.shake_128(str(vector["seed"]).encode()).digest(size)


@given(st.integers(0, 20_000), st.integers(0, 1 << 30), st.sampled_from([64, 65, 100, 127]), st.integers(0, 3))
def test_the_library_follows_the_rule(size: int, seed: int, least: int, normalization: int) -> None:
    cutting = Cutting(1024, 1024, least, 256, 1025, normalization)
    data = noise(size, seed)
    assert Cutter(cutting).lengths(memoryview(data)) == reference(data, cutting)


def test_the_library_follows_the_rule_with_the_parameters_of_a_store() -> None:
    data = noise(2_500_000)
    assert Cutter(Cutting()).lengths(memoryview(data)) == reference(data, Cutting())


@given(st.binary(max_size=300), st.integers(1, 60), st.integers(1, 700))
def test_a_stream_is_cut_like_its_bytes_however_it_arrives(piece: bytes, times: int, step: int) -> None:
    data = piece * times
    stream = io.BytesIO(data)
    arriving = list(cut(lambda window: stream.readinto(window[:step]), TINY))
    assert b"".join(arriving) == data
    assert [len(block) for block in arriving] == reference(data, TINY)


def test_blocks_keep_their_bounds() -> None:
    blocks = pieces(noise(3_000_000), TINY)
    assert all(64 <= len(block) <= 1024 for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= 1024
    assert 256 <= 3_000_000 / len(blocks) <= 512


def test_cuts_meet_again_after_a_change() -> None:
    before = noise(200_000)
    after = before[:100_000] + b"some bytes more" + before[100_000:]
    old, new = set(pieces(before, TINY)), set(pieces(after, TINY))
    assert sum(map(len, new - old)) < 5 * TINY.max_bytes


def test_an_empty_stream_has_no_blocks() -> None:
    assert pieces(b"", TINY) == []
    assert Cutter(TINY).lengths(memoryview(b"")) == []


def test_errors_of_the_stream_pass_through() -> None:
    def readinto(window: memoryview) -> int:
        raise InvalidInput("gone")

    with pytest.raises(InvalidInput, match="gone"):
        list(cut(readinto, TINY))


@pytest.mark.parametrize(
    "values",
    [
        {"small_file_bytes": 2 << 20},
        {"block_bytes": MAX_BLOCK_BYTES + 1},
        {"max_bytes": MAX_BLOCK_BYTES + 1},
        {"min_bytes": 1 << 20},
        {"min_bytes": 63},
        {"avg_bytes": 4 << 20},
        {"normalization": 4},
        {"small_file_bytes": -1},
    ],
)
def test_parameters_that_do_not_fit_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Cutting(**values)
