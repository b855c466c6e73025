"""Recutting: the blocks of an edited file are those of the whole file cut anew, and little of it is read."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.change import joined
from dvfs.store.cut import Cutting, cut
from dvfs.store.digest import block_digest
from dvfs.store.ids import PackId
from dvfs.store.recut import dirty_ranges, recut
from tests.store.noise import noise

PACK = PackId(b"p" * 24)
CUTTINGS = [
    Cutting(1024, 1024, 64, 256, 1024),
    Cutting(1024, 1024, 65, 256, 1025, 0),
    Cutting(1024, 1024, 200, 300, 1024),
]


def blocks_of(data: bytes, cutting: Cutting) -> list[bytes]:
    return list(cut(io.BytesIO(data).readinto, cutting))


def extent(raw: bytes) -> Extent:
    return Extent(BlockRef(0, PACK, 0, len(raw), len(raw), Codec.RAW, block_digest(raw)), 0, len(raw))


class Edit:
    """A file before and after edits; recuts it and notes what is read."""

    def __init__(self, before: bytes, cutting: Cutting = CUTTINGS[0]) -> None:
        self.before = before
        self.data = bytearray(before)
        self.floor = len(before)
        self.written: list[tuple[int, int]] = []
        self.cutting = cutting
        self.reads: list[tuple[int, int]] = []

    def write(self, start: int, data: bytes) -> None:
        """Write as a file system does: a hole before *start* reads as zeros, and counts as written."""
        if start > len(self.data):
            self.written.append((len(self.data), start))
            self.data += bytes(start - len(self.data))
        self.data[start : start + len(data)] = data
        self.written.append((start, start + len(data)))

    def truncate(self, size: int) -> None:
        if size < len(self.data):
            self.floor = min(self.floor, size)
            del self.data[size:]
        elif size > len(self.data):
            self.written.append((len(self.data), size))
            self.data += bytes(size - len(self.data))

    def recut(self, gap_bytes: int = 0) -> Iterator[bytes | Extent]:
        old = [extent(raw) for raw in blocks_of(self.before, self.cutting)]
        written = joined(sorted(self.written), gap_bytes)
        dirty = dirty_ranges(written, floor=self.floor, before_size=len(self.before), size=len(self.data))

        def read_at(start: int, view: memoryview) -> None:
            assert start + len(view) <= len(self.data)
            view[:] = self.data[start : start + len(view)]
            self.reads.append((start, start + len(view)))

        for found in recut(old, dirty, len(self.data), self.cutting, read_at):
            yield bytes(found) if isinstance(found, memoryview) else found

    def check(self, gap_bytes: int = 0) -> int:
        """Compare with the whole file cut anew; return how many blocks were not read."""
        self.reads.clear()
        found = list(self.recut(gap_bytes))
        digests = [block_digest(one) if isinstance(one, bytes) else one.block.digest for one in found]
        assert digests == [block_digest(raw) for raw in blocks_of(bytes(self.data), self.cutting)]
        assert all(one[1] <= two[0] for one, two in zip(self.reads, self.reads[1:], strict=False))
        return sum(isinstance(one, Extent) for one in found)


FILES = {
    "noise": noise(8000, 1),
    "zeros": bytes(8000),
    "text": b"the same line again\n" * 400,
    "mixed": noise(3000, 2) + bytes(3000) + noise(3000, 3) + b"ab" * 1500,
}
OPERATIONS = st.tuples(
    st.sampled_from(["write", "zero", "same", "truncate"]),
    st.integers(0, 100),
    st.integers(-2, 2),
    st.one_of(st.integers(1, 3), st.integers(0, 3000)),
)


@given(
    st.sampled_from(sorted(FILES)),
    st.sampled_from(CUTTINGS),
    st.lists(OPERATIONS, max_size=6),
    st.integers(0, 1 << 20),
    st.sampled_from([0, 0, 64, 700]),
)
def test_the_blocks_are_those_of_the_whole_file_cut_anew(
    name: str, cutting: Cutting, operations: list[tuple[str, int, int, int]], seed: int, gap_bytes: int
) -> None:
    """Edits start and end at old cuts, give or take two bytes."""
    before = FILES[name]
    cuts = [0, *accumulate(len(raw) for raw in blocks_of(before, cutting))]
    edit = Edit(before, cutting)
    for what, number, near, length in operations:
        at = max(0, cuts[number % len(cuts)] + near)
        if what == "truncate":
            edit.truncate(at if number % 2 else min(25_000, at + length))
        else:
            stop = max(at, cuts[(number + 1) % len(cuts)] - near) if length % 5 == 0 else at + length
            size = min(stop, 26_000) - at
            if size > 0:
                data = {"write": noise(size, seed), "zero": bytes(size), "same": before[at : at + size]}[what]
                edit.write(at, data)
    edit.check(gap_bytes)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("cutting", CUTTINGS, ids=str)
def test_one_byte_anywhere_near_a_cut(name: str, cutting: Cutting) -> None:
    before = FILES[name]
    for at in accumulate(len(raw) for raw in blocks_of(before, cutting)):
        for near in range(-2, 3):
            if 0 <= at + near < len(before):
                edit = Edit(before, cutting)
                edit.write(at + near, bytes([before[at + near] ^ 0x55]))
                edit.check()


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("cutting", CUTTINGS, ids=str)
def test_a_length_anywhere_near_a_cut(name: str, cutting: Cutting) -> None:
    before = FILES[name]
    for at in accumulate(len(raw) for raw in blocks_of(before, cutting)):
        for near in range(-2, 3):
            edit = Edit(before, cutting)
            edit.truncate(max(0, at + near))
            edit.check()
            edit.truncate(max(0, at + near) + 1)
            edit.check()
            edit.write(len(edit.data), noise(700))
            edit.check()


def test_little_is_read_around_one_edit() -> None:
    """From at most one block before it, usually to the second after it."""
    before = noise(200_000, 4)
    cuts = [0, *accumulate(len(raw) for raw in blocks_of(before, CUTTINGS[0]))]
    after = []
    for at in range(1000, 199_000, 777):
        edit = Edit(before)
        edit.write(at, noise(10, at))
        kept = edit.check()
        here = bisect_right(cuts, at) - 1
        last = bisect_right(cuts, edit.reads[-1][1] - 1) - 1
        assert edit.reads[0][0] >= cuts[max(0, here - 1)]
        assert kept >= len(cuts) - 1 - (last - here + 2)
        after.append(last - here)
    assert sum(number <= 2 for number in after) >= 0.8 * len(after)
    assert sum(after) <= 2 * len(after)
    assert max(after) <= 10


def test_nothing_written_reads_nothing() -> None:
    edit = Edit(noise(50_000, 4))
    assert edit.check() == len(blocks_of(edit.before, edit.cutting))
    assert edit.reads == []


def test_what_is_appended_is_read_and_the_last_block() -> None:
    edit = Edit(noise(50_000, 4))
    edit.write(50_000, noise(10_000, 5))
    old = blocks_of(edit.before, edit.cutting)
    assert edit.check() >= len(old) - 2
    assert 50_000 - edit.reads[0][0] <= len(old[-1]) + len(old[-2])


def test_ranges_are_joined() -> None:
    ranges = [(0, 0), (1, 2), (2, 3), (5, 6), (9, 9), (10, 20), (12, 15), (40, 41)]
    assert list(joined(ranges, 0)) == [(1, 3), (5, 6), (10, 20), (40, 41)]
    assert list(joined(ranges, 4)) == [(1, 20), (40, 41)]
    assert list(joined([], 4)) == []
