"""Reading ahead: small files are read where it is quickest, and all buffers come back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.store.buffers import Buffers
from dvfs.store.codec import Compression
from dvfs.store.cut import Cutting
from dvfs.store.read_ahead import Group, ReadAhead, Usage
from dvfs.store.source import Source, file_source
from dvfs.store.staging import Staged
from tests.store.noise import noise


class Usages:
    """What a thread is said to have used: each look at it adds the next of the steps."""

    def __init__(self, *steps: Usage) -> None:
        self._steps: Iterator[Usage] = iter(steps)
        self._now = Usage(0.0, 0.0, 0)
        self.threads: set[str] = set()
        self.looks = 0

    def __call__(self) -> Usage:
        self.looks += 1
        step = next(self._steps, Usage(0.001, 0.001, 0)) if self.looks % 2 == 0 else Usage(0.0, 0.0, 0)
        wall, processor, reads = self._now
        self._now = Usage(wall + step.wall, processor + step.processor, reads + step.disk_reads)
        return self._now


def rows(root: Path, count: int, size: int) -> list[Staged]:
    made = []
    for number in range(count):
        path = root / f"{number:04}"
        path.write_bytes(noise(size, number))
        made.append(Staged(file_source(path.name.encode(), os.fsencode(path), path.stat()), 1))
    return made


def ahead(usages: Usages) -> ReadAhead:
    return ReadAhead(
        buffers=Buffers(1 << 20),
        cutting=Cutting(1000, 1000, 64, 256, 1024),
        compression=Compression("none"),
        workers=2,
        refresh=False,
        whole_bytes=2000,
        files_per_block=100,
        has_block=lambda digest: False,
        before_cut=lambda source: None,
        usage=usages,
    )


@pytest.mark.parametrize("waited", [Usage(1.0, 0.01, 0), Usage(0.01, 0.01, 100)])
def test_after_a_group_that_waited_threads_read_the_next_ones(tmp_path: Path, waited: Usage) -> None:
    usages = Usages(waited)
    reading = ahead(usages)
    groups = [item for item in reading.items(rows(tmp_path, 400, 100)) if isinstance(item, Group)]
    reads = [group.work.result() for group in groups]
    reading.close()
    # 40 groups of 10: the first waited, threads read 16, the calling thread looks again and goes on.
    assert len(groups) == 40
    assert usages.looks == 2 * (40 - 16)
    data = [bytes(read.buffer[file.start : file.start + file.length]) for read in reads for file in read.files]  # type: ignore[union-attr]
    assert data == [noise(100, number) for number in range(400)]


def test_small_files_that_the_system_has_are_read_in_the_calling_thread(tmp_path: Path) -> None:
    usages = Usages()
    reading = ahead(usages)
    groups = list(reading.items(rows(tmp_path, 50, 100)))
    reading.close()
    assert usages.looks == 2 * len(groups) == 10


def test_longer_files_are_read_by_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usages = Usages()
    monkeypatch.setattr("dvfs.store.read_ahead._SHORT_BYTES", 100)
    reading = ahead(usages)
    assert len(list(reading.items(rows(tmp_path, 50, 100)))) == 5
    reading.close()
    assert usages.looks == 0


def test_buffers_take_turns() -> None:
    buffers = Buffers(200_000)
    first = buffers.take(1)
    second = buffers.take(65_536)
    third = buffers.take(65_537)
    assert [len(first), len(second), len(third)] == [65_536, 65_536, 131_072]
    for buffer in (first, third, second):
        buffers.give(buffer)
    assert buffers.take(131_000) is third
    assert buffers.take(10) is first
    assert buffers.take(10) is not second  # there was no room for it


def test_closing_ends_the_threads_and_drops_what_was_not_begun(tmp_path: Path) -> None:
    reading = ahead(Usages())
    next(iter(reading.items(rows(tmp_path, 50, 100))))
    reading.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("dvfs-")] == []


def test_a_source_fits_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    source: Source = file_source(b"a", os.fsencode(path), path.stat())
    assert source.fits(path.stat())
    assert not source.fits(tmp_path.stat())
    assert source.with_stat(path.stat()) == source
