"""kill -9 of a reader at each named point of fetch and eviction; then all is read right and nothing is left over."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest

from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.fetch import Fetcher
from dvfs.store.folder import FolderBackend
from tests.cache_process import BLOCK_BYTES, CacheProcess, lay, unfinished
from tests.memory_backend import store_blocks
from tests.store.noise import noise

COUNT = 40
BUDGET = 10 * BLOCK_BYTES


class Store:
    """A store in a folder with one pack of 40 blocks."""

    def __init__(self, root: Path) -> None:
        self.path = root / "store"
        self.backend = FolderBackend(self.path)
        self.blocks = [noise(BLOCK_BYTES, seed) for seed in range(COUNT)]
        self.refs: list[BlockRef] = store_blocks(self.backend, self.blocks)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "point",
    [
        "fetch:after-temp",
        "fetch:before-rename",
        "fetch:after-rename",
        "evict:before-unlink",
        "evict:after-unlink",
        "index:before-commit",
    ],
)
def test_after_kill_9_the_next_reader_reads_all_and_nothing_is_left(
    tmp_path: Path, store: Store, point: str, count: int
) -> None:
    root = tmp_path / "cache"
    with CacheProcess("put", root, seed=7, count=2) as before:  # so that the index is there, and complete
        assert before.answer() == {"stored": 2}
        assert before.wait() == 0
    with CacheProcess(
        "read", root, store=store.path, refs=store.refs, budget=BUDGET, crash=[point, count], want=count > 1
    ) as reader:
        assert reader.answer() is None
        assert reader.wait() == -signal.SIGKILL
    left = unfinished(root)
    assert (point in ("fetch:after-temp", "fetch:before-rename")) <= (left != [])

    cache = Cache(root, budget_bytes=BUDGET, reserve_bytes=0)
    assert not unfinished(root)
    fetcher = Fetcher(lambda tag: store.backend, cache)
    assert [fetcher.block(ref) for ref in store.refs] == store.blocks
    fetcher.close()
    info = cache.info()
    on_disk = list((root / "blocks").glob("*/*"))
    assert info.blocks == len(on_disk)
    assert info.bytes == sum(path.stat().st_size for path in on_disk) <= BUDGET
    report = cache.verify()
    assert (report.blocks, report.damaged, report.strays) == (info.blocks, (), 0)
    cache.close()
    assert os.listdir(root / "sessions") == []


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("point", ["whole:before-link", "whole:after-link", "index:before-commit"])
def test_after_kill_9_in_a_whole_file_the_next_reader_reads_all_and_nothing_is_left(
    tmp_path: Path, store: Store, point: str, count: int
) -> None:
    root = tmp_path / "cache"
    with CacheProcess("put", root, seed=7, count=2) as before:
        assert before.answer() == {"stored": 2}
        assert before.wait() == 0
    crash, wants = [point, count], count > 1
    if point.startswith("index"):
        crash, wants = [point, min(count, 2)], False  # what comes together is noted once
    with CacheProcess("read", root, store=store.path, refs=store.refs, crash=crash, lay=True, want=wants) as reader:
        assert reader.answer() is None
        assert reader.wait() == -signal.SIGKILL
    assert len(list((root / "files").glob("*/*"))) == 1
    assert not unfinished(root)

    cache = Cache(root, budget_bytes=1 << 30, reserve_bytes=0)
    assert (cache.info().blocks, cache.info().bytes) == (3, on_disk(root))
    whole = root / lay(cache, store.refs)
    fetcher = Fetcher(lambda tag: store.backend, cache)
    assert [fetcher.block(ref) for ref in store.refs] == store.blocks
    assert whole.read_bytes() == b"".join(store.blocks)
    starts = itertools.accumulate((ref.raw for ref in store.refs), initial=0)
    rows = [(ref.digest, start, ref.raw) for ref, start in zip(store.refs, starts, strict=False)]
    assert cache.join(bytes.fromhex(whole.name), len(whole.read_bytes()), rows) is not None
    assert point.startswith("whole") <= (fetcher.stats().requests > 0)
    fetcher.close()
    assert (cache.info().blocks, cache.info().bytes) == (3, on_disk(root))
    report = cache.verify()
    assert (report.blocks, report.damaged, report.strays) == (COUNT + 2, (), 0)
    assert (cache.info().blocks, cache.info().bytes) == (3, on_disk(root))
    cache.close()
    assert os.listdir(root / "sessions") == []
    assert not unfinished(root)


def on_disk(root: Path) -> int:
    """Return what is in files of their own, and what whole files take of the disk."""
    own = [path.stat().st_size for path in (root / "blocks").glob("*/*") if not path.is_symlink()]
    return sum(own) + sum(path.stat().st_blocks * 512 for path in (root / "files").glob("*/*"))


def test_a_reader_goes_on_while_another_is_killed_in_the_middle(tmp_path: Path, store: Store) -> None:
    root = tmp_path / "cache"
    with (
        CacheProcess("read", root, store=store.path, refs=store.refs, crash=["fetch:before-rename", 10]) as killed,
        CacheProcess("read", root, store=store.path, refs=store.refs) as reader,
    ):
        answer = reader.answer()
        assert answer["right"] == COUNT
        assert answer["requests"] <= COUNT
        assert reader.wait() == 0
        assert killed.wait() in (0, -signal.SIGKILL)


def test_a_reader_goes_on_while_another_is_stopped_in_a_fetch(tmp_path: Path, store: Store) -> None:
    root = tmp_path / "cache"
    with CacheProcess("hold", root, refs=store.refs) as holder:
        assert holder.answer() == {"held": True}
        os.kill(holder.pid, signal.SIGSTOP)
        with CacheProcess("read", root, store=store.path, refs=store.refs, lock_wait=0.05) as reader:
            assert reader.answer() == {"requests": COUNT, "right": COUNT}
