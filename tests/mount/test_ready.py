"""Small files that are looked up and then read: the shim answers, with the right bytes, and all is counted."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fs.made_version import Made
from tests.mount.conftest import Mounted, Mounter
from tests.mount_kit import FILE_BYTES, figures, files_of_20_kb
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING

FILES = 300
"""More than are ready at a time."""


@pytest.fixture
def made(mounter: Mounter, tmp_path: Path) -> Made:
    return mounter.make(files_of_20_kb(tmp_path / "source", FILES), cutting=SMALL_CUTTING, pack_bytes=256 << 10)


@pytest.fixture
def warm(mounter: Mounter, made: Made) -> Mounted:
    """A mount whose cache has all blocks, each open, as one file of each was read; the kernel keeps no other file."""
    first = mounter(made)
    for number in range(FILES):
        path_of(first, number).read_bytes()
    first.umount()
    mounted = mounter(made)
    for number in range(0, FILES, 2):  # three to a block
        path_of(mounted, number).read_bytes()
    return mounted


def path_of(mounted: Mounted, number: int) -> Path:
    return mounted.directory / f"d{number // 10:02}" / f"f{number:03}"


def given(mounted: Mounted) -> int:
    """Return how many reads the shim answered, of a mount that has ended."""
    line = mounted.log_lines("INFO dvfs.fs.serve: reads answered by the shim:")[-1]
    return int(line.rpartition(" ")[2])


def test_what_was_looked_up_is_read_without_python_and_counted(warm: Mounted) -> None:
    before = figures(warm)
    numbers = list(range(1, FILES, 2))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        assert path_of(warm, number).read_bytes() == noise(FILE_BYTES, number)
    passed = figures(warm)
    assert passed.reads.count - before.reads.count == len(numbers)
    assert passed.reads.bytes - before.reads.bytes == len(numbers) * FILE_BYTES
    assert passed.reads.waited == before.reads.waited
    assert passed.blocks.hits - before.blocks.hits == len(numbers)
    assert passed.store.count == before.store.count == 0
    warm.umount()
    assert given(warm) >= len(numbers)


def test_files_that_are_looked_up_long_before_they_are_read(warm: Mounted) -> None:
    numbers = range(1, FILES, 2)
    for number in numbers:
        assert path_of(warm, number).stat().st_size == FILE_BYTES
    for number in numbers:
        assert path_of(warm, number).read_bytes() == noise(FILE_BYTES, number)


def test_a_part_of_a_file_that_was_looked_up(warm: Mounted) -> None:
    number = 1
    fd = os.open(path_of(warm, number), os.O_RDONLY | os.O_DIRECT)
    try:
        assert os.pread(fd, 4096, 8192) == noise(FILE_BYTES, number)[8192 : 8192 + 4096]
    finally:
        os.close(fd)
    assert path_of(warm, number).read_bytes() == noise(FILE_BYTES, number)
    fd = os.open(path_of(warm, 3), os.O_RDONLY | os.O_DIRECT)
    try:
        assert os.pread(fd, 4096, 0) == noise(FILE_BYTES, 3)[:4096]
    finally:
        os.close(fd)


def test_a_file_whose_block_is_cut_short_in_the_cache_after_it_was_looked_up(mounter: Mounter, warm: Mounted) -> None:
    number = 1
    assert path_of(warm, number).stat().st_size == FILE_BYTES
    for block in (mounter.folder / "cache" / "blocks").rglob("?" * 64):
        os.truncate(block, 10)
    assert path_of(warm, number).read_bytes() == noise(FILE_BYTES, number)
    for mount in mounter.mounts:  # both have this log
        mount.is_noisy = True
    warm.umount()
    assert any("truncated while open" in line for line in warm.log_lines("WARNING"))


def test_a_file_that_is_evicted_after_it_was_looked_up(mounter: Mounter, warm: Mounted) -> None:
    number = 1
    assert path_of(warm, number).stat().st_size == FILE_BYTES
    for block in (mounter.folder / "cache" / "blocks").rglob("?" * 64):
        block.unlink()
    assert path_of(warm, number).read_bytes() == noise(FILE_BYTES, number)


def test_a_writable_mount_answers_all_itself(mounter: Mounter, made: Made) -> None:
    mounted = mounter.rw(made)
    for number in range(10):
        assert path_of(mounted, number).read_bytes() == noise(FILE_BYTES, number)
    path_of(mounted, 0).write_bytes(b"edited")
    assert path_of(mounted, 0).read_bytes() == b"edited"
    mounted.umount()
    assert mounted.log_lines("INFO dvfs.fs.serve: reads answered by the shim:") == []
