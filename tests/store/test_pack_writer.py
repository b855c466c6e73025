"""Writing packs: files are marked when all their packs are there, and buffers are not touched before that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from dvfs.store.block import BlockRef, Extent
from dvfs.store.digest import Buffer, block_digest
from dvfs.store.errors import Unavailable
from dvfs.store.ids import PackId, VersionId, new_pack_id, pack_key
from dvfs.store.pack import parse_footer
from dvfs.store.pack_writer import PackWriter
from dvfs.store.staging import PackedFile
from tests.memory_backend import MemoryBackend
from tests.store.noise import noise

VERSION = VersionId("cd" * 16)
HOLD_SECONDS = 60.0


class Writing:
    """A writer of packs of 1,000 bytes, its store, and what it marked."""

    def __init__(self, *, puts: int = 3, files_per_pack: int = 100, fail: PackId | None = None) -> None:
        self.backend = MemoryBackend()
        self._fail = fail
        self.marked: list[bytes] = []
        self.sent: list[BlockRef] = []
        self.held: dict[PackId, threading.Event] = {}
        self.ids: list[PackId] = []
        self.writer = PackWriter(
            new_pack=self._new_pack,
            put=self._put,
            mark=self._mark,
            pack_bytes=1000,
            puts=puts,
            files_per_pack=files_per_pack,
        )

    def _new_pack(self) -> PackId:
        number = len(self.ids)
        self.ids.append(new_pack_id(VERSION, lambda count: number.to_bytes(count, "big")))
        return self.ids[-1]

    def _put(self, key: str, data: Buffer) -> None:
        if self._fail is not None and key == pack_key(self._fail):
            raise Unavailable("no")
        for pack, event in self.held.items():
            if pack_key(pack) == key:
                assert event.wait(HOLD_SECONDS)
        self.backend.put_if_absent(key, data)

    def _mark(self, files: Sequence[PackedFile], blocks: Sequence[BlockRef]) -> None:
        for file in files:
            assert all(pack_key(extent.block.pack) in self.backend.objects for extent in file.extents)
            self.marked.append(file.path)
        self.sent += blocks

    def block(self, size: int, seed: int, *, cut: bool = False) -> BlockRef:
        data = noise(size, seed)
        return self.writer.append(data, size, 0, block_digest(data), of_cut_file=cut)

    def file(self, path: bytes, *blocks: BlockRef) -> None:
        extents = tuple(Extent(block, 0, block.raw) for block in blocks)
        self.writer.add_file(PackedFile(path, 1, bytes(32), extents))


@pytest.fixture
def writing() -> Iterator[Writing]:
    made = Writing()
    yield made
    made.writer.stop()


def test_packs_are_whole_though_they_share_buffers(writing: Writing) -> None:
    blocks = [writing.block(600, seed) for seed in range(40)]
    writing.writer.finish()
    assert len(writing.backend.objects) == 20 == writing.writer.packs
    for block, seed in zip(blocks, range(40), strict=True):
        data = writing.backend.objects[pack_key(block.pack)]
        assert block in parse_footer(data, pack=block.pack, pack_bytes=len(data)).blocks
        assert data[block.offset : block.offset + block.stored] == noise(600, seed)
    assert writing.writer.stored_bytes == sum(map(len, writing.backend.objects.values()))


def test_a_file_of_no_blocks_or_of_old_packs_waits_for_nothing(writing: Writing) -> None:
    old = writing.block(1200, 1)
    writing.file(b"a", old)
    writing.writer.finish()
    writing.file(b"empty")
    writing.file(b"again", old)
    assert writing.marked == [b"a"]
    writing.writer.finish()
    assert writing.marked == [b"a", b"empty", b"again"]


def test_a_file_waits_for_the_last_of_its_packs_whichever_that_is() -> None:
    held = Writing()
    held.held = {new_pack_id(VERSION, lambda count: bytes(count)): threading.Event()}
    blocks = [held.block(1000, seed, cut=True) for seed in range(3)]
    held.file(b"all", *blocks)
    held.file(b"last", blocks[2])
    held.file(b"first and last", blocks[0], blocks[2])
    held.writer.send_if_full()
    deadline = time.monotonic() + HOLD_SECONDS
    while len(held.sent) < 2 and time.monotonic() < deadline:  # two packs land; the first is held
        held.writer.send_if_full()
    assert held.marked == [b"last"]
    next(iter(held.held.values())).set()
    held.writer.finish()
    assert sorted(held.marked) == [b"all", b"first and last", b"last"]
    assert set(held.sent) == set(blocks)
    held.writer.stop()


def test_many_waiting_files_end_a_pack() -> None:
    writing = Writing(files_per_pack=5)
    for number in range(12):
        writing.file(b"%d" % number, writing.block(10, number))
        writing.writer.send_if_full()
    writing.writer.finish()
    writing.writer.stop()
    assert len(writing.backend.objects) == 3
    assert len(writing.marked) == 12


def test_stopping_marks_what_landed_and_sends_nothing_more() -> None:
    writing = Writing()
    for number in range(3):
        writing.file(b"%d" % number, writing.block(1000, number))
    writing.writer.send_if_full()
    writing.file(b"unsent", writing.block(10, 9))
    writing.writer.stop()
    assert sorted(writing.marked) == [b"0", b"1", b"2"]
    assert len(writing.backend.objects) == 3


def test_a_put_that_failed_is_raised_and_marks_nothing() -> None:
    writing = Writing(puts=1, fail=new_pack_id(VERSION, lambda count: bytes(count)))
    writing.file(b"lost", writing.block(1000, 1))
    with pytest.raises(Unavailable):
        writing.writer.finish()
    writing.writer.stop()
    assert b"lost" not in writing.marked
