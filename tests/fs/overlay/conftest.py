"""A version for the tests of overlays, and overlays over it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.store.version import Version
from tests.fs.overlay import edits
from tests.overlay_kit import Base, Client, Live, living, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The version of `overlay_kit.FILES`; many children may be committed to it."""
    folder = tmp_path_factory.mktemp("overlay-base")
    return Base(write_base(folder / "source"), folder)


@pytest.fixture
def live(base: Base, tmp_path: Path) -> Iterator[Live]:
    """An overlay over `base`, without edits."""
    with living(base, tmp_path / "overlay") as live:
        yield live


@pytest.fixture
def client(live: Live) -> Client:
    """Who asks `live`; after a kill it is `live.client`."""
    return live.client


@pytest.fixture(scope="module")
def small_version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Version]:
    folder = tmp_path_factory.mktemp("small")
    version, close = edits.open_version(edits.base(folder), folder)
    yield version
    close()


@pytest.fixture
def bench(small_version: Version, tmp_path: Path) -> Iterator[edits.Bench]:
    made = edits.Bench(small_version, tmp_path / "overlay")
    yield made
    made.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB. Skips where it cannot be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(path)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
