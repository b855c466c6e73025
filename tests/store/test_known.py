"""What is known of bytes: found again, bounded, and never taken for something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.block import BlockRef, Extent
from dvfs.store.digest import block_digest
from dvfs.store.ids import PackId
from dvfs.store.known import KnownBlocks, KnownFiles


def block(number: int, raw: int = 100) -> BlockRef:
    return BlockRef(number % 3, PackId(bytes(24)), number, raw, raw, 0, block_digest(b"%d" % number))


@pytest.mark.parametrize("quick", [0, 2, 10])
def test_files_are_found_with_their_length(quick: int) -> None:
    known = KnownFiles(quick=quick)
    known.add(b"a" * 32, block(1), 0, 4 << 20)
    known.add(b"b" * 32, block(1), (4 << 20) - 1, 1)
    known.add(b"c" * 32, block(2), 7, 9)
    assert known.find(b"a" * 32, 4 << 20) == Extent(block(1), 0, 4 << 20)
    assert known.find(b"b" * 32, 1) == Extent(block(1), (4 << 20) - 1, 1)
    assert known.find(b"c" * 32, 9) == Extent(block(2), 7, 9)
    assert known.find(b"c" * 32, 8) is None
    assert known.find(b"d" * 32, 9) is None


@pytest.mark.parametrize("quick", [0, 1, 2])
def test_files_beyond_the_limit_are_not_remembered(quick: int) -> None:
    known = KnownFiles(most=2, quick=quick)
    for number in range(3):
        known.add(bytes([number]) * 32, block(number), 0, 1)
    assert [known.find(bytes([number]) * 32, 1) is not None for number in range(3)] == [True, True, False]


def test_many_blocks_are_found_while_the_table_grows() -> None:
    known = KnownBlocks()
    for number in range(3000):
        assert not known.has(block(number).digest)
        known.add(block(number))
        assert known.has(block(number).digest)
    assert len(known) == 3000
    assert all(known.find(block(number).digest, 100) == block(number) for number in range(3000))
    assert known.find(block(7).digest, 99) is None
    assert known.find(block(3000).digest, 100) is None


def test_the_first_block_of_a_digest_stays_and_the_limit_holds() -> None:
    known = KnownBlocks(most=2)
    first, second = block(1), block(1)._replace(offset=77)
    known.add(first)
    known.add(second)
    assert (len(known), known.find(first.digest, 100)) == (1, first)
    known.add(block(2))
    known.add(block(3))
    assert (len(known), known.has(block(3).digest)) == (2, False)


@given(st.lists(st.integers(0, 50), max_size=60))
def test_digests_that_fall_into_one_slot_are_told_apart(numbers: list[int]) -> None:
    known = KnownBlocks()
    blocks = {number: block(number)._replace(digest=bytes(8) + bytes([number]) * 24) for number in numbers}
    for made in blocks.values():
        known.add(made)
    for number in range(51):
        found = known.find(bytes(8) + bytes([number]) * 24, 100)
        assert found == blocks.get(number)
