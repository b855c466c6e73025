"""`dvfs.torch`: a sampler that tells the mount what comes, and is the sampler that it was otherwise."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.fs.mountpoint import take_away
from dvfs.fs.mounts import Mounts, wait_gone
from dvfs.surroundings import THIS_PROGRAM
from dvfs.torch import KnownOrder
from tests.python.conftest import made
from tests.store.noise import noise

FILES = 24
BYTES = 300_000


class Shuffled:
    """A sampler as those of PyTorch are: a new permutation each pass."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.count))
        random.Random(self.epoch).shuffle(order)
        return iter(order)


@pytest.fixture
def mounted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mount of files that do not compress, which fetches nothing by itself."""
    dataset = made(home, {f"f{number:02}": noise(BYTES, number) for number in range(FILES)})
    monkeypatch.setenv("DVFS_MOUNT_PREFETCH", "none")
    directory = home / "mnt"
    assert THIS_PROGRAM.mount(THIS_PROGRAM.settings(None), dataset.id, directory, writable=False)
    table = Mounts(Path(os.environ["DVFS_STATE_DIR"]))
    mount = table.at(directory)
    assert mount is not None
    yield directory
    take_away(directory, lazy=True)
    assert wait_gone(mount.pid, mount.started)


def paths_in(folder: Path) -> list[str]:
    return [str(folder / f"f{number:02}") for number in range(FILES)]


def wait_for_cache(least: int) -> None:
    cache = Path(os.environ["DVFS_CACHE_DIR"])
    deadline = time.monotonic() + 30
    while sum(path.stat().st_size for path in cache.rglob("*") if path.is_file() and "blocks" in path.parts) < least:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_pass_tells_the_mount_what_comes(mounted: Path) -> None:
    sampler = KnownOrder(Shuffled(FILES), paths_in(mounted))
    first = list(sampler)
    assert first == list(Shuffled(FILES))
    wait_for_cache(FILES * BYTES)
    store = Path(os.environ["DVFS_STORE"])
    store.rename(store.with_name("away"))
    for number in first:
        assert (mounted / f"f{number:02}").read_bytes() == noise(BYTES, number)


def test_batches_are_told_too(mounted: Path) -> None:
    batches = [[20, 3], [11]]
    assert list(KnownOrder(batches, paths_in(mounted))) == batches
    wait_for_cache(3 * BYTES)


def test_it_is_the_sampler_otherwise(home: Path) -> None:
    sampler = KnownOrder(Shuffled(FILES), paths_in(home))
    sampler.set_epoch(5)
    expected = Shuffled(FILES)
    expected.set_epoch(5)
    assert (len(sampler), list(sampler)) == (FILES, list(expected))
    for other in (copy.copy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert list(other) == list(expected)
    with pytest.raises(AttributeError):
        sampler.nothing  # noqa: B018
    with pytest.raises(TypeError):
        len(KnownOrder(iter([1]), paths_in(home)))
    assert list(KnownOrder([], [])) == []


def test_a_mount_that_does_not_answer_costs_nothing_but_a_word(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = Mounts(Path(os.environ["DVFS_STATE_DIR"]))
    mount = table.at(mounted)
    assert mount is not None
    sampler = KnownOrder(Shuffled(FILES), paths_in(mounted))
    (table.control_folder(mounted, mount.pid) / "control").unlink()
    with caplog.at_level(logging.WARNING):
        assert list(sampler) == list(Shuffled(FILES))
    assert "files are not fetched in the order of the sampler" in caplog.text
