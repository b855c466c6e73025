"""The index of the cache: totals, order of use, and rows that others changed meanwhile."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dvfs.store.cache_index import Index, Row
from dvfs.store.log_once import LogOnce


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


def open_index(path: Path) -> Index:
    return Index(path, log=LogOnce(logging.getLogger(__name__)))


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def test_totals_follow_every_change(path: Path) -> None:
    index = open_index(path)
    assert index.total() == (0, 0, False)
    index.apply({digest(1): (10, 1), digest(2): (20, 2), digest(3): (30, 3)}, {})
    index.apply({digest(3): (31, 3)}, {}, [digest(2), digest(9)])
    index.set_whole()
    assert index.total() == (41, 2, True)
    index.close()
    assert open_index(path).total() == (41, 2, True)


def test_blocks_come_in_order_of_their_last_use_which_never_goes_back(path: Path) -> None:
    index = open_index(path)
    index.apply({digest(number): (1, number) for number in range(5)}, {digest(0): 7, digest(9): 8})
    index.apply({digest(1): (1, 6)}, {digest(4): 1})
    assert [row.digest[0] for row in index.oldest(4)] == [2, 3, 4, 1]
    assert index.oldest(1) == [Row(digest(2), 1, 2)]


def test_a_row_that_was_used_or_put_again_meanwhile_is_not_removed(path: Path) -> None:
    one, other = open_index(path), open_index(path)
    one.apply({digest(number): (1, number) for number in range(4)}, {})
    rows = one.oldest(4)
    other.apply({digest(1): (1, 10)}, {digest(2): 11})
    one.remove(rows)
    one.remove(rows)
    assert [row.digest[0] for row in other.oldest(4)] == [1, 2]
    assert other.total().blocks == 2


def test_a_shard_is_the_digests_of_one_first_byte(path: Path) -> None:
    index = open_index(path)
    index.apply({digest(number): (1, 1) for number in (0, 1, 254, 255)}, {})
    assert [index.shard(shard) for shard in (0, 1, 2, 254, 255)] == [
        {digest(0)},
        {digest(1)},
        set(),
        {digest(254)},
        {digest(255)},
    ]
