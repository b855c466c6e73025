"""`dvfs://` on a store of each kind, with small blocks, and settings of a user who has nothing local yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from dvfs.fsspec import DvfsFileSystem
from dvfs.store.record import Record
from dvfs.store.url import open_backend
from tests.fsspec_kit import let_go
from tests.store_kit import Kit

BIG = os.urandom(1 << 20)
FILES: dict[str, bytes] = {
    "a.csv": b"x,y\n1,2\n3,4\n",
    "big.bin": BIG,
    "img/cat@2x.png": b"cat",
    "img/100%25.png": b"percent",
    "img/deep/er/dog.png": b"dog",
    "lines.txt": b"".join(b"line %d\n" % number for number in range(50_000)),
    "many/empty": b"",
} | {f"many/f{number:03}": b"%d " % number * number for number in range(200)}


@dataclass
class Published:
    """The version p/d@1.0.0 that has FILES, two empty directories and links; *kit* makes more."""

    kit: Kit
    record: Record
    folder: Path

    def publish(self, files: dict[str, bytes], name: str = "d", project: str = "p") -> Record:
        """Make a version that has *files*."""
        place = write(self.folder / f"more-{len(list(self.folder.iterdir()))}", files)
        return self.kit.publish(place, name=name, project=project)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Make *files* in *folder*; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def published(store_url: str, tmp_path: Path) -> Published:
    kit = Kit(lambda: open_backend(store_url), tmp_path)
    source = write(tmp_path / "sources" / "first", FILES)
    (source / "hollow/inside").mkdir(parents=True)
    for name, target in (
        ("to-file", "img/deep/../cat@2x.png"),
        ("to-folder", "img/deep"),
        ("dangling", "nowhere"),
        ("circle", "circle"),
        ("outside", "../../etc/passwd"),
        ("up", "."),
    ):
        (source / name).symlink_to(target)
    return Published(kit, kit.publish(source, name="d", project="p"), tmp_path / "sources")


@pytest.fixture
def settings(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The settings of the reader, set."""
    told = {
        "HOME": str(tmp_path / "home"),
        "DVFS_STORE": store_url,
        "DVFS_STATE_DIR": str(tmp_path / "state"),
        "DVFS_CACHE_DIR": str(tmp_path / "cache"),
        "DVFS_CACHE_SIZE": "1GiB",
        "DVFS_CONFIG": str(tmp_path / "config.toml"),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield told
    let_go()


@pytest.fixture
def fs(published: Published, settings: dict[str, str]) -> DvfsFileSystem:
    found: DvfsFileSystem = fsspec.filesystem("dvfs")
    return found


@pytest.fixture
def fetched(fs: DvfsFileSystem, published: Published) -> Callable[[], int]:
    """Returns how many raw bytes this process has fetched of p/d@1.0.0."""
    return lambda: fs._opened(published.record).version.fetcher.stats().raw_bytes
