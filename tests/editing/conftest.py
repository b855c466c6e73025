"""Programs that edit: each does the same in a mounted version and in a plain folder, and both must end up the same.

What is edited is there twice: in `base/`, of the version, and in `new/`, made in the mount.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted, Mounter, _sweep, mounter, public
from tests.store_kit import SMALL_CUTTING

__all__ = ["_sweep", "mounter", "public"]

Look = dict[bytes, tuple[object, ...]]

_SAME_COMMITS = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (
    ("NAME", "a"), ("EMAIL", "a@example.org"), ("DATE", "2020-01-01T00:00:00Z")
)}  # fmt: skip


def look(top: Path) -> Look:
    """Return all that can be seen of each path in *top*, itself too: path → attributes, content, link group."""
    root = os.fsencode(top)
    found: Look = {}
    first: dict[int, bytes] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        local = os.path.join(root, path) if path else root
        status = os.lstat(local)
        content: object = None
        if stat.S_ISREG(status.st_mode):
            with open(local, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(local)
        elif stat.S_ISDIR(status.st_mode):
            with os.scandir(local) as entries:
                listed = {entry.name: entry.inode() for entry in entries}
            content = sorted(listed)
            for name, inode in listed.items():
                inner = os.path.join(path, name) if path else name
                assert os.lstat(os.path.join(root, inner)).st_ino == inode
                todo.append(inner)
        attributes = {}
        if not stat.S_ISLNK(status.st_mode):
            attributes = {name: os.getxattr(local, name) for name in os.listxattr(local)}
        group = path if stat.S_ISDIR(status.st_mode) else min(path, first.get(status.st_ino, path))
        first[status.st_ino] = group
        found[path] = (status, content, attributes)
    return {path: (*row, first[row[0].st_ino]) for path, row in found.items()}  # type: ignore[attr-defined]


def comparable(looked: Look, tops: tuple[Path, ...], since_ns: int) -> Look:
    """Return of *looked* what is the same in all of *tops*: of times those that were set, to before *since_ns*."""
    found: Look = {}
    for path, (status, content, attributes, group) in looked.items():
        assert isinstance(status, os.stat_result)
        if isinstance(content, bytes):
            for top in tops:
                content = content.replace(os.fsencode(top), b"TOP")
        is_directory = stat.S_ISDIR(status.st_mode)
        found[path] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            None if is_directory or isinstance(content, bytes) else status.st_size,
            None if is_directory else status.st_nlink,
            status.st_rdev,
            status.st_mtime_ns if status.st_mtime_ns < since_ns else "now",
            content,
            attributes,
            group,
        )
        assert is_directory or not isinstance(content, bytes) or status.st_size == len(looked[path][1])  # type: ignore[arg-type]
    return found


def kept(looked: Look) -> Look:
    """Return of *looked* what must not change by unmounting and mounting again."""
    found: Look = {}
    for path, (status, *further) in looked.items():
        assert isinstance(status, os.stat_result)
        found[path] = (
            oct(status.st_mode), status.st_ino, status.st_nlink, status.st_uid, status.st_gid, status.st_size,
            status.st_mtime_ns, status.st_ctime_ns, *further,
        )  # fmt: skip
    return found


@dataclass
class Pair:
    """A version mounted at *mounted*, and a *plain* folder of the same files; `run` edits both, `check` compares them.

    *but*: names of files whose bytes may differ, as they hold times or inode numbers.
    """

    mount: Callable[[], Mounted]
    mounted: Mounted
    plain: Path
    home: Path
    but: tuple[bytes, ...]
    since_ns: int

    @property
    def tops(self) -> tuple[Path, Path]:
        """The plain folder and the mount."""
        return self.plain, self.mounted.directory

    def run(self, script: str, *, folders: tuple[str, ...] = ("base", "new"), **environ: str) -> None:
        """Run *script* by sh in each of *folders*, in the plain folder and in the mount; `$TOP` is where that is."""
        for folder in folders:
            said = [self._run(script, top / folder, environ | {"TOP": str(top)}) for top in self.tops]
            for top, words in zip(self.tops, said, strict=True):
                print(top, words)
            assert said[0].replace(str(self.plain), "TOP") == said[1].replace(str(self.mounted.directory), "TOP")

    def each(self, edit: Callable[[Path], object]) -> None:
        """Call *edit* with `base` and `new`, in the plain folder and in the mount; it must return the same."""
        for folder in ("base", "new"):
            plain, mounted = (edit(top / folder) for top in self.tops)
            assert plain == mounted

    def check(self) -> None:
        """Compare both, unmount, mount again, and compare again."""
        self.compare()
        before = kept(look(self.mounted.directory))
        self.mounted.umount()
        self.mounted = self.mount()
        after = kept(look(self.mounted.directory))
        assert after == before
        self.compare()

    def compare(self) -> None:
        """Compare the plain folder and the mount."""
        plain, mounted = (comparable(look(top), self.tops, self.since_ns) for top in self.tops)
        for looked in (plain, mounted):
            for path, row in looked.items():
                if os.path.basename(path) in self.but:
                    looked[path] = (*row[:6], *row[8:])
        assert sorted(mounted) == sorted(plain)
        for path, row in plain.items():
            assert (path, mounted[path]) == (path, row)

    def _run(self, script: str, folder: Path, environ: dict[str, str]) -> str:
        told = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C", "TZ": "UTC"}
        ran = subprocess.run(
            ["sh", "-euc", script],
            cwd=folder, env=told | _SAME_COMMITS | environ, capture_output=True, timeout=100, check=False,
        )  # fmt: skip
        out, err = ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace")
        assert ran.returncode == 0, f"in {folder}: {out}{err}"
        return out


@pytest.fixture
def pair(mounter: Mounter) -> Iterator[Callable[..., Pair]]:
    """Makes a pair of what a script makes in an empty folder; it is in `base`, and copied into `new` in the mount."""
    pairs: list[Pair] = []

    def make(script: str = ":", *, but: tuple[bytes, ...] = (), **environ: str) -> Pair:
        since_ns = time.time_ns() - 10**9  # the kernel's clock for files is a little behind
        home, plain = mounter.folder / "home", mounter.folder / "plain"
        home.mkdir()
        (plain / "base").mkdir(parents=True)
        (plain / "file").write_bytes(b"beside\n")
        subprocess.run(
            ["sh", "-euc", script],
            cwd=plain / "base",
            env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C"} | _SAME_COMMITS | environ,
            stdout=subprocess.DEVNULL, timeout=100, check=True,
        )  # fmt: skip
        made = mounter.make(plain, cutting=SMALL_CUTTING)
        found = Pair(partial(mounter.rw, made), mounter.rw(made), plain, home, but, since_ns)
        for top in found.tops:
            subprocess.run(["cp", "-a", "base", "new"], cwd=top, check=True)
        pairs.append(found)
        return found

    yield make
    for found in pairs:
        shutil.rmtree(found.plain, ignore_errors=True)
