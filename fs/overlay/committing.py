"""Commit: the edits of an overlay become a child version.

    state ──> landed already? complete ──> freeze ──> changes of the frozen layers ──> store.commit ──> complete

Whatever fails, a repeat begins with what the store says of the id that was fixed before.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dvfs.fs.overlay.changes import Changes
from dvfs.fs.overlay.contents import Contents, Stack
from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.desk import Desk
from dvfs.fs.overlay.layers import State
from dvfs.fs.overlay.schema import Node
from dvfs.fs.overlay.snapshot import Snapshot, is_special
from dvfs.fs.source import Committed
from dvfs.fs.view import ROOT_INODE, Identity, blocking_view
from dvfs.store import commit as store_commit
from dvfs.store.catalog.entry import Entry
from dvfs.store.change import Bytes, Change, Edited, Kept, Local
from dvfs.store.digest import block_digest
from dvfs.store.errors import BadSource, Unavailable, WrongState
from dvfs.store.failures import Failures
from dvfs.store.ids import VersionId, new_version_id
from dvfs.store.record import Origin, Record
from dvfs.store.upload import Progress, UploadOptions

if TYPE_CHECKING:
    from dvfs.store.store import Store
    from dvfs.store.version import Version

_HANDLE = struct.Struct("<QQQ")
_EMPTY = Kept(block_digest(b""), ())


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """What the child is called, and how it is made; see `dvfs.store.commit.Request`.

    *skip_special*: leave fifos, sockets and devices out instead of failing. *goes_on*: the mount goes on as the child.
    """

    project: str | None = None
    name: str | None = None
    version: str | None = None
    tags: tuple[str, ...] = ()
    description: str = ""
    creator: str = ""
    origin: Origin | None = None
    skip_special: bool = False
    goes_on: bool = True
    upload: UploadOptions | None = None


def commit(desk: Desk, store: Store, options: CommitOptions, progress: Progress | None = None) -> Record | None:
    """Make the edits of the overlay of *desk* a child version in *store*; return its record, None without edits.

    A commit that had landed before this knew is completed first, and is what is returned when nothing was edited since.
    Raises BadSource naming special files, and as `dvfs.store.commit.commit`; then all edits are where they were. Crash
    points besides its: `commit:after-freeze`, `commit:before-complete`, `commit:after-complete`.
    """
    with alone(desk, store) as earlier:
        state = desk.freeze(new_version_id())
        store.crash("commit:after-freeze")
        with closing(Frozen(desk, store, state)) as frozen:
            record = frozen.commit(options, progress)
            if record is None or not options.goes_on:
                desk.abandon()
            else:
                store.crash("commit:before-complete")
                frozen.complete(record)
                store.crash("commit:after-complete")
    return record or earlier


@contextmanager
def alone(desk: Desk, store: Store) -> Iterator[Record | None]:
    """Be the only one that commits the edits of *desk* or takes them back.

    Completes a commit that had landed first, and yields its record. Raises WrongState when there is another.
    """
    with _alone(desk.folder) as is_alone:
        if not is_alone:
            raise WrongState(f"a commit of the overlay {desk.folder.name} is running", hint="try again when it is done")
        yield _settled(desk, store)


def settle(desk: Desk, store: Store) -> Record | None:
    """Complete a commit that was begun if it has landed after all, unless one is running; return its record.

    Asks the store only when one was begun. Raises as it.
    """
    with _alone(desk.folder) as is_alone:
        return _settled(desk, store) if is_alone else None


def _settled(desk: Desk, store: Store) -> Record | None:
    state = desk.state()
    record = store_commit.landed(store, VersionId(state.pending)) if state.pending else None
    if record is not None:
        with closing(Frozen(desk, store, state)) as frozen:
            frozen.complete(record)
        store_commit.forget(store, record.id)
    return record


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Be the only commit of the overlay in *folder*; yields False when there is another."""
    handle = os.open(folder / "committing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        except BlockingIOError:
            is_alone = False
        yield is_alone
    finally:
        os.close(handle)


class File(NamedTuple):
    """A file or link as edits left it: its *size* in bytes, and what reads it whole."""

    size: int
    read: Callable[[], bytes]


class Frozen:
    """The layers that a commit is made of, opened for reading."""

    def __init__(self, desk: Desk, store: Store, state: State) -> None:
        self._desk = desk
        self._store = store
        self._state = state
        self._stack = ExitStack()
        try:
            self._base = self._opened(state.base)
            view = blocking_view(self._base, Identity(b"", b"", b""))
            self.snapshot = self._stack.enter_context(closing(Snapshot(desk.folder, view)))
        except BaseException:
            self._stack.close()
            raise
        self.changes = Changes(self.snapshot, state.committed, state.frozen or self.snapshot.top)
        self.contents = Contents(DataFiles(desk.folder / "data"), self._base)
        self.stack_of = lru_cache(64)(self._stack_of)

    def close(self) -> None:
        """Let go of all."""
        self._stack.close()

    def _opened(self, version: str) -> Version:
        found = self._store.version(self._store.records.read(VersionId(version)))
        self._stack.callback(found.close)
        return found

    def parent(self) -> Version:
        """Return the version that the changes are made to: what was committed last, or what was mounted."""
        return self._opened(self._state.child) if self._state.child else self._base

    def commit(self, options: CommitOptions, progress: Progress | None) -> Record | None:
        """Make the child version; see `commit`."""
        parent = self.parent()
        if not options.skip_special:
            self._check_special()
        request = store_commit.Request(
            id=VersionId(self._state.pending),
            parent=parent.record,
            project=options.project,
            name=options.name,
            version=options.version,
            tags=options.tags,
            description=options.description,
            creator=options.creator,
            origin=options.origin,
        )
        return store_commit.commit(
            self._store,
            request,
            lambda: self._all(parent),
            self,
            options=options.upload,
            progress=progress,
        )

    def complete(self, record: Record) -> None:
        """Have the overlay go on as the child *record*."""
        child = self._opened(record.id)
        version = Committed(record.id, f"{record.project}/{record.name}", record.version, record.digest)
        self._desk.complete(version, self.changes.landed(child.tree))

    def readinto(self, handle: bytes, start: int, view: memoryview) -> int:
        """Fill *view* with bytes of a file of the frozen layers; for `dvfs.store.change.Reader`."""
        try:
            return self.contents.readinto(self.stack_of(handle), start, view, wait=True)
        except OSError as exc:
            raise Unavailable(f"the overlay {self._desk.folder.name} cannot be read: {exc.strerror}") from exc

    def file_at(self, path: bytes) -> File | None:
        """Return the file or link that the edits have at *path*; None when there is none."""
        ino = ROOT_INODE
        for name in path.split(b"/"):
            ino = self.snapshot.child((ino, name), self.changes.upto)
            if not ino:
                return None
        node = self.snapshot.node(ino, self.changes.upto)
        if node is None or stat.S_ISDIR(node.mode):
            return None
        if not stat.S_ISREG(node.mode):
            target = self.changes.entry(node).target
            return File(len(target), lambda: target)
        stack = self.snapshot.stack(node, self.changes.upto)

        def read() -> bytes:
            buffer = bytearray(node.size)
            self.contents.readinto(stack, 0, memoryview(buffer), wait=True)
            return bytes(buffer)

        return File(node.size, read)

    def _stack_of(self, handle: bytes) -> Stack:
        node = self.snapshot.node(_HANDLE.unpack(handle)[0], self.changes.upto)
        assert node is not None
        return self.snapshot.stack(node, self.changes.upto)

    def _all(self, parent: Version) -> Iterator[Change]:
        """Yield the changes: what goes first, then what is there, which counts."""
        for path in self.changes.removals(parent.tree):
            yield Change(path, None)
        for path, node in self.changes.puts():
            if not is_special(node.mode):
                yield Change(path, self.changes.entry(node), self._bytes(node))

    def _check_special(self) -> None:
        failures = Failures()
        for path, node in self.changes.puts():
            if is_special(node.mode):
                failures.add(path, "is of a kind that a version does not keep")
        failures.raise_as(BadSource, "cannot be committed:", hint="--skip-special leaves them out")

    def _bytes(self, node: Node) -> Bytes | None:
        if not stat.S_ISREG(node.mode):
            return None
        stack = self.snapshot.stack(node, self.changes.upto)
        below = stack.below
        if not stack.held:
            return _EMPTY if below is None else Kept(below.digest, below.content)
        handle = _HANDLE.pack(node.ino, stack.held[0].layer, node.size)
        floor = min(below.size if below is not None else 0, *(held.floor for held in stack.held))
        if below is None or floor == 0:
            return Local(handle)
        before = Entry(node.mode, below.size, node.mtime_ns, below.digest, below.content)
        return Edited(handle, before, floor, self.contents.written(stack))
