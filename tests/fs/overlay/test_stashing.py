"""Edits put aside and taken up again, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfs.fs.overlay import layers, stashing
from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.discarding import discard_all
from dvfs.fs.overlay.editing import Editing
from dvfs.fs.overlay.home import STASH
from dvfs.fs.overlay.rows import Rows
from dvfs.fs.overlay.stashing import current, drop, pop, stash
from dvfs.store.errors import NoSpace, WrongState
from dvfs.store.version import Version
from tests.fs.overlay.edits import OWNER, Bench, Step, Tree, crashed, files_of, fresh, steps

ROOT = 1
Call = Callable[[Editing], object]


def edit(bench: Bench) -> Tree:
    """Make an edit of every kind; return the tree."""
    overlay, ino = bench.editing.overlay, bench.lookup(b"c")
    bench.write(ino, 20000, b"grown")
    overlay.setxattr(ino, b"user.mark", b"1")
    bench.write(overlay.mknod(ROOT, b"n", stat.S_IFREG | 0o600, OWNER).ino, 0, b"new")
    overlay.rename(ROOT, b"a", ROOT, b"z")
    overlay.unlink(ROOT, b"d")
    bench.editing.rows.save()
    return bench.tree()


@settings(max_examples=50, deadline=None)
@given(earlier=st.lists(steps(), max_size=2), edits=steps(), meanwhile=steps(), later=steps(most=10))
def test_what_was_put_aside_comes_again(
    small_version: Version, earlier: list[list[Step]], edits: list[Step], meanwhile: list[Step], later: list[Step]
) -> None:
    with fresh(small_version) as bench:
        for some in earlier:
            for step in some:
                bench.do(step)
            bench.commit()
        for step in edits:
            bench.do(step)
        bench.reopen()
        edited = bench.tree()
        if not bench.editing.has_edits():
            with pytest.raises(WrongState, match="has no edits"):
                stash(bench.editing)
            return
        stash(bench.editing)
        assert bench.tree() == bench.committed
        assert not bench.editing.has_edits()
        for step in meanwhile:
            bench.do(step)
        given_meanwhile = {item.ino for item in bench.tree().values()} - {item.ino for item in bench.committed.values()}
        assert not given_meanwhile & {item.ino for item in edited.values()}
        discard_all(bench.editing)
        assert bench.tree() == bench.committed
        pop(bench.editing)
        assert bench.tree() == edited
        assert current(bench.editing.rows, bench.folder) is None
        assert not (bench.folder / STASH).exists()
        bench.reopen()
        assert bench.tree() == edited
        for step in later:
            bench.do(step)
        discard_all(bench.editing)
        assert bench.tree() == bench.committed


def test_what_stands_in_the_way(bench: Bench) -> None:
    editing = bench.editing
    with pytest.raises(WrongState, match="has no stash"):
        pop(editing)
    with pytest.raises(WrongState, match="has no edits"):
        stash(editing)
    edited = edit(bench)
    stash(editing)
    with pytest.raises(WrongState, match="has a stash"):
        stash(editing)
    bench.write(bench.lookup(b"c"), 0, b"other")
    with pytest.raises(WrongState, match="there are edits"):
        pop(editing)
    layers.freeze(editing.rows, "f" * 32)
    with pytest.raises(WrongState, match="there are edits"):
        pop(editing)
    layers.complete(editing.rows, layers.state(editing.rows).pending)
    with pytest.raises(WrongState, match="a commit was made since"):
        pop(editing)
    drop(editing)
    assert not (bench.folder / STASH).exists()
    with pytest.raises(WrongState, match="has no stash"):
        drop(editing)
    assert bench.tree() != edited
    bench.write(bench.lookup(b"c"), 0, b"again")
    layers.freeze(editing.rows, "e" * 32)
    with pytest.raises(WrongState, match="a commit was begun"):
        stash(editing)


def test_an_overlay_with_a_stash_alone_is_kept(bench: Bench) -> None:
    edited = edit(bench)
    stash(bench.editing)
    assert bench.editing.close()
    bench.editing = bench.opened()
    pop(bench.editing)
    assert bench.tree() == edited


def test_the_kernel_must_forget_both(bench: Bench) -> None:
    ino, a, d = (bench.lookup(path) for path in (b"c", b"a", b"d"))
    new = edit(bench)[b"n"].ino
    names = {(ROOT, name) for name in (b"a", b"d", b"n", b"z")}
    for forgotten in (stash(bench.editing), pop(bench.editing)):
        assert set(forgotten.names) == names
        assert set(forgotten.inodes) == {ROOT, ino, a, d, new}
        assert set(forgotten.files) == {ino, d, new}


class Watch:
    """Looks at what a kill would leave, before each change on the disk that *bench* makes."""

    def __init__(self, bench: Bench, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._bench = bench
        self._folder = folder
        self.seen: list[Tree] = []
        self.popped: list[Tree] = []
        for owner, name in ((Rows, "checkpoint"), (DataFiles, "remove"), (stashing, "sync_disk"), (os, "link")):
            self._wrap(patch, owner, name)
        self._wrap(patch, shutil, "rmtree")
        self.is_on = True

    def _wrap(self, patch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        function = getattr(owner, name)

        def watched(*args: object, **kwargs: object) -> object:
            if getattr(self, "is_on", False):
                self.is_on = False
                self.look()
                self.is_on = True
            return function(*args, **kwargs)

        patch.setattr(owner, name, watched)

    def look(self) -> None:
        with crashed(self._bench, self._folder / f"crashed-{len(self.seen)}") as other:
            self.seen.append(other.tree())
            is_stashed = current(other.editing.rows, other.folder) is not None
            assert (other.folder / STASH).exists() == is_stashed
            if is_stashed:
                assert files_of(other.folder) == []
                pop(other.editing)
            self.popped.append(other.tree())
            stash(other.editing)  # either can be done again
            pop(other.editing)
            assert other.tree() == self.popped[-1]


@pytest.mark.parametrize("call", [stash, pop])
def test_a_kill_loses_nothing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    edited = edit(bench)
    if call is pop:
        stash(bench.editing)
    before = bench.tree()
    with monkeypatch.context() as patch:
        watch = Watch(bench, tmp_path, patch)
        call(bench.editing)
        watch.is_on = False
    after = bench.tree()
    assert watch.seen[0] == before
    assert watch.seen[-1] == after
    assert all(tree in (before, after) for tree in watch.seen)
    assert all(tree == edited for tree in watch.popped)


@pytest.mark.parametrize("call", [stash, pop])
@pytest.mark.parametrize("where", ["link", "rewrite"])
def test_a_full_disk_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, call: Call, where: str) -> None:
    edited = edit(bench)
    if call is pop:
        stash(bench.editing)
    before, files = bench.tree(), files_of(bench.folder)

    def full(*_: object, **__: object) -> None:
        raise (NoSpace("no space") if where == "rewrite" else OSError(28, "No space left on device"))

    with monkeypatch.context() as patch:
        if where == "rewrite":
            patch.setattr(Rows, "rewrite", full)
        else:
            patch.setattr(os, "link", full)
        with pytest.raises(NoSpace):
            call(bench.editing)
    assert bench.tree() == before
    assert files_of(bench.folder) == files
    if call is stash:
        stash(bench.editing)
    pop(bench.editing)
    assert bench.tree() == edited
