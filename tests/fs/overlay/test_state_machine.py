"""An overlay and a plain directory are asked the same, through reopening, kills and commits: they stay the same tree.

Beside that: a snapshot at an older layer shows the tree as it was when that layer ended, and what changes come to makes
the one tree of the other.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import closing
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dvfs.fs.overlay import committing, layers
from dvfs.fs.overlay.changes import Changes
from dvfs.fs.overlay.committing import CommitOptions, Frozen
from dvfs.fs.overlay.desk import LocalDesk
from dvfs.fs.overlay.overlay import EXCHANGE, NOREPLACE
from dvfs.fs.overlay.snapshot import is_special
from dvfs.store.catalog.entry import Entry
from dvfs.store.record import Record
from dvfs.store.upload import UploadOptions
from tests.overlay_kit import (
    CELL,
    NOW,
    OLD_NS,
    Base,
    Kept,
    Live,
    Outcome,
    Plain,
    Tree,
    kept_tree,
    shown_ns,
    version_tree,
    write_base,
)
from tests.store.noise import noise

FILES = {
    b"cells": noise(3 * CELL + 100, 1),
    b"large": noise(140_000, 2),
    b"d/e/x": b"x",
    b"d/e/\xff": b"\xff",
    b"m/n": b"",
}
"""Few, so that what is done meets what was done before."""
NAMES = st.sampled_from([b"a", b"x", b"e", b"n", b"\xff"])
EDGES = [0, 1, CELL - 1, CELL, CELL + 1, 2 * CELL, 3 * CELL + 100, 5 * CELL - 1]
OFFSETS = st.one_of(st.sampled_from(EDGES), st.integers(0, 6 * CELL))
LENGTHS = st.sampled_from([1, 2, 100, CELL - 1, CELL, CELL + 1, 2 * CELL])
OPTIONS = CommitOptions(skip_special=True, upload=UploadOptions(pack_bytes=1 << 18, workers=1))
STEPS = ["all", "committed", "completed", "repointed in part", "repointed"]


class OverlayMachine(RuleBasedStateMachine):
    """*live* is over *base*, and *plain* began as a copy of it. `ended`: the tree at the end of each layer."""

    def __init__(self, base: Base, folder: Path) -> None:
        super().__init__()
        self.base = base
        self.folder = folder
        self.numbers = count(1)
        self.handles: list[tuple[int, int]] = []
        self.ended: dict[int, Tree] = {}
        self.parent: Record = base.record

    @initialize(checkpoint_bytes=st.sampled_from([None, 1, 3000]))
    def begin(self, checkpoint_bytes: int | None) -> None:
        shutil.copytree(self.base.source, self.folder / "plain", symlinks=True)
        self.plain = Plain(self.folder / "plain")
        self.live = Live(self.base, self.folder / "overlay", checkpoint_bytes=checkpoint_bytes)
        self.tree = self.plain.tree()

    def teardown(self) -> None:
        if not hasattr(self, "live"):
            return
        try:
            self._look_back()
        finally:
            self._close_handles()
            self.live.close()
            shutil.rmtree(self.folder)

    # --- choosing

    def _some(self, data: st.DataObject, *kinds: int) -> bytes:
        paths = sorted(path for path, seen in self.tree.items() if stat.S_IFMT(seen.mode) in kinds)
        return data.draw(st.sampled_from(paths or [b"none"]))

    def _any(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from(sorted(path for path in self.tree if path) or [b"none"]))

    def _file(self, data: st.DataObject) -> bytes:
        return self._some(data, stat.S_IFREG)

    def _place(self, data: st.DataObject) -> bytes:
        """Return a path that may be new, and may be taken."""
        if data.draw(st.booleans()):
            return self._any(data)
        parent = self._some(data, stat.S_IFDIR)
        name = data.draw(NAMES)
        return parent + b"/" + name if parent else name

    def _both(self, name: str, *arguments: object) -> None:
        plain = Outcome.of(lambda: getattr(self.plain, name)(*arguments))
        mine = Outcome.of(lambda: getattr(self.live.client, name)(*arguments))
        assert mine == plain, (name, arguments)

    # --- names

    @rule(data=st.data(), kind=st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK]))
    def mknod(self, data: st.DataObject, kind: int) -> None:
        self._both("mknod", self._place(data), kind | 0o640)

    @rule(data=st.data())
    def mkdir(self, data: st.DataObject) -> None:
        self._both("mkdir", self._place(data), 0o750)

    @rule(data=st.data(), text=st.sampled_from([b"t", b"/some/where/else"]))
    def symlink(self, data: st.DataObject, text: bytes) -> None:
        self._both("symlink", text, self._place(data))

    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        self._both("link", self._any(data), self._place(data))

    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        self._both("unlink", self._place(data))

    @rule(data=st.data())
    def rmdir(self, data: st.DataObject) -> None:
        self._both("rmdir", self._some(data, stat.S_IFDIR) or b"d")

    @rule(data=st.data())
    def remove_all(self, data: st.DataObject) -> None:
        top = self._some(data, stat.S_IFDIR) or b"d/e"
        for path in sorted((path for path in self.tree if path.startswith(top + b"/")), reverse=True):
            self._both("rmdir" if stat.S_ISDIR(self.tree[path].mode) else "unlink", path)
        self._both("rmdir", top)

    @rule(data=st.data(), flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE, 3, 8]))
    def rename(self, data: st.DataObject, flags: int) -> None:
        self._both("rename", self._any(data), self._place(data), flags)

    @rule(data=st.data())
    def move_directory(self, data: st.DataObject) -> None:
        self._both("rename", self._some(data, stat.S_IFDIR) or b"d", self._place(data))

    # --- attributes and bytes

    @rule(data=st.data(), mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, data: st.DataObject, mode: int) -> None:
        path = self._some(data, stat.S_IFREG, stat.S_IFDIR)
        self._both("chmod", path, mode | (0o700 if stat.S_ISDIR(self.tree[path].mode) else 0))

    @rule(data=st.data(), number=st.integers(0, 99))
    def utime(self, data: st.DataObject, number: int) -> None:
        self._both("utime", self._any(data), OLD_NS + number)

    @rule(data=st.data(), name=st.sampled_from([b"user.a", b"user.b"]), value=st.sampled_from([None, b"", b"1"]))
    def setxattr(self, data: st.DataObject, name: bytes, value: bytes | None) -> None:
        self._both("setxattr", self._some(data, stat.S_IFREG, stat.S_IFDIR), name, value)

    @rule(start=OFFSETS, length=LENGTHS)
    def write_cells(self, start: int, length: int) -> None:
        if b"cells" in self.tree and stat.S_ISREG(self.tree[b"cells"].mode):
            self._both("write", b"cells", start, noise(length, next(self.numbers)))

    @rule(data=st.data(), start=OFFSETS, length=LENGTHS)
    def write(self, data: st.DataObject, start: int, length: int) -> None:
        self._both("write", self._file(data), start, noise(length, next(self.numbers)))

    @rule(data=st.data(), start=st.integers(0, 150_000), length=LENGTHS)
    def write_large(self, data: st.DataObject, start: int, length: int) -> None:
        path = max(self.tree, key=lambda path: self.tree[path].size * stat.S_ISREG(self.tree[path].mode))
        self._both("write", path, start, noise(length, next(self.numbers)))

    @rule(data=st.data(), size=OFFSETS)
    def truncate(self, data: st.DataObject, size: int) -> None:
        path = self._file(data)
        same = path in self.tree and self.tree[path].size == size  # whether that is a change, file systems differ
        self._both("truncate", path, size + same)

    # --- open files

    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        path = self._file(data)
        if path in self.tree and len(self.handles) < 3:
            self.handles.append((os.open(self.plain.at(path), os.O_RDWR), self.live.client.open(path)))

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), start=OFFSETS, length=LENGTHS)
    def write_open(self, data: st.DataObject, start: int, length: int) -> None:
        file, ino = data.draw(st.sampled_from(self.handles))
        written = noise(length, next(self.numbers))
        os.pwrite(file, written, start)
        self.live.client.pwrite(ino, start, written)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), size=OFFSETS)
    def truncate_open(self, data: st.DataObject, size: int) -> None:
        file, ino = data.draw(st.sampled_from(self.handles))
        size += os.fstat(file).st_size == size
        os.ftruncate(file, size)
        self.live.client.ftruncate(ino, size)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        file, ino = self.handles.pop(data.draw(st.integers(0, len(self.handles) - 1)))
        os.close(file)
        self.live.client.close(ino)

    def _close_handles(self) -> None:
        for file, _ in self.handles:
            os.close(file)
        self.handles.clear()

    # --- lives

    @rule()
    def reopen(self) -> None:
        self._close_handles()
        if not self.live.reopen(self.parent):
            self._begin_anew()
        self._check_tidy()

    def _begin_anew(self) -> None:
        """Nothing was edited: another overlay lies on what was committed, which does not keep all."""
        self.ended.clear()
        found = self.live.client.tree()
        assert kept_tree(found) == kept_tree(self.tree)
        shutil.rmtree(self.plain.top)
        self.plain.build(kept_tree(found))
        for path, seen in found.items():
            if stat.S_ISDIR(seen.mode) and seen.mtime_ns != NOW:
                self.plain.utime(path, seen.mtime_ns)

    @rule()
    def kill(self) -> None:
        self._close_handles()
        self.live.kill()
        self._check_tidy()

    def _check_tidy(self) -> None:
        """Nothing of nameless files is left."""
        rows = self.live.rows
        held = "SELECT ino, layer FROM {} WHERE floor NOT NULL"
        known = {key for table in ("inodes", "old_inodes") for key in rows.all(held.format(table))}
        assert set(self.live.editing.files.all()) <= known
        nameless = "SELECT ino FROM inodes WHERE nlink = 0 AND ino NOT IN (SELECT ino FROM old_inodes)"
        assert rows.all(nameless) == []

    # --- layers

    @rule()
    def freeze(self) -> None:
        state = self.live.freeze()
        self.ended[state.frozen] = _bare(self.tree)

    @rule()
    def look_back(self) -> None:
        self._look_back()

    def _look_back(self) -> None:
        """A snapshot shows each layer as it was, and changes make each of the version committed last."""
        committed = layers.state(self.live.rows).committed
        with self.live.snapshot() as snapshot, closing(self.live.store.version(self.parent)) as parent:
            for layer, tree in (*self.ended.items(), (self.live.rows.top, _bare(self.tree))):
                if layer >= committed:
                    assert self.live.tree_at(snapshot, layer) == tree, layer
                if layer <= committed:
                    continue
                changes = Changes(snapshot, committed, layer)
                found = dict(parent.entries())
                for path in changes.removals(parent.tree):
                    found.pop(path, None)
                for path, node in changes.puts():
                    if not is_special(node.mode):
                        found[path] = changes.entry(node)
                assert {path: _shape(entry) for path, entry in found.items()} == {
                    path: (mode, mtime_ns, len(content), content if stat.S_ISLNK(mode) else b"")
                    for path, (mode, mtime_ns, content) in kept_tree(tree).items()
                }

    @rule(steps=st.sampled_from(STEPS))
    @precondition(lambda self: layers.state(self.live.rows).frozen > 0)
    def finish(self, steps: str) -> None:
        """Commit what was frozen; the process may die between two steps."""
        rows, store = self.live.rows, self.live.store
        state = layers.state(rows)
        desk = LocalDesk(self.live.editing)
        with closing(Frozen(desk, store, state)) as frozen:
            record = frozen.commit(OPTIONS, None)
            kept = kept_tree(self.ended[state.frozen])
            if record is None:  # a time alone makes no version
                layers.abandon(rows)
                assert _timeless(version_tree(store, self.parent)) == _timeless(kept)
                return
            assert version_tree(store, record) == kept
            self.parent = record
            if steps == "all":
                frozen.complete(record)
                return
            if steps != "committed":
                landed = list(frozen.changes.landed(store.version(record).tree))
                layers.complete(rows, layers.state(rows).pending)
            if steps.startswith("repointed"):
                layers.repoint(self.live.editing.overlay, state.frozen, landed[: None if steps == "repointed" else 1])
        self._close_handles()
        self.live.kill()
        found = committing.settle(LocalDesk(self.live.editing), self.live.store)
        assert (found is not None) == (steps == "committed")

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "live"):
            return
        self.tree = self.plain.tree()
        found = self.live.client.tree()
        assert found.keys() == self.tree.keys()
        for path, seen in found.items():
            assert seen == self.tree[path], path
        for file, ino in self.handles:
            status = os.fstat(file)
            assert self.live.client.pread(ino) == os.pread(file, status.st_size, 0)
            node = self.live.editing.overlay.node(ino)
            assert (node.nlink, node.size, node.mode) == (status.st_nlink, status.st_size, status.st_mode)


def _bare(tree: Tree) -> Tree:
    return {path: seen._replace(xattrs=()) for path, seen in tree.items()}


def _timeless(tree: Kept) -> dict[bytes, tuple[int, bytes]]:
    return {path: (mode, content) for path, (mode, _, content) in tree.items()}


def _shape(entry: Entry) -> tuple[int, int, int, bytes]:
    mtime_ns = 0 if entry.is_dir else shown_ns(entry.mtime_ns)
    return entry.mode, mtime_ns, len(entry.target) if entry.is_link else entry.size, entry.target


def test_an_overlay_behaves_as_a_plain_directory(tmp_path: Path) -> None:
    base = Base(write_base(tmp_path / "base" / "source", FILES), tmp_path / "base")
    folders = (tmp_path / f"{number}" for number in count(1))

    def machine() -> RuleBasedStateMachine:
        folder = next(folders)
        folder.mkdir()
        return OverlayMachine(base, folder)

    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # it is only called
        settings=settings(
            max_examples=120,
            stateful_step_count=50,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
