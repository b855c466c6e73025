"""Edits taken back: all of them, those at some paths, and what must go with those."""

from __future__ import annotations

import stat
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfs.fs.overlay import layers
from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.discarding import Plan, apply, discard, discard_all, names_of, plan
from dvfs.fs.overlay.rows import Rows
from dvfs.store.errors import Conflict, NoSpace, NotFound, WrongState
from dvfs.store.version import Version
from tests.fs.overlay.edits import OWNER, Bench, Step, Tree, crashed, files_of, fresh, steps

ROOT = 1


def plan_for(bench: Bench, *paths: bytes) -> Plan:
    with closing(bench.snapshot()) as snapshot:
        return plan(snapshot, paths, OWNER)


def below(tree: Tree, top: bytes) -> dict[bytes, tuple[object, ...]]:
    return {path: item.kept for path, item in tree.items() if not top or (path + b"/").startswith(top + b"/")}


def check_clean(bench: Bench) -> None:
    committed = layers.state(bench.editing.rows).committed
    assert not bench.editing.rows.has_rows_above(committed)
    assert not bench.editing.has_edits()
    assert all(layer <= committed for _, layer in bench.editing.files.all())


def check_sound(bench: Bench) -> None:
    """No row is left that says something of what is not there."""
    there = {item.ino for item in bench.tree().values()}
    for parent, name, ino in bench.editing.rows.all("SELECT parent, name, ino FROM dentries WHERE ino <> 0"):
        assert parent in there, name
        assert ino in there, name
    held = "SELECT ino, layer FROM {} WHERE floor NOT NULL"
    known = {row for table in ("inodes", "old_inodes") for row in bench.editing.rows.all(held.format(table))}
    assert set(bench.editing.files.all()) <= known


# --- all


@settings(max_examples=50, deadline=None)
@given(earlier=st.lists(steps(), max_size=2), edits=steps())
def test_discard_all_gives_what_was_committed(
    small_version: Version, earlier: list[list[Step]], edits: list[Step]
) -> None:
    with fresh(small_version) as bench:
        for some in earlier:
            for step in some:
                bench.do(step)
            bench.commit()
        for step in edits:
            bench.do(step)
        discard_all(bench.editing)
        assert bench.tree() == bench.committed
        check_clean(bench)
        check_sound(bench)
        for step in edits:
            bench.do(step)
        discard_all(bench.editing)
        bench.reopen()
        assert bench.tree() == bench.committed


def test_discard_all_tells_what_the_kernel_must_forget(bench: Bench) -> None:
    overlay = bench.editing.overlay
    written, renamed = bench.lookup(b"c"), bench.lookup(b"a")
    bench.write(written, 50000, b"more")
    overlay.rename(ROOT, b"a", ROOT, b"z")
    made = overlay.mknod(renamed, b"new", stat.S_IFREG | 0o600, OWNER).ino
    forgotten = discard_all(bench.editing)
    assert set(forgotten.inodes) == {ROOT, written, renamed, made}
    assert set(forgotten.names) == {(ROOT, b"a"), (ROOT, b"z"), (renamed, b"new")}
    assert set(forgotten.files) == {written, made}
    with closing(bench.snapshot()) as snapshot:
        assert list(names_of(snapshot, [written])) == [(ROOT, b"c")]


def test_a_commit_that_was_begun_is_forgotten(bench: Bench) -> None:
    bench.write(bench.lookup(b"c"), 0, b"one")
    layers.freeze(bench.editing.rows, "f" * 32)
    bench.write(bench.lookup(b"c"), 9, b"two")
    with pytest.raises(WrongState, match="a commit was begun"):
        discard(bench.editing, [b"c"])
    discard_all(bench.editing)
    assert bench.tree() == bench.committed
    assert (layers.state(bench.editing.rows).frozen, layers.state(bench.editing.rows).pending) == (0, "")
    check_clean(bench)


def test_inode_numbers_are_not_used_again(bench: Bench) -> None:
    overlay = bench.editing.overlay
    first = overlay.mknod(ROOT, b"x", stat.S_IFREG | 0o600, OWNER).ino
    discard_all(bench.editing)
    bench.reopen()
    assert bench.editing.overlay.mknod(ROOT, b"x", stat.S_IFREG | 0o600, OWNER).ino > first


def test_a_file_that_was_removed_while_open_and_came_back_keeps_its_new_bytes(bench: Bench) -> None:
    """Its data file was about to go; the one of the same number that is written next must not."""
    overlay, ino = bench.editing.overlay, bench.lookup(b"c")
    bench.write(ino, 0, b"old")
    overlay.unlink(ROOT, b"c")
    overlay.forget(ino)
    discard_all(bench.editing)
    bench.write(ino, 0, b"new")
    overlay.rows.log.sync()
    overlay.files.bury(overlay.rows.log.synced)
    assert bench.read(ino)[:4] == b"new" + bytes([3])


# --- some


@settings(max_examples=100, deadline=None)
@given(
    earlier=st.lists(steps(), max_size=2),
    edits=steps(),
    chosen=st.lists(st.integers(0, 5000), min_size=1, max_size=3),
)
def test_discard_of_paths(
    small_version: Version, earlier: list[list[Step]], edits: list[Step], chosen: list[int]
) -> None:
    with fresh(small_version) as bench:
        for some in earlier:
            for step in some:
                bench.do(step)
            bench.commit()
        for step in edits:
            bench.do(step)
        bench.reopen()  # forgets what has no name any more
        before, now = bench.committed, bench.tree()
        places = sorted(before.keys() | now.keys())
        paths: list[bytes] = []
        planned = None
        for number in chosen:
            try:
                planned = plan_for(bench, *paths, places[number % len(places)])
            except NotFound:
                assert below(before, places[number % len(places)]) == below(now, places[number % len(places)]) or not (
                    bench.editing.has_edits() and _differ_in_more_than_times(before, now, places[number % len(places)])
                )
            else:
                paths.append(places[number % len(places)])
        if planned is None:
            return
        apply(bench.editing, planned)
        after = bench.tree()
        check_sound(bench)
        for path in paths:
            parent = path.rpartition(b"/")[0]
            if _same_directories(before, after, parent):
                assert below(after, path) == below(before, path), path
        stayed = {item.ino for item in before.values()} & {item.ino for item in now.values()}
        assert stayed <= {item.ino for item in after.values()}
        others = {item.ino: item.content for item in now.values()}
        for ino in {*planned.inodes, *planned.dropped}:
            others.pop(ino, None)
        found = {item.ino: item.content for item in after.values()}
        assert others.items() <= found.items()
        bench.reopen()
        assert bench.tree() == after
        discard_all(bench.editing)
        assert bench.tree() == before


def _same_directories(before: Tree, after: Tree, path: bytes) -> bool:
    parts = path.split(b"/") if path else []
    places = [b"/".join(parts[:count]) for count in range(len(parts) + 1)]
    return all(
        place in before and place in after and before[place].ino == after[place].ino and after[place].is_dir
        for place in places
    )


def _differ_in_more_than_times(before: Tree, now: Tree, top: bytes) -> bool:
    """Tell whether more differs at *top* and below than times of directories, and what moved with a directory above."""
    old, new = below(before, top), below(now, top)
    if _same_directories(before, now, top.rpartition(b"/")[0]):
        return {path: kept[1:3] + kept[4:] for path, kept in old.items()} != {
            path: kept[1:3] + kept[4:] for path, kept in new.items()
        }
    return False


def test_what_moved_is_taken_back_at_both_ends(bench: Bench) -> None:
    for path in (b"a", b"z"):
        bench.editing.overlay.rename(ROOT, b"a", ROOT, b"z")
        assert plan_for(bench, path).paths == (b"a", b"z")
        discard(bench.editing, [path])
        assert below(bench.tree(), b"a") == below(bench.committed, b"a")


def test_what_comes_back_brings_its_directory(bench: Bench) -> None:
    overlay = bench.editing.overlay
    a, b, c = (bench.lookup(path) for path in (b"a", b"a/b", b"a/b/c"))
    for parent, name in ((c, b"d"), (b, b"e"), (a, b"a")):
        overlay.unlink(parent, name)
    for parent, name in ((b, b"c"), (a, b"b"), (ROOT, b"a")):
        overlay.rmdir(parent, name)
    new = overlay.mkdir(ROOT, b"a", 0o700, OWNER).ino
    overlay.rename(ROOT, b"d", new, b"moved")
    discard(bench.editing, [b"a/b/c/d"])
    tree = bench.tree()
    assert [path for path in sorted(tree) if path.startswith(b"a")] == [b"a", b"a/b", b"a/b/c", b"a/b/c/d"]
    assert tree[b"d"].ino == bench.committed[b"d"].ino
    check_sound(bench)


def test_directories_that_would_end_up_inside_one_another(bench: Bench) -> None:
    overlay = bench.editing.overlay
    a, b, c = (bench.lookup(path) for path in (b"a", b"a/b", b"a/b/c"))
    overlay.rename(a, b"b", ROOT, b"y")
    overlay.rename(b, b"c", ROOT, b"z")
    overlay.rename(ROOT, b"b", ROOT, b"x")
    overlay.rename(ROOT, b"y", ROOT, b"b")
    overlay.rename(ROOT, b"a", b, b"w")
    discard(bench.editing, [b"x"])
    tree = bench.tree()
    assert {tree[path].ino for path in (b"a", b"a/b", b"z")} == {a, b, c}


def test_a_link_that_was_made_is_taken_back_alone(bench: Bench) -> None:
    overlay, ino = bench.editing.overlay, bench.lookup(b"c")
    bench.write(ino, 0, b"edited")
    overlay.link(ino, ROOT, b"l")
    discard(bench.editing, [b"l"])
    tree = bench.tree()
    assert b"l" not in tree
    assert (tree[b"c"].nlink, tree[b"c"].content[:6]) == (1, b"edited")


def test_a_file_that_keeps_a_link_is_taken_back(bench: Bench) -> None:
    overlay, ino = bench.editing.overlay, bench.lookup(b"c")
    overlay.link(ino, ROOT, b"l")
    bench.write(ino, 0, b"edited")
    discard(bench.editing, [b"c"])
    tree = bench.tree()
    assert tree[b"l"].content == tree[b"c"].content == bench.committed[b"c"].content
    assert (tree[b"c"].nlink, tree[b"c"].owner) == (2, OWNER)


def test_a_path_without_edits(bench: Bench) -> None:
    bench.editing.overlay.mknod(bench.lookup(b"a"), b"new", stat.S_IFREG | 0o600, OWNER)
    for path in (b"b", b"a/b", b"nothing", b"a/ne"):
        with pytest.raises(NotFound) as caught:
            discard(bench.editing, [b"a/new", path])
        assert caught.value.message == f"{path.decode()} has no edits"
    assert b"a/new" in bench.tree()
    discard(bench.editing, [b"a"])
    with pytest.raises(NotFound, match="there are no edits"):
        discard(bench.editing, [b""])


def test_a_plan_is_not_followed_after_further_edits(bench: Bench) -> None:
    bench.editing.overlay.unlink(ROOT, b"c")
    planned = plan_for(bench, b"c")
    bench.editing.overlay.mkdir(ROOT, b"c", 0o700, OWNER)
    with pytest.raises(Conflict):
        apply(bench.editing, planned)
    assert bench.tree()[b"c"].is_dir


# --- when it fails


@pytest.mark.parametrize("paths", [[], [b"a", b"c", b"n"]])
def test_a_kill_leaves_all_or_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[bytes]
) -> None:
    overlay = bench.editing.overlay
    bench.write(bench.lookup(b"c"), 20000, b"grown")
    overlay.rename(ROOT, b"a", ROOT, b"z")
    bench.write(overlay.mknod(ROOT, b"n", stat.S_IFREG | 0o600, OWNER).ino, 0, b"new")
    bench.editing.rows.save()
    edited = bench.tree()
    seen: list[Tree] = []

    def look() -> None:
        with crashed(bench, tmp_path / f"crashed-{len(seen)}") as other:
            seen.append(other.tree())
            assert seen[-1] == edited or files_of(other.folder) == []

    checkpoint, remove = Rows.checkpoint, DataFiles.remove

    def watched_checkpoint(rows: Rows) -> None:
        if rows is bench.editing.rows:
            look()
        checkpoint(rows)

    def watched_remove(files: DataFiles, ino: int, layer: int) -> None:
        if files is bench.editing.files:
            look()
        remove(files, ino, layer)

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "checkpoint", watched_checkpoint)
        patch.setattr(DataFiles, "remove", watched_remove)
        if paths:
            discard(bench.editing, paths)
        else:
            discard_all(bench.editing)
    final = bench.tree()
    assert _but_root_times(final) == _but_root_times(bench.committed)
    assert seen[0] == edited
    assert seen[-1] == final
    assert all(tree in (edited, final) for tree in seen)
    assert files_of(bench.folder) == []


def _but_root_times(tree: Tree) -> Tree:
    return {path: item._replace(mtime_ns=0, ctime_ns=0) if not path else item for path, item in tree.items()}


def test_a_full_disk_leaves_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ino = bench.lookup(b"c")
    bench.write(ino, 20000, b"grown")
    bench.editing.overlay.unlink(ROOT, b"d")
    edited = bench.tree()

    def full(rows: Rows) -> None:
        raise NoSpace("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "checkpoint", full)
        with pytest.raises(NoSpace):
            discard_all(bench.editing)
    assert bench.tree() == edited
    bench.write(ino, 0, b"more")
    bench.reopen()
    assert bench.tree()[b"c"].content[20000:] == b"grown"
    discard_all(bench.editing)
    assert bench.tree() == bench.committed
