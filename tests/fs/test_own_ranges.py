"""Small files fetched by their own ranges: the first of a block alone, with the second the whole block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.fs.own_ranges import OwnRanges
from dvfs.fs.view import Identity, View, blocking_view
from dvfs.store.cache import Cache
from dvfs.store.errors import Corrupt
from dvfs.store.version import Version
from tests.fs.made_version import Made, make
from tests.mount.conftest import Mounter, _sweep, mounter
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING

__all__ = ["_sweep", "mounter"]

BYTES = 5_000
DATA = [noise(BYTES, number) for number in range(40)]
IDENTITY = Identity(b"", b"", b"")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    source = tmp_path / "source"
    source.mkdir()
    for number, data in enumerate(DATA):
        (source / f"f{number:02}").write_bytes(data)
    return make(source, tmp_path / "store", cutting=SMALL_CUTTING)


@pytest.fixture
def version(made: Made, tmp_path: Path) -> Iterator[Version]:
    with closing(Cache(tmp_path / "cache", budget_bytes=1 << 30, reserve_bytes=0)) as cache:
        version = made.open(cache)
        blocking_view(version, IDENTITY).entry(2)  # the catalog comes, one page
        yield version
        version.close()


def view_of(version: Version) -> View:
    return blocking_view(version, IDENTITY, 0, OwnRanges(version.fetcher.cached))


def read(view: View, number: int) -> bytes:
    return view.read(number + 2, 0, BYTES)  # the root is 1


def fetched(version: Version) -> tuple[int, int]:
    """Return the requests for blocks of files so far, and their bytes."""
    stats, tail = version.fetcher.stats(), version.root.tail
    assert tail is not None
    return stats.requests - 1, stats.bytes_fetched - tail.stored


def test_a_file_here_and_there_is_fetched_alone(version: Version) -> None:
    view = view_of(version)
    for number in (0, 20, 39):  # of three blocks
        assert read(view, number) == DATA[number]
        assert view.read(number + 2, 100, 50) == DATA[number][100:150]
    assert fetched(version) == (3, 3 * BYTES)


def test_the_second_file_of_a_block_brings_all_of_it(version: Version) -> None:
    view = view_of(version)
    for number in range(10):
        assert read(view, number) == DATA[number]
    requests, size = fetched(version)
    assert requests == 2
    assert 10 * BYTES < size <= BYTES + SMALL_CUTTING.block_bytes
    assert read(view_of(version), 0) == DATA[0]  # the block is here
    assert fetched(version)[0] == 2


def test_without_it_the_block_is_fetched(version: Version) -> None:
    assert read(blocking_view(version, IDENTITY), 0) == DATA[0]
    assert fetched(version)[1] > 10 * BYTES


def test_what_comes_is_verified(made: Made, version: Version) -> None:
    for pack in made.store.glob("packs/*/*"):
        pack.write_bytes(pack.read_bytes().replace(DATA[20][:100], bytes(100)))
    view = view_of(version)
    with pytest.raises(Corrupt):
        read(view, 20)
    assert read(view, 0) == DATA[0]


def test_a_mount_without_prefetch_fetches_what_is_read(made: Made, mounter: Mounter) -> None:
    mounted = mounter(made, prefetch="none")
    assert (mounted.directory / "f20").read_bytes() == DATA[20]
    assert (mounted.directory / "f00").read_bytes() == DATA[0]
    cached = [path.stat().st_size for path in (mounter.folder / "cache" / "blocks").rglob("*") if path.is_file()]
    assert sorted(size for size in cached if size >= BYTES) == [BYTES, BYTES]
