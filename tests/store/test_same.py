"""A sync that passes over folders that are as the version has them finds what one that looks at each file finds."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.catalog.tree import Tree
from dvfs.store.folder import FolderBackend
from dvfs.store.same import SameFolders
from dvfs.store.scan import Scan, ScanOptions, _Level
from dvfs.store.source import Source
from dvfs.store.staging import Staging
from dvfs.store.sync import _Comparison
from tests.store_kit import SMALL_CUTTING, Kit

Change = Callable[[random.Random, Path], object]


def grow(folder: Path, rng: random.Random) -> None:
    """Make a tree of a few hundred entries, with links, empty folders and folders of one name in others."""
    for _ in range(30):
        place = folder.joinpath(*(rng.choice("abc") for _ in range(rng.randrange(4))))
        place.mkdir(parents=True, exist_ok=True)
        for _ in range(rng.randrange(12)):
            (place / f"f{rng.randrange(40)}").write_bytes(b"x" * rng.randrange(50))
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a" / "to-b").symlink_to("../b")
    (folder / "zz" / "empty").mkdir(parents=True)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())


CHANGES: dict[str, Change] = {
    "content": lambda rng, top: rng.choice(files(top)).write_bytes(b"other, longer than all that were there before"),
    "times": lambda rng, top: _touch(rng.choice(files(top)), files(top)[0]),
    "mode": lambda rng, top: rng.choice(files(top)).chmod(0o755),
    "mode of a folder": lambda rng, top: rng.choice(folders(top)).chmod(0o700),
    "added": lambda rng, top: (rng.choice(folders(top)) / "new").write_bytes(b"new"),
    "removed": lambda rng, top: rng.choice(files(top)).unlink(),
    "folder removed": lambda rng, top: shutil.rmtree(rng.choice(folders(top))),
    "folder added": lambda rng, top: (rng.choice(folders(top)) / "g" / "h").mkdir(parents=True),
    "file for folder": lambda rng, top: _replace(rng.choice(folders(top))),
    "link": lambda rng, top: _relink(top / "a" / "to-b"),
}


def _touch(file: Path, other: Path) -> None:
    os.utime(file, ns=(1, 1))
    other.write_bytes(b"y" * 99)  # of times alone nothing is made


def _replace(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"a file now")


def _relink(link: Path) -> None:
    link.unlink()
    link.symlink_to("elsewhere")


def changes(folder: Path, tree: Tree, staging: Staging, options: ScanOptions) -> list[Source]:
    comparison = _Comparison(b"", SMALL_CUTTING, False, None)
    return list(comparison.changes(Scan([os.fsencode(folder)], options), staging, tree))


@pytest.mark.parametrize("kind", CHANGES)
def test_what_differs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for seed in range(4):
        rng = random.Random(f"{kind} {seed}")
        folder = tmp_path / f"tree-{seed}"
        grow(folder, rng)
        kit = Kit(lambda seed=seed: FolderBackend(tmp_path / f"store-{seed}"), tmp_path)  # type: ignore[misc]
        record = kit.publish(folder, name=f"set-{seed}")
        CHANGES[kind](rng, folder)
        with (
            kit.machine() as store,
            closing(store.version(record)) as version,
            closing(Staging(tmp_path / f"staging-{seed}")) as staging,
        ):
            for options in ScanOptions(), ScanOptions(exclude=("f1*",)):
                found = changes(folder, version.tree, staging, options)
                with monkeypatch.context() as patch:
                    patch.setattr(SameFolders, "find", lambda *_: None)
                    expected = changes(folder, version.tree, staging, options)
                assert found == expected
                assert found


def test_folders_that_are_the_same_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tree"
    for name in "abc":
        (folder / name).mkdir(parents=True)
        for number in range(200):  # of several pages
            (folder / name / f"f{number}").write_bytes(b"x")
    kit = Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path)
    record = kit.publish(folder)
    (folder / "b" / "f7").write_bytes(b"more")
    looked_at: list[bytes] = []
    child = Scan._child

    def noted(scan: Scan, level: _Level, name: bytes, found: os.stat_result) -> Source | None:
        looked_at.append(level.path)
        return child(scan, level, name, found)

    monkeypatch.setattr(Scan, "_child", noted)
    with (
        kit.machine() as store,
        closing(store.version(record)) as version,
        closing(Staging(tmp_path / "staging")) as staging,
    ):
        found = changes(folder, version.tree, staging, ScanOptions())
    assert [source.path for source in found] == [b"b/f7"]
    assert set(looked_at) == {b"b"}
