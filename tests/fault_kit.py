"""For the tests of faults: a small tree whose version has many packs and pages, what each path needs, real mounts."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dvfs.fs.mountinfo import mounted_at
from dvfs.fs.mountpoint import take_away
from dvfs.fs.mounts import started_at, wait_gone
from dvfs.store.backend import Backend
from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.tree import Tree
from dvfs.store.cut import Cutting
from dvfs.store.draft import Draft
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import pack_key
from dvfs.store.pack import read_footer
from dvfs.store.parameters import Parameters
from dvfs.store.record import Record
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from dvfs.store.upload import UploadOptions
from dvfs.store.version import Version
from tests.catalog_model import TINY
from tests.store.noise import noise

KIB = 1 << 10
ROOT = Path(__file__).resolve().parent.parent
TINIEST = Parameters(Cutting(4 * KIB, 4 * KIB, 1 * KIB, 4 * KIB, 16 * KIB), TINY)
UPLOAD = UploadOptions(pack_bytes=32 * KIB, workers=2)
LARGE = b"large/cut"
"""A file of so many blocks that a tree of pages lists them."""

Content = tuple[int, bytes | None]
"""Kind and mode; the bytes of a file, the target of a link."""


def write_tree(top: Path, *, seed: int = 0, files: int = 24) -> Path:
    """Make a tree of small and cut files, links and directories in *top*; return it."""
    for number in range(files):
        path = top / f"d{number % 5}" / f"f{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(700 + 97 * number, seed * 1000 + number))
    (top / "large").mkdir(parents=True)
    (top / os.fsdecode(LARGE)).write_bytes(noise(400 * KIB, seed * 1000 + 500))
    for number in range(8):
        (top / f"middling{number}").write_bytes(noise(36 * KIB, seed * 1000 + 600 + number))
    (top / "empty").touch()
    (top / "d0" / "link").symlink_to("f00")
    return top


def content_of(top: Path | str) -> dict[bytes, Content]:
    """Return what is in the folder *top*, by path; the folder itself is b""."""
    return {path: look(top, path) for path in paths_in(top)}


def paths_in(top: Path | str) -> list[bytes]:
    """Return all paths in the folder *top*, b"" too."""
    root = os.fsencode(top)
    found = [b""]
    for folder, folders, names in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in folders + names]
    return sorted(found)


def look(top: Path | str, path: bytes) -> Content:
    """Return what is at *path* in *top*. Raises OSError."""
    local = os.path.join(os.fsencode(top), path)
    mode = os.lstat(local).st_mode
    if stat.S_ISREG(mode):
        with open(local, "rb", buffering=0) as file:
            return mode, b"".join(iter(lambda: file.read(1 << 20), b""))
    return mode, os.readlink(local) if stat.S_ISLNK(mode) else None


def look_at_all(top: Path, paths: Iterable[bytes]) -> tuple[dict[bytes, Content], set[bytes]]:
    """Return what can be read of *paths* in *top*, and the paths that give EIO. Other errors are raised."""
    found: dict[bytes, Content] = {}
    failed: set[bytes] = set()
    for path in paths:
        try:
            found[path] = look(top, path)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            failed.add(path)
    return found, failed


class Region(NamedTuple):
    """Bytes of a pack: a block, a page, or the footer. *needed_by*: who cannot be read without them."""

    key: str
    offset: int
    length: int
    needed_by: frozenset[bytes]

    def overlaps(self, key: str, start: int, stop: int) -> bool:
        return self.key == key and self.offset < stop and start < self.offset + self.length


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a version is made of: *regions* that somebody needs, *footers* that no reader does, *packs*: key → size."""

    regions: list[Region]
    footers: list[Region]
    packs: dict[str, int]

    def touched(self, key: str, start: int, stop: int) -> frozenset[bytes]:
        """Return the paths that need any of the bytes from *start* to before *stop* of pack *key*."""
        hit = [region.needed_by for region in self.regions if region.overlaps(key, start, stop)]
        return frozenset().union(*hit)


def dissect(version: Version, backend: FolderBackend) -> Anatomy:
    """Find out what each path of *version* needs, those above it too: their entries are looked up before its own."""
    places: dict[BlockRef, set[bytes]] = {}
    here: set[BlockRef] = set()

    def load(ref: PageRef) -> Any:
        here.add(ref.block)
        return version.pages.load(ref)

    def load_blocks(ref: BlockRef) -> blocktree.BlocksPage:
        here.add(ref)
        return version.pages.load_blocks(ref)

    tree = Tree(version.root.page, load)
    needs: dict[bytes, set[BlockRef]] = {}
    for _, path, entry in version.tree.scan():
        here = set(needs[_parent(path)]) if path else set()
        tree.find(path)
        needs[path] = set(here)
        if not entry.is_dir:
            here.update(blocktree.all_blocks(entry.content, load_blocks))
        for block in here:
            places.setdefault(block, set()).add(path)
    regions = [Region(pack_key(ref.pack), ref.offset, ref.stored, frozenset(by)) for ref, by in places.items()]
    packs = {item.key: item.size for item in backend.list("packs/")}
    footers = []
    for pack in {ref.pack: pack_key(ref.pack) for ref in places}:
        blocks = read_footer(backend, pack).blocks
        end = blocks[-1].offset + blocks[-1].stored
        footers.append(Region(pack_key(pack), end, packs[pack_key(pack)] - end, frozenset()))
    return Anatomy(sorted(regions), sorted(footers), packs)


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def flip_bit(file: Path, start: int, stop: int, chance: random.Random) -> None:
    """Flip one bit of *file*, anywhere from byte *start* to before *stop*."""
    data = bytearray(file.read_bytes())
    data[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


@contextmanager
def restored(file: Path) -> Iterator[Path]:
    """Let the body do anything to *file*; afterwards it is as it was."""
    data = file.read_bytes()
    try:
        yield file
    finally:
        file.write_bytes(data)


@dataclass
class Mounted:
    """A mount of a daemon: *directory*, *pid*, its *log*."""

    directory: Path
    pid: int
    log: Path

    def said(self) -> str:
        """Return what the daemon has logged."""
        return self.log.read_text()


@dataclass
class Machine:
    """A machine that sees the store at *url*: `dvfs` as a program, with all that it keeps in *folder*."""

    folder: Path
    url: str
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def run(self, *words: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `dvfs` with *words*."""
        return subprocess.run(
            [sys.executable, "-m", "dvfs", *words],
            cwd=ROOT,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @contextmanager
    def mounted(self, dataset: str, *words: str, directory: str = "mnt") -> Iterator[Mounted]:
        """Mount *dataset*; at the end it must still be alive, and is unmounted."""
        mount = self.mount(dataset, *words, directory=directory)
        started = started_at(mount.pid)
        try:
            yield mount
            assert started_at(mount.pid) == started != 0, f"the daemon is gone:\n{mount.said()}"
            done = self.run("umount", mount.directory)
            assert done.returncode == 0, done.stderr
        finally:
            if mounted_at(mount.directory) is not None:
                take_away(mount.directory, lazy=True)
        assert wait_gone(mount.pid, started)

    def mount(self, dataset: str, *words: str, directory: str = "mnt") -> Mounted:
        """Mount *dataset* in the background; who calls this unmounts."""
        done = self.run("mount", dataset, self.folder / directory, "--json", *words)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        return Mounted(Path(said["directory"]), said["pid"], Path(said["log"]))

    def _environment(self) -> Mapping[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DVFS_STORE": self.url,
            "DVFS_STATE_DIR": str(self.folder / "state"),
            "DVFS_CACHE_DIR": str(self.cache),
            "DVFS_CACHE_SIZE": "1GiB",
            "DVFS_CONFIG": str(self.folder / "config.toml"),
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
            **self.environ,
        }


@contextmanager
def opened(backend: Backend, folder: Path, *, budget_bytes: int = 1 << 30, **options: Any) -> Iterator[Store]:
    """Open the store behind *backend* with what it keeps in *folder*; *options* are those of Store."""
    cache = Cache(folder / "cache", budget_bytes=budget_bytes, reserve_bytes=0)
    store = Store(backend, state_dir=folder / "state", cache=cache, wanted=TINIEST, **options)
    try:
        yield store
    finally:
        store.close()
        cache.close()


def add(draft: Draft, folder: Path) -> Draft:
    """Stage *folder* and upload it."""
    draft.add_files([folder], ScanOptions())
    draft.upload(UPLOAD)
    return draft


def publish(store: Store, folder: Path, *, name: str = "set", parents: Iterable[str] = ()) -> Record:
    """Make *folder* a finished version."""
    return add(store.create(project="faults", name=name, parents=list(parents)), folder).finalize()


def read_all(
    version: Version, paths: Iterable[bytes], errors: Callable[[bytes, Exception], None]
) -> dict[bytes, Content]:
    """Return what *version* has at *paths*, each looked up step by step; what is raised goes to *errors*."""
    found: dict[bytes, Content] = {}
    for path in paths:
        try:
            entry = None
            for end in [at for at, byte in enumerate(path) if byte == 0x2F] + [len(path)]:
                step = version.tree.find(path[:end])
                entry = step[1] if step is not None else None
            version.tree.find(b"")
            assert entry is not None, path
            data: bytes | None = None
            if entry.is_file:
                data = version.read(entry)
            elif entry.is_link:
                data = entry.target
            found[path] = entry.mode, data
        except Exception as exc:
            errors(path, exc)
    return found
