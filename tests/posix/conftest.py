"""A writable mount for calls that POSIX describes; tests of one module share it, each in a folder of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Mounter, _sweep, mounter, public
from tests.store_kit import SMALL_CUTTING

__all__ = ["_sweep", "mounter", "public"]

_FOLDERS = 40


@pytest.fixture(scope="module")
def _folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    mounter = Mounter(tmp_path_factory.mktemp("posix"))
    source = mounter.folder / "source"
    for number in range(_FOLDERS):
        folder = source / f"{number:02}"
        (folder / "dir" / "inner").mkdir(parents=True)
        (folder / "dir" / "file").write_bytes(b"of the version")
        (folder / "file").write_bytes(bytes(range(256)) * 100)
        (folder / "link").symlink_to("file")
    mounted = mounter.rw(mounter.make(source, cutting=SMALL_CUTTING))
    yield (mounted.directory / f"{number:02}" for number in itertools.count())
    mounter.take_all_away()


@pytest.fixture(params=["base", "new"])
def top(request: pytest.FixtureRequest, _folders: Iterator[Path]) -> Path:
    """A folder with `dir/inner/`, `dir/file`, `file` and `link` to it: of the version, or made in the mount."""
    folder = next(_folders)
    if request.param == "base":
        return folder
    new = folder / "new"
    (new / "dir" / "inner").mkdir(parents=True)
    (new / "dir" / "file").write_bytes(b"of the version")
    (new / "file").write_bytes(bytes(range(256)) * 100)
    (new / "link").symlink_to("file")
    return new
