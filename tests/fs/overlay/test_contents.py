"""Contents: of each byte the newest layer that holds it counts, then the version, then zeros."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfs.fs.overlay.contents import BELOW, ZEROS, Contents, Held, Piece, Stack, read_data
from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.schema import Committed
from dvfs.fs.source import Source
from dvfs.store.catalog.pages import NotCached
from tests.overlay_kit import CELL, FILES, Base, read_stack
from tests.store.noise import noise

INO = 9
CELLS = FILES[b"d/cells"]


def below(source: Source, path: bytes) -> Committed:
    found = source.tree.find(path)
    assert found is not None
    entry = found[1]
    return Committed(entry.size, entry.digest, entry.content)


class Drawn(NamedTuple):
    """A layer: the file is cut to *size* in it first, then cells are written."""

    size: int
    cells: list[int]
    longer: int


LAYERS = st.lists(
    st.builds(Drawn, st.integers(0, 5 * CELL), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 2 * CELL)),
    max_size=4,
)


@settings(max_examples=60)
@given(layers=LAYERS, has_version=st.booleans(), data=st.data())
def test_layers_lie_on_each_other(base: Base, layers: list[Drawn], has_version: bool, data: st.DataObject) -> None:
    with base.opened() as (_, version), tempfile.TemporaryDirectory() as folder:
        files = DataFiles(Path(folder))
        expected = bytearray(CELLS if has_version else b"")
        held: list[Held] = []
        for number, (size, cells, longer) in enumerate(layers, 1):
            floor = min(size, len(expected))
            del expected[floor:]
            file = files.get(INO, number)
            for cell in cells:
                start, stop = cell * CELL, min((cell + 1) * CELL, floor)
                if start < floor:
                    expected[start:stop] = noise(stop - start, number * 10 + cell)
                    os.pwrite(file.handle, expected[start:stop], start)
                    file.cells.add(cell, cell)
            if longer:
                expected += noise(longer, number)
                os.pwrite(file.handle, expected[floor:], floor)
            held.insert(0, Held(number, floor))
        stack = Stack(INO, len(expected), tuple(held), below(version, b"d/cells") if has_version else None)
        contents = Contents(files, version)

        assert read_stack(contents, stack) == bytes(expected)
        start = data.draw(st.integers(0, len(expected) + 5))
        length = data.draw(st.integers(0, 2 * CELL))
        buffer = bytearray(length)
        done = contents.readinto(stack, start, memoryview(buffer), wait=True)
        assert bytes(buffer[:done]) == bytes(expected[start : start + length])
        pieces = list(contents.pieces(stack, 0, stack.size))
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces)][: len(pieces)]
        assert sum(piece.stop - piece.start for piece in pieces) == stack.size
        written = contents.written(stack)
        for piece in pieces:
            inside = any(begin <= piece.start and piece.stop <= end for begin, end in written)
            assert inside == (piece.layer > 0)
        assert all(one[1] < two[0] for one, two in itertools.pairwise(written))


def test_what_is_behind_the_version_is_zeros(base: Base, tmp_path: Path) -> None:
    with base.opened() as (_, version):
        contents = Contents(DataFiles(tmp_path), version)
        stack = Stack(INO, 10, (), below(version, b"one"))
        assert list(contents.pieces(stack, 0, 10)) == [Piece(BELOW, 0, 1), Piece(ZEROS, 1, 10)]
        assert read_stack(contents, stack) == b"1" + bytes(9)
        assert read_stack(contents, Stack(INO, 3, (), None)) == bytes(3)
        assert contents.readinto(stack, 10, memoryview(bytearray(5)), wait=True) == 0


def test_bytes_that_are_not_cached_are_waited_for_only_if_that_is_allowed(base: Base, tmp_path: Path) -> None:
    with base.kit.machine() as store:
        version = store.version(base.record)
        contents = Contents(DataFiles(tmp_path), version)
        stack = Stack(INO, 150_000, (), below(version, b"d/large"))
        buffer = memoryview(bytearray(100))
        with pytest.raises(NotCached):
            contents.readinto(stack, 149_000, buffer, wait=False)
        assert contents.readinto(stack, 149_000, buffer, wait=True) == 100
        assert bytes(buffer) == FILES[b"d/large"][149_000:149_100]
        version.close()


def test_a_data_file_ends_in_zeros(tmp_path: Path) -> None:
    handle = DataFiles(tmp_path).get(INO, 1)
    os.pwrite(handle.handle, b"abc", 0)
    buffer = bytearray(b"x" * 6)
    read_data(handle.handle, 1, memoryview(buffer))
    assert buffer == b"bc\0\0\0\0"
