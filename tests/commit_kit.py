"""For the tests of commits: files in memory by handle, what was read of them, and a version as a plain dict."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dvfs.store.catalog.entry import Entry, directory
from dvfs.store.commit import Change, Edited, Kept, Local, Request, Stored, commit
from dvfs.store.crash import CrashPoint
from dvfs.store.ids import VersionId, new_version_id
from dvfs.store.record import Record
from dvfs.store.store import Store
from dvfs.store.upload import UploadOptions
from tests.catalog_model import pages_below
from tests.store.noise import noise

KIB = 1 << 10
OPTIONS = UploadOptions(pack_bytes=256 * KIB, workers=2)

Tree = dict[str, tuple[object, ...]]
"""Path → ("file", mode, bytes), ("directory", mode) or ("link", target)."""


@dataclass
class MemoryFiles:
    """A `Reader`: bytes by handle. *reads*: every range that was read; *on_read* is told each, and may raise."""

    data: dict[bytes, bytes] = field(default_factory=dict)
    reads: list[tuple[bytes, int, int]] = field(default_factory=list)
    on_read: Callable[[bytes], None] = lambda handle: None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def readinto(self, handle: bytes, start: int, view: memoryview) -> int:
        self.on_read(handle)
        found = self.data[handle][start : start + len(view)]
        view[: len(found)] = found
        with self._lock:
            self.reads.append((handle, start, start + len(found)))
        return len(found)

    def read_bytes(self, handle: bytes) -> int:
        """Return how many bytes of *handle* were read."""
        return sum(stop - start for found, start, stop in self.reads if found == handle)

    def file(self, path: str, data: bytes, *, mode: int = 0o644, mtime_ns: int = 7, tag: bytes = b"") -> Change:
        """Return the change that makes *path* a file of *data*, read by a handle that is the path."""
        handle = path.encode()
        self.data[handle] = data
        return Change(handle, file_entry(len(data), mode, mtime_ns), Local(handle), tag)

    def edit(
        self, path: str, data: bytes, before: Entry, written: Sequence[tuple[int, int]], *, floor: int | None = None
    ) -> Change:
        """Return the change that makes *path* a file of *data*, *before* with edits."""
        handle = path.encode()
        self.data[handle] = data
        edited = Edited(handle, before, before.size if floor is None else floor, written)
        return Change(handle, file_entry(len(data)), edited)


def write(top: Path, files: dict[str, bytes]) -> Path:
    """Write *files* into the folder *top*; return it."""
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top


def file_entry(size: int, mode: int = 0o644, mtime_ns: int = 7) -> Entry:
    return Entry(stat.S_IFREG | mode, size, mtime_ns)


def folder(path: str, *, mode: int = 0o755) -> Change:
    return Change(path.encode(), directory(mode, 7))


def gone(path: str) -> Change:
    return Change(path.encode(), None)


def kept(path: str, entry: Entry, *, mode: int | None = None, tag: bytes = b"") -> Change:
    """Return the change that puts the file of *entry* at *path*."""
    bits = stat.S_IMODE(entry.mode) if mode is None else mode
    return Change(path.encode(), file_entry(entry.size, bits), Kept(entry.digest, entry.content), tag)


def entries(store: Store, record: Record) -> dict[str, Entry]:
    """Return path → entry of all in a version."""
    with closing(store.version(record)) as version:
        return {path.decode(): entry for path, entry in version.entries()}


def tree(store: Store, record: Record) -> Tree:
    """Read all of a version."""
    found: Tree = {}
    with closing(store.version(record)) as version:
        for path, entry in version.entries():
            mode = stat.S_IMODE(entry.mode)
            if entry.is_file:
                found[path.decode()] = ("file", mode, version.read(entry))
            elif entry.is_dir:
                found[path.decode()] = ("directory", mode)
            else:
                found[path.decode()] = ("link", entry.target)
    return found


class Committer:
    """Commits to *parent* under one id."""

    def __init__(self, parent: Record, files: MemoryFiles, **request: Any) -> None:
        self.request = Request(new_version_id(), parent, **request)
        self.files = files
        self.stored: list[Stored] = []

    @property
    def id(self) -> VersionId:
        return self.request.id

    def ask(self, **request: Any) -> None:
        self.request = replace(self.request, **request)

    def __call__(self, store: Store, changes: Iterable[Change]) -> Record | None:
        made = list(changes)
        return commit(
            store,
            self.request,
            lambda: made,
            self.files,
            options=OPTIONS,
            on_stored=lambda found: self.stored.extend(found),
        )

    def child(self, store: Store, changes: Iterable[Change]) -> Record:
        """Commit; there must be a child."""
        record = self(store, changes)
        assert record is not None
        return record


class Crashed(Exception):
    """A point was passed."""


def crashing_at(point: str) -> CrashPoint:
    """Return what raises Crashed at *point*."""

    def crash(here: str) -> None:
        if here == point:
            raise Crashed(point)

    return crash


def pages(store: Store, record: Record) -> dict[bytes, int]:
    """Return byte digest → level of every page of a version's catalog."""
    with closing(store.version(record)) as version:
        return pages_below(version.root.page, version.pages.load)


FAULT_FILES = {
    "gone": b"goes",
    "d/kept": noise(3000, 1),
    "d/moved": noise(30_000, 2),
    "edited": noise(400 * KIB, 3),
}
"""The parent of `commit_faults`."""


def fault_changes(before: dict[str, Entry], part: int) -> tuple[MemoryFiles, list[Change], Tree]:
    """Return the changes of an attempt, and what they make: *part* 1 has some that 2 has not, and fewer others."""
    files = MemoryFiles()
    edited = FAULT_FILES["edited"][:50_000] + noise(9000, 7) + FAULT_FILES["edited"][59_000:]
    changes = [
        gone("gone"),
        kept("moved", before["d/moved"], tag=b"moved"),
        gone("d/moved"),
        files.edit("edited", edited, before["edited"], [(50_000, 59_000)]),
        *[files.file(f"n{number}", noise(20_000, 10 + number), tag=b"n%d" % number) for number in range(6)],
    ]
    if part == 1:
        changes += [gone("d/kept"), files.file("n0", b"other bytes"), files.file("only in the first", b"1")]
    else:
        changes += [folder("new"), files.file("new/one", noise(5000, 30), tag=b"new")]
    expected: Tree = {
        "": ("directory", 0o755),
        "d": ("directory", 0o755),
        "d/kept": ("file", 0o644, FAULT_FILES["d/kept"]),
        "moved": ("file", 0o644, FAULT_FILES["d/moved"]),
        "edited": ("file", 0o644, edited),
        **{f"n{number}": ("file", 0o644, noise(20_000, 10 + number)) for number in range(6)},
        "new": ("directory", 0o755),
        "new/one": ("file", 0o644, noise(5000, 30)),
    }
    return files, changes, expected


def commit_faults(store: Store, parent: Record, version: VersionId, part: int = 2) -> Record | None:
    """Commit `fault_changes` to *parent* under the id *version*; with part 0 changes that come to nothing."""
    before = entries(store, parent)
    files, changes, _ = fault_changes(before, part)
    if part == 0:
        changes = [files.file("gone", FAULT_FILES["gone"], mtime_ns=9), files.file("d/kept", FAULT_FILES["d/kept"])]
    options = UploadOptions(pack_bytes=32 * KIB, workers=2)
    return commit(store, Request(version, parent), lambda: changes, files, options=options)
