"""Real mounts: the daemon runs as a program of its own, and every test leaves nothing mounted.

What an earlier run left mounted is taken away when a session starts: mounts in pytest's folders whose session is over.
"""

from __future__ import annotations

import getpass
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dvfs.fs.mountinfo import all_mounts
from dvfs.fs.mountpoint import is_dead, take_away
from dvfs.fs.mounts import Mount, Mounts, wait_gone
from tests.fs.made_version import Made, make
from tests.store_kit import SMALL_CUTTING, write_odd_tree

_PUBLIC = "dvfs-tests-"

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session", autouse=True)
def _sweep() -> None:
    temporary = Path(tempfile.gettempdir()).resolve()
    top = temporary / f"pytest-of-{getpass.getuser()}"
    for mount in all_mounts():
        directory = Path(mount.directory)
        if not mount.is_ours or not directory.is_relative_to(temporary):
            continue
        if directory.is_relative_to(top):
            is_over = not _is_running(top / directory.relative_to(top).parts[0] / ".lock")
        else:
            is_over = directory.relative_to(temporary).parts[0].startswith(_PUBLIC) and is_dead(directory)
        if is_over:
            take_away(directory, lazy=True)


def _is_running(lock: Path) -> bool:
    try:
        os.kill(int(lock.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


class Failed(Exception):
    """The daemon could not mount; `kind`, `message` and `hint` are those of its error."""

    def __init__(self, said: dict[str, str]) -> None:
        super().__init__(said["message"])
        self.kind, self.message, self.hint = said["kind"], said["message"], said["hint"]


@dataclass
class Mounted:
    """A mount: its *directory*, its daemon's *pid* and *log*.

    While the file *broken* exists its store is away, while *hanging* does, it does not answer.
    """

    directory: Path
    pid: int
    digest: str
    log: Path
    broken: Path
    hanging: Path
    table: Mounts
    noted: Mount
    is_noisy: bool = False
    """Whether the log may hold warnings."""

    def umount(self, *, lazy: bool = False) -> None:
        self.table.umount(self.directory, lazy=lazy)

    def kill(self) -> None:
        """Kill the daemon, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert wait_gone(self.noted.pid, self.noted.started)

    def log_lines(self, level: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if f" {level}" in line]

    def requests(self) -> dict[str, int]:
        """Unmount, and return how many requests were served, by kind."""
        self.umount()
        line = self.log_lines("INFO dvfs.fs.serve: requests served:")[-1]
        return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", line.partition("served: ")[2])}


@dataclass
class Mounter:
    """Makes versions and mounts them, all below *folder*."""

    folder: Path
    mounts: list[Mounted] = field(default_factory=list)
    command: Sequence[str] = (sys.executable,)

    def make(self, source: Path, name: str = "store", **parameters: Any) -> Made:
        return make(source, self.folder / name, **parameters)

    def __call__(
        self,
        made: Made,
        directory: Path | None = None,
        *,
        cache: str = "cache",
        told: dict[str, Any] | None = None,
        **options: Any,
    ) -> Mounted:
        """Mount *made* with *options* of MountOptions; *told* is for the program. Raises Failed."""
        directory = directory or self.folder / "mnt"
        pickled = self.folder / "made.pickle"
        pickled.write_bytes(pickle.dumps(made))
        state = Path(options.pop("state_dir", self.folder / "state"))
        broken, hanging = self.folder / "broken", self.folder / "hanging"
        words = {
            "made": str(pickled),
            "cache": str(self.folder / cache),
            "broken": str(broken),
            "hanging": str(hanging),
            "options": {"directory": str(directory), "state_dir": str(state), "prefetch": "none"} | options,
        }
        ran = subprocess.run(
            [*self.command, "-m", "tests.mount.daemon", json.dumps(words | (told or {}))],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.stdout, ran.stderr
        said = json.loads(ran.stdout)
        if ran.returncode:
            raise Failed(said)
        assert ran.stderr == ""
        table = Mounts(state)
        noted = table.at(directory)
        assert noted is not None
        log = Path(said["log"])
        mounted = Mounted(directory, said["pid"], said["digest"], log, broken, hanging, table, noted)
        self.mounts.append(mounted)
        return mounted

    def rw(self, made: Made, directory: Path | None = None, *, overlay: Path | None = None, **options: Any) -> Mounted:
        """Mount *made* to be edited, the edits in the folder *overlay*. Raises Failed."""
        told = {"overlay": str(overlay or self.folder / "overlay")}
        return self(made, directory, told=told, writable=True, **options)

    def take_all_away(self) -> None:
        """Unmount all; check that each daemon ended and logged nothing that a test did not expect."""
        for mount in self.mounts:
            mount.broken.unlink(missing_ok=True)
            mount.hanging.unlink(missing_ok=True)
        for left in all_mounts():
            if left.is_ours and Path(left.directory).is_relative_to(self.folder):
                take_away(Path(left.directory), lazy=True)
        for mount in self.mounts:
            assert wait_gone(mount.noted.pid, mount.noted.started), mount.log.read_text()
            if not mount.is_noisy:
                assert mount.log_lines("WARNING") + mount.log_lines("ERROR") == []


@pytest.fixture
def mounter(tmp_path: Path) -> Iterator[Mounter]:
    mounter = Mounter(tmp_path)
    yield mounter
    mounter.take_all_away()


@pytest.fixture
def public() -> Iterator[Mounter]:
    """A mounter in a folder that other users may enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix=_PUBLIC) as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        mounter = Mounter(folder)
        yield mounter
        mounter.take_all_away()


@pytest.fixture(scope="session")
def odd_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of everything odd."""
    return write_odd_tree(tmp_path_factory.mktemp("odd") / "tree")


@pytest.fixture(scope="session")
def odd_version(tmp_path_factory: pytest.TempPathFactory, odd_tree: Path) -> Made:
    """The version of `odd_tree`, cut into small blocks."""
    return make(odd_tree, tmp_path_factory.mktemp("odd-store") / "store", cutting=SMALL_CUTTING)


@pytest.fixture
def odd(mounter: Mounter, odd_version: Made) -> Callable[..., Mounted]:
    """Mounts `odd_version`."""

    def mount(directory: Path | None = None, **options: Any) -> Mounted:
        return mounter(odd_version, directory, **options)

    return mount


@pytest.fixture(scope="module", params=["zero", "plain"])
def either(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, odd_version: Made
) -> Iterator[Mounted]:
    """The odd tree, mounted with and without zero-message opens; tests share it and leave it as it is."""
    mounter = Mounter(tmp_path_factory.mktemp("either"))
    yield mounter(odd_version, zero_open=request.param == "zero")
    mounter.take_all_away()
