"""Commit: changes become a child version, as a whole; edits in place cost what they touch."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvfs.store.catalog.entry import link
from dvfs.store.commit import Change
from dvfs.store.folder import FolderBackend
from tests.commit_kit import Committer, MemoryFiles, entries, folder, gone, kept, tree
from tests.store.noise import noise
from tests.store_kit import Kit

FILES = {"a": b"1", "d/b": b"22", "d/c": b"333", "d/e/f": noise(3000, 1), "big": noise(400_000, 2), "z": b""}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path)


def write(top: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top


def test_all_kinds_of_changes(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    with kit.machine() as store:
        before = entries(store, parent)
        record = commit.child(
            store,
            [
                files.file("new", b"new", tag=b"1"),
                gone("a"),
                files.file("d/b", noise(300_000, 5), mode=0o755, tag=b"2"),
                folder("x"),
                kept("x/big", before["big"], tag=b"3"),
                gone("big"),
                Change(b"d/link", link(b"c", 9)),
                folder("empty", mode=0o700),
                folder("d/e", mode=0o711),
            ],
        )
        found = tree(store, record)
        after = entries(store, record)
    assert found == {
        "": ("directory", 0o755),
        "new": ("file", 0o644, b"new"),
        "d": ("directory", 0o755),
        "d/b": ("file", 0o755, noise(300_000, 5)),
        "d/c": ("file", 0o644, b"333"),
        "d/link": ("link", b"c"),
        "d/e": ("directory", 0o711),
        "d/e/f": ("file", 0o644, FILES["d/e/f"]),
        "x": ("directory", 0o755),
        "x/big": ("file", 0o644, FILES["big"]),
        "empty": ("directory", 0o700),
        "z": ("file", 0o644, b""),
    }
    assert after["new"].mtime_ns == 7
    assert {tag: (digest, content) for tag, digest, content in commit.stored} == {
        b"1": after["new"][3:5],
        b"2": after["d/b"][3:5],
        b"3": before["big"][3:5],
    }
    assert (record.id, record.parents, record.base) == (commit.id, (parent.id,), parent.root)
    assert (record.project, record.name, record.version) == ("tests", "set", "1.0.1")
