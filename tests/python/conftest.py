"""`from dvfs import Dataset` on an empty folder store, with all that it keeps in a temporary folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dvfs import Dataset
from tests.fsspec_kit import let_go


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with an environment of settings in which nobody has anything yet."""
    for name, value in settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    let_go()


def settings(folder: Path) -> dict[str, str]:
    """Return the variables of a user who has all in *folder*."""
    return {
        "HOME": str(folder / "home"),
        "DVFS_STORE": str(folder / "store"),
        "DVFS_STATE_DIR": str(folder / "state"),
        "DVFS_CACHE_DIR": str(folder / "cache"),
        "DVFS_CACHE_SIZE": "1GiB",
        "DVFS_CONFIG": str(folder / "config.toml"),
    }


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Make *files* in *folder*; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def read(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """Return path → bytes of all files in *folder*."""
    top = Path(folder)
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def made(home: Path, files: Mapping[str, str | bytes], name: str = "d", *parents: Dataset, **words: object) -> Dataset:
    """Return a finished version of p/*name* that has *files*, and nothing else."""
    number = len(list(home.glob("made-*")))
    dataset = Dataset.create(name, "p", parent_datasets=parents, **words)  # type: ignore[arg-type]
    dataset.sync_folder(write(home / f"made-{number}", files))
    dataset.finalize(auto_upload=True)
    return dataset
