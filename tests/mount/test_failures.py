"""What goes wrong behind a mount: an errno for what it touches, a line in the log, and the mount lives on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvfs.store.cache import Cache
from dvfs.store.ids import pack_key
from tests.catalog_model import TINY
from tests.fs.made_version import Made
from tests.mount.conftest import Mounter
from tests.store_kit import SMALL_CUTTING, tree_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten directories of ten files of 20 KB, so that each file shares its block with few others."""
    root = tmp_path / "source"
    for number in range(100):
        file = root / f"d{number // 10}" / f"f{number:02}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * 20_000)
    return root


@pytest.fixture
def made(mounter: Mounter, source: Path) -> Made:
    return mounter.make(source, cutting=SMALL_CUTTING, pack_bytes=256 << 10, tail_bytes=0)


def _errno_of(question: Callable[[], object]) -> int | None:
    try:
        question()
    except OSError as exc:
        return exc.errno
    return None


def _block_of(made: Made, folder: Path, path: bytes) -> tuple[Path, int]:
    """Return where the block with the file *path* is: its pack, and the offset there."""
    cache = Cache(folder / "look", budget_bytes=1 << 30, reserve_bytes=0)
    version = made.open(cache)
    found = version.tree.find(path)
    assert found is not None
    block = next(version.blocks(found[1]))
    version.close()
    cache.close()
    return made.store / pack_key(block.pack), block.offset


def test_a_damaged_block_is_an_error_for_what_lies_in_it(mounter: Mounter, made: Made, source: Path) -> None:
    pack, offset = _block_of(made, mounter.folder, b"d3/f33")
    data = bytearray(pack.read_bytes())
    data[offset + 7] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)

    mounted = mounter(made)
    mounted.is_noisy = True
    paths = sorted(path.relative_to(source) for path in source.glob("*/*"))
    found = {str(path): _errno_of((mounted.directory / path).read_bytes) for path in paths}
    hit = {path for path, number in found.items() if number is not None}
    assert "d3/f33" in hit
    assert {found[path] for path in hit} == {errno.EIO}
    assert len(hit) <= SMALL_CUTTING.block_bytes // 20_000
    for path in set(map(str, paths)) - hit:
        assert (mounted.directory / path).read_bytes() == (source / path).read_bytes()
    assert _errno_of((mounted.directory / "d3/f33").read_bytes) == errno.EIO
    assert any("EIO" in line for line in mounted.log_lines("WARNING"))


def test_a_damaged_page_is_an_error_for_its_part_of_the_tree(mounter: Mounter, source: Path) -> None:
    made = mounter.make(source, boundaries=TINY, tail_bytes=0)
    cache = Cache(mounter.folder / "look", budget_bytes=1 << 30, reserve_bytes=0)
    version = made.open(cache)
    page = version.tree.load(version.tree.root)
    while page.level > 1:
        page = version.tree.load(page.child(page.count // 2))  # type: ignore[union-attr]
    bad = page.child(page.count // 2).block  # type: ignore[union-attr]
    version.close()
    cache.close()
    pack = made.store / pack_key(bad.pack)
    data = bytearray(pack.read_bytes())
    data[bad.offset + bad.stored // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)

    mounted = mounter(made)
    mounted.is_noisy = True
    good = wrong = 0
    for path in sorted(source.glob("*/*")):
        number = _errno_of((mounted.directory / path.relative_to(source)).read_bytes)
        assert number in (None, errno.EIO)
        good, wrong = good + (number is None), wrong + (number is not None)
    assert good > 50
    assert wrong > 0
    assert any(bad.digest.hex() in line for line in mounted.log_lines("WARNING"))


def test_a_damaged_cache_is_fetched_anew(mounter: Mounter, made: Made, source: Path) -> None:
    mounted = mounter(made)
    mounted.is_noisy = True
    assert tree_of(mounted.directory) == tree_of(source)
    mounted.umount()
    for number, path in enumerate(sorted((mounter.folder / "cache" / "blocks").glob("*/*"))):
        data = bytearray(path.read_bytes())
        path.chmod(0o644)
        if number % 2:
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        else:
            path.write_bytes(data[: len(data) // 2])
    again = mounter(made)
    again.is_noisy = True
    assert tree_of(again.directory) == tree_of(source)
    assert any("damaged" in line for line in again.log_lines("WARNING"))


def test_what_is_cached_is_read_while_the_store_is_away(mounter: Mounter, made: Made, source: Path) -> None:
    mounted = mounter(made)
    mounted.is_noisy = True
    first = sorted(source.glob("d0/*"))
    for path in source.rglob("*"):
        (mounted.directory / path.relative_to(source)).lstat()
    for path in first:
        (mounted.directory / path.relative_to(source)).read_bytes()
    mounted.broken.touch()
    for path in first:
        file = mounted.directory / path.relative_to(source)
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert opened.read() == path.read_bytes()
    far = sorted(source.glob("d9/*"))
    with (mounted.directory / "d9" / "f99").open("rb", buffering=0) as held:
        with ThreadPoolExecutor(8) as pool:
            files = [(mounted.directory / path.relative_to(source)).read_bytes for path in far]
            assert set(pool.map(_errno_of, files)) == {errno.EIO}
        assert _errno_of(lambda: held.read(10)) == errno.EIO
        mounted.broken.unlink()
        assert held.read(20_000) == bytes([99]) * 20_000
    assert tree_of(mounted.directory) == tree_of(source)
    assert any("EIO" in line for line in mounted.log_lines("WARNING"))


def test_a_cold_listing_while_the_store_is_away(mounter: Mounter, source: Path) -> None:
    mounted = mounter(mounter.make(source, boundaries=TINY, tail_bytes=0))
    mounted.is_noisy = True
    mounted.broken.touch()
    assert _errno_of(lambda: os.listdir(mounted.directory / "d5")) == errno.EIO
    mounted.broken.unlink()
    assert sorted(os.listdir(mounted.directory / "d5")) == [f"f{number}" for number in range(50, 60)]


def test_two_mounts_share_a_cache(mounter: Mounter, made: Made, source: Path) -> None:
    mounts = [mounter(made, mounter.folder / name) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        trees = list(pool.map(lambda mount: tree_of(mount.directory), mounts))
    assert trees == [tree_of(source)] * 2
