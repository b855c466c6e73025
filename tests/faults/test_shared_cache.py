"""Processes and mounts that read one version cold through one cache: all bytes right, no block fetched twice by one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from dvfs.store.digest import block_digest
from dvfs.store.folder import FolderBackend
from tests.fault_kit import Content, Machine, content_of, dissect, opened, publish, write_tree
from tests.fault_process import FaultProcess, Processes, task


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


@dataclass(frozen=True, slots=True)
class Cold:
    """A finished version in a folder store: its content, its blocks and pages in number and bytes."""

    url: str
    id: str
    expected: dict[bytes, Content]
    blocks: int
    raw_bytes: int


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Cold:
    top = tmp_path_factory.mktemp("cold")
    source = write_tree(top / "source")
    backend = FolderBackend(top / "store")
    with opened(backend, top / "publisher") as store:
        record = publish(store, source)
        with closing(store.version(record)) as version:
            regions = dissect(version, backend).regions
        assert record.root is not None
        tail = record.root.tail.raw  # a block of its own, of which pages are read
    size = sum(region.length for region in regions) + tail  # what noise is stored as is as long as it is raw
    return Cold(str(top / "store"), record.id, content_of(source), len(regions) + 1, size)


def _assert_fetched_once(cold: Cold, answers: list[dict[str, int]]) -> None:
    for answer in answers:
        assert answer["requests"] <= cold.blocks
        assert answer["raw_bytes"] <= cold.raw_bytes


def test_processes_that_read_at_once_fetch_no_block_twice(cold: Cold, tmp_path: Path, processes: Processes) -> None:
    digests = {
        os.fsdecode(path): block_digest(data).hex()
        for path, (mode, data) in cold.expected.items()
        if stat.S_ISREG(mode) and data is not None
    }
    told = [
        task("read", tmp_path / "machine", cold.url, id=cold.id, backwards=backwards)
        for backwards in (False, True, False)
    ]
    ended = processes.at_once(*told)
    assert [one.code for one in ended] == [0, 0, 0]
    assert all(one.answer["digests"] == digests for one in ended)
    _assert_fetched_once(cold, [one.answer for one in ended])
    assert sum(one.answer["requests"] for one in ended) >= 2
    again = processes("read", tmp_path / "machine", cold.url, id=cold.id)
    assert again.answer["requests"] == 0
    assert again.answer["digests"] == digests


@pytest.mark.parametrize("prefetch", ["none", "all"])
def test_mounts_of_one_version_fetch_no_block_twice(cold: Cold, tmp_path: Path, prefetch: str) -> None:
    folder = tmp_path / "machine"
    directories = [tmp_path / name for name in ("one", "two")]
    mounts = [
        FaultProcess(task("mount", folder, cold.url, id=cold.id, directory=str(directory), prefetch=prefetch))
        for directory in directories
    ]
    try:
        assert [mount.answer()["pid"] for mount in mounts] == [mount.process.pid for mount in mounts]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(content_of, directories * 2)) == [cold.expected] * 4
    finally:
        ended = [mount.unmount() for mount in mounts]
    assert [one.code for one in ended] == [0, 0]
    _assert_fetched_once(cold, [one.answer for one in ended])
    assert max(one.answer["requests"] for one in ended) >= 2


def test_one_of_two_mounts_is_killed_and_the_other_reads_on(cold: Cold, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", cold.url)
    with machine.mounted(cold.id, "--prefetch", "none", directory="one") as survivor:
        directory = machine.folder / "two"
        told = {"id": cold.id, "directory": str(directory), "crash": ["fetch:before-rename", 20]}
        victim = FaultProcess(task("mount", machine.folder, cold.url, **told))
        assert victim.answer()["pid"] == victim.process.pid
        with pytest.raises(OSError) as caught:
            content_of(directory)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        assert victim.end().was_killed
        assert content_of(survivor.directory) == cold.expected
        with machine.mounted(cold.id, directory="two") as mount:
            assert content_of(mount.directory) == cold.expected
        assert "WARNING" not in survivor.said()
