"""Stores for tests, with parameters so small that small trees cross every boundary, and trees to put into them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dvfs.store.backend import Backend
from dvfs.store.cache import Cache
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.cut import Cutting
from dvfs.store.draft import Draft
from dvfs.store.metrics import Metered
from dvfs.store.parameters import Parameters
from dvfs.store.record import Record
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from dvfs.store.upload import UploadOptions
from dvfs.store.url import open_backend
from tests.catalog_model import TINY

KIB = 1 << 10
SMALL_CUTTING = Cutting(
    small_file_bytes=64 * KIB,
    block_bytes=64 * KIB,
    min_bytes=8 * KIB,
    avg_bytes=32 * KIB,
    max_bytes=128 * KIB,
)
SMALL = Parameters(SMALL_CUTTING, TINY)
UPLOAD = UploadOptions(pack_bytes=256 * KIB, workers=2)


class Kit:
    """Opens one store from several machines: each has a state folder and a cache of its own.

    *crash* is called at each crash point of their stores. `places`: what the last machine has opened besides the store,
    by URL.
    """

    def __init__(self, backend: Callable[[], Backend], folder: Path, parameters: Parameters = SMALL) -> None:
        self._backend = backend
        self._folder = folder / "machines"
        self._parameters = parameters
        self._number = 0
        self.metered: Metered | None = None
        self.places: dict[str, Metered] = {}
        self.crash: CrashPoint = no_crash

    @contextmanager
    def machine(self, name: str | None = None, *, budget_bytes: int = 1 << 30) -> Iterator[Store]:
        """A store as the machine *name* sees it, a new one with nothing local when None; requests are in `metered`."""
        if name is None:
            self._number += 1
            name = f"machine-{self._number}"
        self.metered = Metered(self._backend())
        self.places = {}
        cache = Cache(self._folder / name / "cache", budget_bytes=budget_bytes, reserve_bytes=0)
        store = Store(
            self.metered,
            state_dir=self._folder / name / "state",
            cache=cache,
            wanted=self._parameters,
            open_storage=self._open_storage,
            crash=lambda point: self.crash(point),
        )
        try:
            yield store
        finally:
            store.close()
            cache.close()

    def _open_storage(self, url: str) -> Metered:
        assert url not in self.places
        self.places[url] = Metered(open_backend(url))
        return self.places[url]

    def publish(
        self,
        folder: Path,
        *,
        name: str = "set",
        project: str | None = "tests",
        parents: Sequence[str] = (),
        storage: str | None = None,
    ) -> Record:
        """Make *folder* a finished version."""
        with self.machine("publisher") as store:
            draft = store.create(project=project, name=name, parents=parents, storage=storage)
            return fill(draft, folder).finalize()


def fill(draft: Draft, folder: Path) -> Draft:
    """Add *folder* to *draft* and upload it."""
    draft.add_files([folder], ScanOptions())
    draft.upload(UPLOAD)
    return draft


def tree_of(folder: Path | str) -> dict[bytes, tuple[object, ...]]:
    """Return path → (kind and mode, size, mtime_ns, bytes or target) of all in *folder*, itself too."""
    top = os.fsencode(folder)
    found: dict[bytes, tuple[object, ...]] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        local = os.path.join(top, path) if path else top
        status = os.lstat(local)
        content: object = None
        size = status.st_size
        if stat.S_ISREG(status.st_mode):
            with open(local, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(local)
        else:
            size = 0
            todo += [os.path.join(path, name) if path else name for name in os.listdir(local)]
        found[path] = (status.st_mode, size, status.st_mtime_ns, content)
    return found


def write_odd_tree(top: Path) -> Path:
    """Make a tree of everything that a dataset may hold that is odd; return it."""
    top.mkdir(parents=True)
    root = os.fsencode(top)

    def put(path: bytes, data: bytes = b"", mode: int = 0o644, mtime_ns: int = 1_600_000_000_123_456_789) -> None:
        local = os.path.join(root, path)
        os.makedirs(os.path.dirname(local), exist_ok=True)
        with open(local, "wb") as file:
            file.write(data)
        os.chmod(local, mode)
        os.utime(local, ns=(mtime_ns, mtime_ns))

    for path in (b"x", b"x-y/z", b"x.d/z", b"x!/z"):
        put(path, path)
    put(b"with space/and\nnewline", b"1")
    put(b"\xff\xfe/\x80", b"not utf-8")
    put(b"n" * 255, b"long name")
    put("größe/ñ".encode(), b"utf-8")
    put(b"empty")
    put(b"bin/run", b"#!/bin/sh\n", 0o755)
    put(b"readonly", b"r", 0o444)
    put(b"secret", b"s", 0o600)
    put(b"old", b"before 1980", mtime_ns=-5_000_000_001)
    put(b"nanoseconds", b"n", mtime_ns=1_700_000_000_999_999_999)
    put(b"/".join([b"d"] * 60) + b"/deep", b"60 levels")
    put(b"big/random", os.urandom(3 << 20))
    put(b"big/zeros", bytes(1 << 20))
    put(b"big/text", b"the same line again\n" * 50_000)
    for number in range(300):
        put(b"many/f%03d" % number, b"%d " % number * (number % 50))
    os.makedirs(os.path.join(root, b"empty directory/inside"))
    for name, target in (
        (b"dangling", b"nowhere"),
        (b"absolute", b"/etc"),
        (b"to directory", b"many"),
        (b"l" * 9, b"x"),
    ):
        os.symlink(target, os.path.join(root, name))
        os.utime(os.path.join(root, name), ns=(1, 1_500_000_000_000_000_001), follow_symlinks=False)
    os.chmod(os.path.join(root, b"x-y"), 0o700)
    for folder, _, _ in os.walk(root, topdown=False):
        os.utime(folder, ns=(7, 1_650_000_000_000_000_007))
    os.chmod(root, 0o751)
    return top
