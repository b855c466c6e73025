"""What commits cost: pages, requests, bytes, memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from dvfs.store.catalog.boundary import Boundaries, Boundary
from dvfs.store.catalog.entry import link
from dvfs.store.commit import Change, Request, commit
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import new_version_id
from dvfs.store.parameters import Parameters
from tests.commit_kit import (
    Committer,
    MemoryFiles,
    folder,
    pages,
    write,
)
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING, Kit

FILES = {"a": b"1", "d/b": b"22", "d/c": b"333", "d/e/f": noise(3000, 1), "big": noise(400_000, 2), "z": b""}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path)


def test_ten_files_of_five_thousand_cost_little(tmp_path: Path) -> None:
    small = Boundary(least=16, soft=32, most=64, rare=64, often=16, weight=1 << 20)
    kit = Kit(
        lambda: FolderBackend(tmp_path / "store"), tmp_path, Parameters(SMALL_CUTTING, Boundaries(small, small, small))
    )
    names = {f"d{number // 100:02}/f{number:04}": b"%d" % number for number in range(5000)}
    parent = kit.publish(write(tmp_path / "source", names))
    files = MemoryFiles()
    changes = [files.file(f"d{number:02}/f{number * 100 + 50:04}", noise(500, number)) for number in range(10)]
    with kit.machine() as store:
        assert kit.metered is not None
        before = pages(store, parent)
        counted = kit.metered.counts
        record = Committer(parent, files).child(store, changes)
        counts = kit.metered.counts - counted
        after = pages(store, record)
    fresh = after.keys() - before.keys()
    height = max(after.values())
    assert len(before) > 80
    assert len([digest for digest in fresh if after[digest] == 0]) <= 2 * 10
    assert len(fresh) <= 2 * 10 * (height + 1)
    assert counts.requests <= 12
    assert counts.bytes_out < 60_000
    assert record.counts.uploaded < 100_000


def test_a_hundred_thousand_changes_pass_through(kit: Kit, tmp_path: Path) -> None:
    """None is kept: what the caller yields is gone when the next comes."""
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    alive = 0
    most = 0

    class Counted(bytes):
        def __new__(cls, data: bytes) -> Self:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, data)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def changes() -> Iterator[Change]:
        yield folder("many")
        for number in range(50_000):
            yield Change(Counted(b"many/%06d" % (number * 7919 % 50_000)), link(b"x"))

    with kit.machine() as store:
        request = Request(new_version_id(), parent)
        record = commit(store, request, changes, files)
        assert record is not None
        assert record.counts.entries == 50_000 + 10
    assert most < 10_000
