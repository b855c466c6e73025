"""Overlays over small versions, without FUSE: opened, killed and opened again, driven by path as a kernel would.

`Base` is a version in a folder store, `Live` an overlay over it, `Client` what asks it, and `Plain` a directory that is
asked the same. All answer `tree` in the same form.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from dvfs.fs.errno import Refused, errno_of
from dvfs.fs.overlay import layers
from dvfs.fs.overlay.changes import Changes
from dvfs.fs.overlay.contents import Contents, Stack
from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.editing import Editing, open_editing
from dvfs.fs.overlay.home import About, Folder
from dvfs.fs.overlay.layers import State
from dvfs.fs.overlay.overlay import EXCHANGE, NOREPLACE, Owner
from dvfs.fs.overlay.rows import Rows
from dvfs.fs.overlay.schema import Node
from dvfs.fs.overlay.snapshot import Snapshot
from dvfs.fs.overlay.writing import write_all
from dvfs.fs.view import ROOT_INODE, Identity, blocking_view, nowait_view
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import DvfsError
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import new_version_id
from dvfs.store.record import Record
from dvfs.store.store import Store
from dvfs.store.version import Version
from tests.clocks import FakeClock
from tests.store.noise import noise
from tests.store_kit import Kit

_T = TypeVar("_T")

IDENTITY = Identity(b"id", b"1.0.0", b"digest")
CELL = 4096
OLD_NS = 1_600_000_000_000_000_000
"""Times below `_RECENT_NS` were set by a test; any above are all the same to a `Seen`."""
_RECENT_NS = 1_650_000_000_000_000_000
NOW = -1
USER = Owner(os.geteuid(), os.getegid())
FILES = {
    b"empty": b"",
    b"one": b"1",
    b"cell-1": noise(CELL - 1, 1),
    b"cell": noise(CELL, 2),
    b"cell+1": noise(CELL + 1, 3),
    b"d/cells": noise(3 * CELL + 100, 4),
    b"d/large": noise(150_000, 5),
    b"d/e/f/deep": b"deep",
    b"d/e/x": b"x",
    b"d/e/x-y": b"x-y",
    b"d/e/\xff": b"\xff",
    b"m/n": b"n",
    **{b"many/%02d" % number: b"%d" % number for number in range(20)},
}


class Seen(NamedTuple):
    """What a tree holds at a path. *content*: bytes of a file, target of a link. *mtime_ns*: NOW when not set."""

    mode: int
    nlink: int
    size: int
    mtime_ns: int
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]


Tree = dict[bytes, Seen]
Kept = dict[bytes, tuple[int, int, bytes]]
"""Path → mode, mtime (0 of directories), and bytes or target."""


def write_base(top: Path, files: Mapping[bytes, bytes] = FILES) -> Path:
    """Make the tree of *files*, d/ among them, with links and an empty directory, all of old times; return it."""
    for path, data in files.items():
        local = top / os.fsdecode(path)
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(data)
        local.chmod(0o644)
    (top / "vacant").mkdir()
    (top / "link").symlink_to("to nothing")
    (top / "d/link").symlink_to("/nowhere")
    _age(top)
    return top


def _age(top: Path) -> None:
    for number, (folder, folders, files) in enumerate(os.walk(top, topdown=False)):
        for name in files + folders:
            path = os.path.join(folder, name)
            os.utime(path, ns=(0, OLD_NS + number), follow_symlinks=False)
            if not os.path.islink(path) and os.path.isdir(path):
                os.chmod(path, 0o755)
    os.utime(top, ns=(0, OLD_NS))
    top.chmod(0o755)


class Base:
    """The tree at *source* as a version in a store in *folder*."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.kit = Kit(lambda: FolderBackend(folder / "store"), folder)
        self.record = self.kit.publish(source)

    @contextmanager
    def opened(self, record: Record | None = None) -> Iterator[tuple[Store, Version]]:
        """Open the version, or its descendant *record*, with none of its pages in memory."""
        with self.kit.machine("mount") as store:
            version = store.version(record or self.record)
            try:
                yield store, version
            finally:
                version.close()


class Live:
    """An overlay over *base* in *folder*, opened. *client* asks it."""

    def __init__(self, base: Base, folder: Path, *, checkpoint_bytes: int | None = None) -> None:
        self.base = base
        self.record = base.record
        self.path = folder
        self.clock = FakeClock()
        self._checkpoint_bytes = checkpoint_bytes
        self._number = 0
        self._open()

    def _open(self) -> None:
        self._stack = ExitStack()
        self.store, self.version = self._stack.enter_context(self.base.opened(self.record))
        record = self.record
        about = About(
            str(self.base.folder),
            record.id,
            f"{record.project}/{record.name}",
            record.version,
            "/m",
            USER.uid,
            USER.gid,
        )
        folder = Folder(self.path)
        self.editing: Editing = open_editing(
            folder,
            about,
            self.version,
            nowait_view(self.version, IDENTITY),
            blocking_view(self.version, IDENTITY),
            clock=self.clock,
        )
        if self._checkpoint_bytes is not None:
            self.editing.rows._checkpoint_bytes = self._checkpoint_bytes
        self.client = Client(self)

    @property
    def rows(self) -> Rows:
        return self.editing.rows

    def copy(self) -> Path:
        """Return a copy of the folder as it is on disk now: what a kill would leave."""
        self._number += 1
        path = self.path.with_name(f"{self.path.name.partition('~')[0]}~{self._number}")
        shutil.copytree(self.path, path)
        return path

    def kill(self) -> None:
        """Have the process die, and another one open the overlay."""
        self.die()
        self._open()

    def die(self) -> None:
        """Have the process die: nothing that it has in memory is written."""
        left = self.copy()
        self._let_go()
        shutil.rmtree(self.path)
        self.path = left

    def _let_go(self) -> None:
        self.rows.connection.close()
        self.rows.log.close()
        self.editing.folder.close()
        self._stack.close()

    def close(self) -> bool:
        """Put the overlay away; return whether it is kept."""
        kept = self.editing.close()
        self._stack.close()
        return kept

    def reopen(self, record: Record | None = None) -> bool:
        """Put the overlay away and open it again; if it was not kept, over *record*. Return whether it was kept."""
        kept = self.close()
        if not kept and record is not None:
            self.record = record
        self._open()
        return kept

    def freeze(self) -> State:
        """End the layer that is written, for a commit."""
        return layers.freeze(self.rows, new_version_id())

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read what is in the database, at any layer."""
        self.rows.checkpoint()
        with contextlib.closing(Snapshot(self.path, blocking_view(self.version, IDENTITY))) as snapshot:
            yield snapshot

    def tree_at(self, snapshot: Snapshot, layer: int) -> Tree:
        """Return the tree as it was at *layer*, but for extended attributes, of which only the names now are kept."""
        contents = Contents(DataFiles(self.path / "data"), self.version)
        found: Tree = {}
        todo = [(b"", ROOT_INODE)]
        while todo:
            path, ino = todo.pop()
            node = snapshot.node(ino, layer)
            assert node is not None
            content = b""
            subdirectories = 0
            if stat.S_ISDIR(node.mode):
                for name, child in snapshot.children(ino, layer):
                    todo.append((_join(path, name), child))
                    below = snapshot.node(child, layer)
                    assert below is not None
                    subdirectories += stat.S_ISDIR(below.mode)
            elif stat.S_ISREG(node.mode):
                content = read_stack(contents, snapshot.stack(node, layer))
            elif stat.S_ISLNK(node.mode):
                content = node.target if node.is_new else snapshot.view.readlink(ino)
            found[path] = _seen(node, subdirectories, content, ())
        return found

    @contextmanager
    def changes(self, after: int, upto: int) -> Iterator[Changes]:
        """Open what the layers above *after* up to *upto* changed."""
        with self.snapshot() as snapshot:
            yield Changes(snapshot, after, upto)


@contextmanager
def living(base: Base, folder: Path, *, checkpoint_bytes: int | None = None) -> Iterator[Live]:
    """Open an overlay over *base* in *folder*, and close it however it was reopened meanwhile."""
    live = Live(base, folder, checkpoint_bytes=checkpoint_bytes)
    try:
        yield live
    finally:
        live.close()


def read_stack(contents: Contents, stack: Stack) -> bytes:
    """Return all bytes of a file."""
    buffer = bytearray(stack.size)
    assert contents.readinto(stack, 0, memoryview(buffer), wait=True) == stack.size
    return bytes(buffer)


class Client:
    """Asks the overlay of *live* by path, as a kernel does; refusals are OSErrors.

    Whatever raises NotCached must have changed nothing. Files are forgotten once they have neither name nor handle.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self.overlay = live.editing.overlay
        self.writing = live.editing.writing
        self.opened: Counter[int] = Counter()
        self.not_cached = 0

    def do(self, work: Callable[[], _T]) -> _T:
        """Return what *work* returns, with the pages loaded that it needs."""
        while True:
            serial = self._live.rows.log.serial
            self._live.clock.advance(1)
            try:
                return work()
            except NotCached as exc:
                assert self._live.rows.log.serial == serial
                self.not_cached += 1
                if isinstance(exc.ref, PageRef):
                    self._live.version.pages.load(exc.ref)
                else:
                    self._live.version.pages.load_blocks(exc.ref)
            except Refused as exc:
                raise OSError(exc.errno, os.strerror(exc.errno)) from exc
            except DvfsError as exc:
                raise OSError(errno_of(exc), exc.message) from exc

    # --- looking

    def node(self, path: bytes) -> Node:
        found = self.do(lambda: self.overlay.node(ROOT_INODE))
        for name in path.split(b"/") if path else []:
            found = self._child(found, name)
        return found

    def _child(self, parent: Node, name: bytes) -> Node:
        if not stat.S_ISDIR(parent.mode):
            raise OSError(errno.ENOTDIR, "")
        child = self.do(lambda: self.overlay.lookup(parent.ino, name))
        if child is None:
            raise OSError(errno.ENOENT, "")
        return child

    def _place(self, path: bytes) -> tuple[Node, bytes]:
        parent, _, name = path.rpartition(b"/")
        node = self.node(parent)
        if not stat.S_ISDIR(node.mode):
            raise OSError(errno.ENOTDIR, "")
        return node, name

    def exists(self, path: bytes) -> bool:
        try:
            self.node(path)
        except OSError:
            return False
        return True

    def listdir(self, path: bytes) -> list[bytes]:
        ino = self.node(path).ino
        return [entry.name for entry in self.do(lambda: list(self.overlay.readdir(ino, 2)))]

    def readlink(self, path: bytes) -> bytes:
        ino = self.node(path).ino
        return self.do(lambda: self.overlay.readlink(ino))

    def read(self, path: bytes, start: int = 0, length: int = -1) -> bytes:
        return self.pread(self.node(path).ino, start, length)

    def pread(self, ino: int, start: int = 0, length: int = -1) -> bytes:
        size = self.do(lambda: self.overlay.node(ino)).size
        buffer = memoryview(bytearray(max(0, size - start) if length < 0 else length))
        try:
            done = self.writing.readinto(ino, start, buffer)
        except NotCached:
            stack = self.do(lambda: self.writing.stack(ino))
            done = self.writing.contents.readinto(stack, start, buffer, wait=True)
        return bytes(buffer[:done])

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        ino = self.node(path).ino
        return self.do(lambda: self.overlay.getxattr(ino, name))

    def tree(self) -> Tree:
        found: Tree = {}
        todo = [(b"", self.node(b""))]
        while todo:
            path, node = todo.pop()
            ino = node.ino
            content = b""
            subdirectories = 0
            if stat.S_ISDIR(node.mode):
                entries = self.do(lambda ino=ino: list(self.overlay.readdir(ino, 2)))  # type: ignore[misc]
                assert len({entry.name for entry in entries}) == len(entries)
                todo += [(_join(path, entry.name), entry.node) for entry in entries]
                subdirectories = sum(stat.S_ISDIR(entry.node.mode) for entry in entries)
            elif stat.S_ISREG(node.mode):
                content = self.pread(ino)
            elif stat.S_ISLNK(node.mode):
                content = self.do(lambda ino=ino: self.overlay.readlink(ino))  # type: ignore[misc]
            names = sorted(self.overlay.rows.xattrs(ino))
            xattrs = tuple((name, self.overlay.getxattr(ino, name)) for name in names)
            found[path] = _seen(node, subdirectories, content, xattrs)
        return found

    # --- names

    def mknod(self, path: bytes, mode: int = stat.S_IFREG | 0o644) -> Node:
        parent, name = self._place(path)
        return self.do(lambda: self.overlay.mknod(parent.ino, name, mode, USER))

    def mkdir(self, path: bytes, mode: int = 0o755) -> Node:
        parent, name = self._place(path)
        return self.do(lambda: self.overlay.mkdir(parent.ino, name, mode, USER))

    def symlink(self, target: bytes, path: bytes) -> Node:
        parent, name = self._place(path)
        return self.do(lambda: self.overlay.symlink(parent.ino, name, target, USER))

    def link(self, old: bytes, new: bytes) -> None:
        node = self.node(old)
        parent, name = self._place(new)
        if stat.S_ISDIR(node.mode) and self.do(lambda: self.overlay.lookup(parent.ino, name)) is not None:
            raise OSError(errno.EEXIST, "")  # the kernel looks for the new name first
        self.do(lambda: self.overlay.link(node.ino, parent.ino, name))

    def unlink(self, path: bytes) -> None:
        parent, name = self._place(path)
        node = self.do(lambda: self.overlay.lookup(parent.ino, name))
        self.do(lambda: self.overlay.unlink(parent.ino, name))
        self._forget(node)

    def rmdir(self, path: bytes) -> None:
        parent, name = self._place(path)
        node = self.do(lambda: self.overlay.lookup(parent.ino, name))
        self.do(lambda: self.overlay.rmdir(parent.ino, name))
        self._forget(node)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        (parent, name), (new_parent, new_name) = self._place(old), self._place(new)
        self._check_rename(old, new, flags)
        over = self.do(lambda: self.overlay.lookup(new_parent.ino, new_name))
        self.do(lambda: self.overlay.rename(parent.ino, name, new_parent.ino, new_name, flags))
        self._forget(over)

    def _check_rename(self, old: bytes, new: bytes, flags: int) -> None:
        """Refuse what the kernel refuses itself."""
        if flags not in (0, NOREPLACE, EXCHANGE):
            return
        if new.startswith(old + b"/"):
            self.node(old)
            if flags and self.exists(new) == (flags == NOREPLACE):
                raise OSError(errno.EEXIST if flags == NOREPLACE else errno.ENOENT, "")
            raise OSError(errno.EINVAL, "")
        if old.startswith(new + b"/"):
            self.node(old)
            if flags == NOREPLACE:
                raise OSError(errno.EEXIST, "")
            raise OSError(errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY, "")

    def _forget(self, node: Node | None) -> None:
        if node is None or self.opened[node.ino]:
            return
        self.overlay.forget(node.ino)

    # --- attributes

    def chmod(self, path: bytes, mode: int) -> None:
        ino = self.node(path).ino
        self.do(lambda: self.overlay.setattr(ino, mode=mode))

    def utime(self, path: bytes, mtime_ns: int) -> None:
        ino = self.node(path).ino
        self.do(lambda: self.overlay.setattr(ino, atime_ns=mtime_ns, mtime_ns=mtime_ns))

    def setxattr(self, path: bytes, name: bytes, value: bytes | None) -> None:
        ino = self.node(path).ino
        self.do(lambda: self.overlay.setxattr(ino, name, value))

    # --- bytes

    def write(self, path: bytes, start: int, data: bytes) -> int:
        return self.pwrite(self.node(path).ino, start, data)

    def pwrite(self, ino: int, start: int, data: bytes, *, set_times: bool = True) -> int:
        writing = self.writing
        for stack, begin in self.do(lambda: writing.prepare_write(ino, start, len(data))):
            try:
                writing.fill(stack, begin, wait=False)
            except NotCached:
                self.not_cached += 1
                writing.fill(stack, begin, wait=True)
        try:
            write_all(writing.target(ino).handle, start, data)
        except OSError:
            writing.failed(ino, start, len(data))
            raise
        writing.wrote(ino, start, len(data), set_times=set_times)
        self._stamp(ino)
        return len(data)

    def truncate(self, path: bytes, size: int) -> None:
        self.ftruncate(self.node(path).ino, size)

    def _stamp(self, ino: int) -> None:
        """Have the data file say that it was written now, by the clock of the overlay."""
        node = self.overlay.node(ino)
        now = self._live.clock.now_ns()
        if node.floor is not None and os.path.exists(path := self.overlay.files.path(ino, node.layer)):
            os.utime(path, ns=(now, now))

    def ftruncate(self, ino: int, size: int) -> None:
        self.do(
            lambda: self.overlay.setattr(ino, resize=lambda change, node: self.writing.truncate(change, node, size))
        )
        self._stamp(ino)

    def open(self, path: bytes) -> int:
        ino = self.node(path).ino
        self.opened[ino] += 1
        return ino

    def close(self, ino: int) -> None:
        self.opened[ino] -= 1
        self._forget(self.do(lambda: self.overlay.node(ino)))


class Plain:
    """The directory *top*, asked as a `Client`."""

    def __init__(self, top: Path) -> None:
        self.top = os.fsencode(top)

    def build(self, tree: Kept) -> None:
        """Make *tree* in it; directories get a time of now."""
        for path in sorted(tree):
            mode, mtime_ns, content = tree[path]
            if stat.S_ISDIR(mode):
                os.makedirs(self.at(path), exist_ok=True)
                os.chmod(self.at(path), stat.S_IMODE(mode))
            elif stat.S_ISLNK(mode):
                self.symlink(content, path)
            else:
                self.mknod(path, mode)
                self.write(path, 0, content)
            if not stat.S_ISDIR(mode) and mtime_ns != NOW:
                self.utime(path, mtime_ns)

    def at(self, path: bytes) -> bytes:
        return os.path.join(self.top, path) if path else self.top

    def tree(self) -> Tree:
        found: Tree = {}
        todo = [b""]
        while todo:
            path = todo.pop()
            local = self.at(path)
            status = os.lstat(local)
            content = b""
            nlink, size = status.st_nlink, status.st_size
            if stat.S_ISDIR(status.st_mode):
                names = os.listdir(local)
                todo += [_join(path, name) for name in names]
                nlink = 2 + sum(stat.S_ISDIR(os.lstat(os.path.join(local, name)).st_mode) for name in names)
                size = 0
            elif stat.S_ISREG(status.st_mode):
                with open(local, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(local)
            names = sorted(map(os.fsencode, os.listxattr(local, follow_symlinks=False)))
            xattrs = tuple((name, os.getxattr(local, name, follow_symlinks=False)) for name in names)
            found[path] = Seen(status.st_mode, nlink, size, shown_ns(status.st_mtime_ns), content, xattrs)
        return found

    def mknod(self, path: bytes, mode: int = stat.S_IFREG | 0o644) -> None:
        os.mknod(self.at(path), mode)
        os.chmod(self.at(path), stat.S_IMODE(mode))

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        os.mkdir(self.at(path))
        os.chmod(self.at(path), mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self.at(path))

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.at(path))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        if _LIBC.renameat2(_AT_FDCWD, self.at(old), _AT_FDCWD, self.at(new), flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        os.utime(self.at(path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def setxattr(self, path: bytes, name: bytes, value: bytes | None) -> None:
        if value is None:
            os.removexattr(self.at(path), name)
        else:
            os.setxattr(self.at(path), name, value)

    def write(self, path: bytes, start: int, data: bytes) -> None:
        with open(self.at(path), "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, start)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(self.at(path), size)


_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def shown_ns(mtime_ns: int) -> int:
    """Return *mtime_ns* if a test set it, else NOW."""
    return mtime_ns if mtime_ns < _RECENT_NS else NOW


def _seen(node: Node, subdirectories: int, content: bytes, xattrs: tuple[tuple[bytes, bytes], ...]) -> Seen:
    nlink, size = node.nlink, node.size
    if stat.S_ISDIR(node.mode):
        size = 0
        if not node.is_new:
            assert nlink == 1  # of a directory of the version nobody counts
            nlink = 2 + subdirectories
    return Seen(node.mode, nlink, size, shown_ns(node.mtime_ns), content, xattrs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation came to: the errno of its refusal, 0 when it was done."""

    errno: int

    @classmethod
    def of(cls, work: Callable[[], object]) -> Outcome:
        try:
            work()
        except OSError as exc:
            return cls(exc.errno or -1)
        return cls(0)


def version_tree(store: Store, record: Record) -> Kept:
    """Return all that is in a version."""
    found: Kept = {}
    with contextlib.closing(store.version(record)) as version:
        for path, entry in version.entries():
            content = version.read(entry) if entry.is_file else entry.target
            found[path] = (entry.mode, 0 if entry.is_dir else shown_ns(entry.mtime_ns), content)
    return found


def kept_tree(tree: Tree) -> Kept:
    """Return what a version keeps of *tree*, as `version_tree` does."""
    return {
        path: (seen.mode, 0 if stat.S_ISDIR(seen.mode) else seen.mtime_ns, seen.content)
        for path, seen in tree.items()
        if stat.S_ISREG(seen.mode) or stat.S_ISDIR(seen.mode) or stat.S_ISLNK(seen.mode)
    }
