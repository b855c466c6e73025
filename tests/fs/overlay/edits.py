"""An overlay without a mount, edited at random, and its tree as a plain dict."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from dvfs.fs.errno import Refused
from dvfs.fs.overlay import layers
from dvfs.fs.overlay.editing import Editing, open_editing
from dvfs.fs.overlay.home import About, Folder
from dvfs.fs.overlay.overlay import EXCHANGE, Owner
from dvfs.fs.overlay.schema import FIRST_NEW_INODE
from dvfs.fs.overlay.snapshot import Snapshot
from dvfs.fs.overlay.writing import write_all
from dvfs.fs.view import ROOT_INODE, Identity, View, blocking_view
from dvfs.store.cache import Cache
from dvfs.store.version import Version
from tests.fs.made_version import ID, Made, make

OWNER = Owner(1000, 1000)
_MEMORY = "/dev/shm"
NAMES = [b"a", b"b", b"c", b"d", b"e"]
ABOUT = About("store", ID, "project/name", "1.0.0", "/mnt", *OWNER)


def base(folder: Path) -> Made:
    """Make a small version whose names are those that edits use."""
    tree = folder / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "b" / "a").mkdir(parents=True)
    (tree / "e").mkdir()
    (tree / "a" / "a").write_bytes(b"first\n" * 2000)
    (tree / "a" / "b" / "c" / "d").write_bytes(b"deep\n")
    (tree / "a" / "b" / "e").write_bytes(b"second\n" * 3000)
    (tree / "b" / "c").write_bytes(b"third\n")
    (tree / "b" / "e").symlink_to("c")
    (tree / "c").write_bytes(bytes(range(256)) * 64)
    (tree / "d").write_bytes(b"")
    return make(tree, folder / "store")


class Item(NamedTuple):
    """What is at a path; *content*: bytes, or the target of a link."""

    ino: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    ctime_ns: int
    nlink: int
    content: bytes
    xattrs: dict[bytes, bytes]

    @property
    def kept(self) -> tuple[object, ...]:
        """All but what other names of the same inode have a part in."""
        return self.ino, self.mode, self.owner, self.mtime_ns, self.content, self.xattrs

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


Tree = dict[bytes, Item]
Step = tuple[str, int, int, int]
"""What to do, and three numbers that choose to what, where and how."""


@dataclass
class Bench:
    """An overlay in *folder* over *version*."""

    version: Version
    folder: Path
    committed: Tree = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.view: View = blocking_view(self.version, Identity(b"", b"", b""))
        self.editing = self.opened()
        self.committed = self.tree()

    def opened(self, folder: Path | None = None) -> Editing:
        return open_editing(Folder(folder or self.folder), ABOUT, self.version, self.view, self.view)

    def reopen(self) -> None:
        """End as a mount does that keeps its overlay, and begin again."""
        rows = self.editing.rows
        rows.checkpoint()
        self.editing.files.bury(rows.log.synced)
        rows.set_meta(clean=1)
        self.close()
        self.editing = self.opened()

    def close(self) -> None:
        self.editing.rows.close()
        self.editing.folder.close()

    def snapshot(self) -> Snapshot:
        self.editing.rows.checkpoint()
        return Snapshot(self.folder, self.view)

    # --- looking

    def read(self, ino: int) -> bytes:
        stack = self.editing.writing.stack(ino)
        buffer = bytearray(stack.size)
        assert self.editing.writing.contents.readinto(stack, 0, memoryview(buffer), wait=True) == stack.size
        return bytes(buffer)

    def tree(self) -> Tree:
        """Return all that is there; check that every directory has one home, and every inode its number of links."""
        return tree_of(self.editing, self.read)

    # --- editing

    def lookup(self, path: bytes) -> int:
        ino = ROOT_INODE
        for name in filter(None, path.split(b"/")):
            node = self.editing.overlay.lookup(ino, name)
            assert node is not None, path
            ino = node.ino
        return ino

    def write(self, ino: int, start: int, data: bytes) -> None:
        writing = self.editing.writing
        for stack, begin in writing.prepare_write(ino, start, len(data)):
            writing.fill(stack, begin, wait=True)
        write_all(writing.target(ino).handle, start, data)
        writing.wrote(ino, start, len(data), set_times=True)

    def truncate(self, ino: int, size: int) -> None:
        writing = self.editing.writing
        self.editing.overlay.setattr(ino, resize=lambda change, node: writing.truncate(change, node, size))

    def commit(self) -> None:
        """Have all edits count as committed, as a commit does that is killed before it drops local data."""
        layers.freeze(self.editing.rows, "f" * 32)
        layers.complete(self.editing.rows, layers.state(self.editing.rows).pending)
        layers.prune(self.editing.rows)
        self.committed = self.tree()

    def do(self, step: Step) -> None:
        """Do *step*, if it can be done."""
        what, *numbers = step
        try:
            getattr(self, f"_do_{what}")(*numbers)
        except Refused:
            pass

    def _some(self, number: int) -> tuple[bytes, Item]:
        tree = self.tree()
        return sorted(tree.items())[number % len(tree)]

    def _directory(self, number: int) -> int:
        directories = [item.ino for _, item in sorted(self.tree().items()) if item.is_dir]
        return directories[number % len(directories)]

    def _place(self, number: int) -> tuple[int, bytes]:
        return self._directory(number // len(NAMES)), NAMES[number % len(NAMES)]

    def _home(self, number: int) -> tuple[int, bytes]:
        path = self._some(number)[0]
        parent, _, name = path.rpartition(b"/")
        if not path:
            raise Refused(0)
        return self.lookup(parent), name

    def _do_create(self, where: int, size: int, _: int) -> None:
        made = self.editing.overlay.mknod(*self._place(where), stat.S_IFREG | 0o644, OWNER)
        if size % 5000:
            self.write(made.ino, 0, b"x" * (size % 5000))

    def _do_mkdir(self, where: int, _: int, __: int) -> None:
        self.editing.overlay.mkdir(*self._place(where), 0o755, OWNER)

    def _do_symlink(self, where: int, target: int, _: int) -> None:
        self.editing.overlay.symlink(*self._place(where), b"to %d" % target, OWNER)

    def _do_write(self, what: int, start: int, size: int) -> None:
        self.write(self._some(what)[1].ino, start % 30000, b"%d" % size * (size % 900 + 1))

    def _do_truncate(self, what: int, size: int, _: int) -> None:
        self.truncate(self._some(what)[1].ino, size % 30000)

    def _do_chmod(self, what: int, mode: int, _: int) -> None:
        self.editing.overlay.setattr(self._some(what)[1].ino, mode=mode % 0o1000, mtime_ns=mode)

    def _do_setxattr(self, what: int, name: int, value: int) -> None:
        self.editing.overlay.setxattr(self._some(what)[1].ino, b"user.%d" % (name % 3), b"%d" % value)

    def _do_removexattr(self, what: int, name: int, _: int) -> None:
        self.editing.overlay.setxattr(self._some(what)[1].ino, b"user.%d" % (name % 3), None)

    def _do_link(self, what: int, where: int, _: int) -> None:
        self.editing.overlay.link(self._some(what)[1].ino, *self._place(where))

    def _do_unlink(self, what: int, is_open: int, _: int) -> None:
        parent, name = self._home(what)
        node = self.editing.overlay.lookup(parent, name)
        self.editing.overlay.unlink(parent, name)
        if node is not None and not is_open % 2:
            self.editing.overlay.forget(node.ino)

    def _do_rmdir(self, what: int, _: int, __: int) -> None:
        self.editing.overlay.rmdir(*self._home(what))

    def _do_empty(self, what: int, _: int, __: int) -> None:
        """Remove a directory with all that is in it."""
        top, item = self._some(what)
        if top and item.is_dir:
            for path, other in sorted(self.tree().items(), reverse=True):
                if path == top or path.startswith(top + b"/"):
                    parent, name = os.path.split(path)
                    overlay = self.editing.overlay
                    (overlay.rmdir if other.is_dir else overlay.unlink)(self.lookup(parent), name)

    def _do_rename(self, what: int, where: int, exchanges: int) -> None:
        path, item = self._some(what)
        parent, name = self._home(what)
        new_parent, new_name = self._place(where)
        inside = {other.ino for below, other in self.tree().items() if below == path or below.startswith(path + b"/")}
        target = self.editing.overlay.lookup(new_parent, new_name)
        if exchanges % 4 == 0 and target is not None:
            below = self.tree()
            place = next(found for found, other in below.items() if other.ino == target.ino)
            inside |= {other.ino for found, other in below.items() if found.startswith(place + b"/")}
            if parent in {other.ino for found, other in below.items() if (found + b"/").startswith(place + b"/")}:
                return
        if item.is_dir and new_parent in inside:
            return  # the kernel sees to that
        self.editing.overlay.rename(parent, name, new_parent, new_name, EXCHANGE if exchanges % 4 == 0 else 0)

    def _do_layer(self, _: int, __: int, ___: int) -> None:
        """Begin a commit that finds nothing to do."""
        layers.freeze(self.editing.rows, "f" * 32)
        layers.abandon(self.editing.rows)

    def _do_reopen(self, _: int, __: int, ___: int) -> None:
        self.reopen()


def tree_of(editing: Editing, read: Callable[[int], bytes]) -> Tree:
    overlay = editing.overlay
    found: Tree = {}
    todo = [(b"", ROOT_INODE)]
    directories: set[int] = set()
    names: dict[int, int] = {}
    while todo:
        path, ino = todo.pop()
        node = overlay.node(ino)
        content = b""
        names[ino] = names.get(ino, 0) + 1
        if stat.S_ISDIR(node.mode):
            assert ino not in directories, path
            directories.add(ino)
            listed = [child for child in overlay.readdir(ino, 0) if child.name not in (b".", b"..")]
            assert len({child.name for child in listed}) == len(listed)
            for child in listed:
                assert overlay.lookup(ino, child.name) == child.node
                if stat.S_ISDIR(child.node.mode):
                    assert overlay.parent_of(child.node.ino) == ino
                todo.append((path + b"/" + child.name if path else child.name, child.node.ino))
            subdirectories = sum(stat.S_ISDIR(child.node.mode) for child in listed)
            assert node.nlink == (1 if ino < FIRST_NEW_INODE else 2 + subdirectories), path
        elif stat.S_ISLNK(node.mode):
            content = overlay.readlink(ino)
        else:
            content = read(ino)
        xattrs = {name: overlay.getxattr(ino, name) for name in editing.rows.xattrs(ino)}
        found[path] = Item(
            ino, node.mode, (node.uid, node.gid), node.mtime_ns, node.ctime_ns, node.nlink, content, xattrs
        )
    for path, item in found.items():
        assert item.is_dir or item.nlink == names[item.ino], path
    return found


def steps(*, most: int = 25) -> st.SearchStrategy[list[Step]]:
    """Edits at random."""
    kinds = [name.removeprefix("_do_") for name in vars(Bench) if name.startswith("_do_")]
    weighted = kinds + ["rename"] * 4 + ["write", "unlink", "create", "mkdir"] * 2
    number = st.integers(0, 5000)
    return st.lists(st.tuples(st.sampled_from(weighted), number, number, number), max_size=most)


@contextmanager
def crashed(bench: Bench, folder: Path) -> Iterator[Bench]:
    """Open a copy of the overlay of *bench* as it is on the disk at this moment, as after a kill."""
    shutil.copytree(bench.folder, folder, ignore=shutil.ignore_patterns("lock"))
    other = Bench.__new__(Bench)
    other.version, other.folder, other.view = bench.version, folder, bench.view
    other.editing = bench.opened(folder)
    try:
        yield other
    finally:
        other.close()


@contextmanager
def fresh(version: Version) -> Iterator[Bench]:
    """An overlay for one example, in memory if that is possible: many are made."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None) as name:
        bench = Bench(version, Path(name) / "overlay")
        try:
            yield bench
        finally:
            bench.close()


def files_of(folder: Path) -> list[str]:
    """Return what data files there are."""
    return sorted(name for _, _, names in os.walk(folder / "data") for name in names)


def open_version(made: Made, folder: Path) -> tuple[Version, Callable[[], None]]:
    """Open *made* with its cache in *folder*; return it, and what closes it."""
    cache = Cache(folder / "cache", budget_bytes=1 << 28, reserve_bytes=0)
    version = made.open(cache)

    def close() -> None:
        version.close()
        cache.close()

    return version, close
