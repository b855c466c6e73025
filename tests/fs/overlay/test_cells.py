"""Cells: bits that are the same in memory and in their file, and runs of them."""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.fs.overlay.cells import Cells

_LAST = 70
RANGES = st.lists(st.tuples(st.integers(0, _LAST), st.integers(0, 40)).map(lambda pair: (pair[0], sum(pair))))


@contextmanager
def opened() -> Iterator[tuple[Cells, int]]:
    with tempfile.TemporaryFile() as file:
        yield Cells(file.fileno()), file.fileno()


@given(RANGES)
def test_cells_that_were_added_are_held_and_read_again(ranges: list[tuple[int, int]]) -> None:
    with opened() as (cells, handle):
        for first, last in ranges:
            cells.add(first, last)
        expected = {cell for first, last in ranges for cell in range(first, last + 1)}

        for found in (cells, Cells(handle)):
            assert {cell for cell in range(200) if found.has(cell)} == expected


@given(RANGES, st.integers(0, 130), st.integers(0, 130))
def test_runs_cover_what_was_asked_for_and_alternate(ranges: list[tuple[int, int]], first: int, more: int) -> None:
    with opened() as (cells, _):
        for begin, end in ranges:
            cells.add(begin, end)
        last = first + more
        runs = list(cells.runs(first, last))

        assert (runs[0][0], runs[-1][1]) == (first, last + 1)
        for one, two in itertools.pairwise(runs):
            assert one[1] == two[0]
            assert one[2] != two[2]
        for start, stop, is_held in runs:
            assert {cells.has(cell) for cell in range(start, stop)} == {is_held}


def test_runs_of_whole_bytes_are_passed_over_quickly() -> None:
    with opened() as (cells, _):
        cells.add(5, 1 << 20)
        assert list(cells.runs(0, 1 << 21)) == [
            (0, 5, False),
            (5, (1 << 20) + 1, True),
            ((1 << 20) + 1, (1 << 21) + 1, False),
        ]


def test_cells_that_could_not_be_noted_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as (cells, handle):
        cells.add(3, 4)

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "no room")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)
            with pytest.raises(OSError, match="no room"):
                cells.add(4, 30)
        for found in (cells, Cells(handle)):
            assert [cell for cell in range(40) if found.has(cell)] == [3, 4]


def test_adding_what_is_held_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as (cells, _):
        cells.add(0, 20)
        monkeypatch.setattr(os, "pwrite", None)
        cells.add(0, 20)
        cells.add(7, 8)
