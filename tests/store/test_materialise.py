"""Copies of some paths of a version."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.errors import NotFound
from dvfs.store.materialise import cached_copy
from dvfs.store.url import open_backend
from tests.store_kit import Kit, tree_of, write_odd_tree


def test_a_copy_of_some_paths_holds_just_those_as_a_whole_copy_has_them(tmp_path: Path) -> None:
    kit = Kit(lambda: open_backend(str(tmp_path / "store")), tmp_path)
    record = kit.publish(write_odd_tree(tmp_path / "tree"))
    wanted = [b"x.d/z", b"big", b"dangling", b"empty directory/inside", b"d/" + b"d/" * 59 + b"deep", b"x.d/z", b"x"]
    with kit.machine() as store, closing(store.version(record)) as version:
        whole = tree_of(cached_copy(version, tmp_path / "copies"))
        some = cached_copy(version, tmp_path / "copies", paths=wanted)

        expected = {
            path
            for path in whole
            if any(path == one or path.startswith(one + b"/") or one.startswith(path + b"/") for one in wanted)
        } | {b""}
        assert tree_of(some) == {path: whole[path] for path in expected}
        assert cached_copy(version, tmp_path / "copies", paths=wanted[::-1]) == some
        assert tree_of(cached_copy(version, tmp_path / "copies", paths=[])).keys() == {b""}
        assert tree_of(cached_copy(version, tmp_path / "copies", paths=[b""])) == whole
        before = sorted((tmp_path / "copies").iterdir())
        with pytest.raises(NotFound, match="has no 'x/nothing'"):
            cached_copy(version, tmp_path / "copies", paths=[b"x", b"x/nothing"])
        assert sorted((tmp_path / "copies").iterdir()) == before
