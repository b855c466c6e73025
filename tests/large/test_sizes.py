"""Real sizes, through the program as users run it: bounded memory, costs in proportion to what changes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.large

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Ran:
    """What a command printed, and the most memory that it took, in bytes."""

    out: str
    peak_bytes: int


class Machine:
    """The program with a folder store, and a state folder and cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.mounts: list[Path] = []
        self._environment = os.environ | {
            "DVFS_STORE": str(self.store),
            "DVFS_STATE_DIR": str(folder / "state"),
            "DVFS_CONFIG": str(folder / "config.toml"),
            "DVFS_CACHE_DIR": str(folder / "cache"),
        }

    def run(self, *words: str, cache: str = "cache") -> Ran:
        """Run `dvfs` with *words*, which must succeed."""
        environment = self._environment | {"DVFS_CACHE_DIR": str(self.folder / cache)}
        process = subprocess.Popen(
            [sys.executable, "-m", "dvfs", *words], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        assert process.returncode == 0, words
        return Ran(out, usage.ru_maxrss * 1024)

    def mount(self, dataset: str, cache: str) -> tuple[Path, int]:
        """Mount *dataset* with an empty *cache*; return where, and the pid of the daemon."""
        place = self.folder / f"mount-{len(self.mounts)}"
        said = json.loads(self.run("mount", dataset, str(place), "--json", cache=cache).out)
        self.mounts.append(place)
        return place, said["pid"]

    def stored_bytes(self) -> int:
        """Return the bytes of all objects of the store."""
        return sum(path.stat().st_size for path in self.store.rglob("*") if path.is_file())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    yield found
    for place in found.mounts:
        found.run("umount", str(place))


def peak_of(pid: int) -> int:
    """Return the most memory that the process *pid* took so far, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {pid}")


def assert_same_tree(source: Path, mounted: Path) -> None:
    """Check kind, mode, size, times to the nanosecond, and targets of all paths."""
    ran = subprocess.run(
        ["rsync", "-anic", "--modify-window=-1", "--delete", f"{source}/", f"{mounted}/"],
        capture_output=True,
        check=True,
    )
    assert ran.stdout == b""


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_million_files_and_a_child_that_changes_one(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in range(1000):
        (source / f"d{folder:03}").mkdir(parents=True)
        handle = os.open(source / f"d{folder:03}", os.O_RDONLY)
        for number in range(1000):
            file = os.open(f"img_{number:06}.txt", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=handle)
            os.write(file, b"file %d of directory %d\n" % (number, folder))
            os.close(file)
        os.close(handle)
    machine.run("create", "--project", "p", "--name", "million")
    assert machine.run("add", "--files", str(source)).peak_bytes < 400 * MIB
    assert machine.run("upload").peak_bytes < 400 * MIB
    assert machine.run("close").peak_bytes < 400 * MIB

    before = machine.stored_bytes()
    changed = tmp_path / "img_000500.txt"
    changed.write_text("changed")
    machine.run("create", "--parents", "p/million", "--name", "million")
    machine.run("add", "--files", str(changed), "--dataset-folder", "d500")
    machine.run("close")
    assert machine.stored_bytes() - before < MIB

    mounted, pid = machine.mount("p/million", "empty cache")
    assert len(os.listdir(mounted)) == 1000
    assert peak_of(pid) < 150 * MIB
    assert (mounted / "d500/img_000500.txt").read_text() == "changed"
    assert (mounted / "d999/img_000999.txt").read_text() == "file 999 of directory 999\n"
    assert sum(len(files) for _, _, files in os.walk(mounted)) == 1_000_000
    assert peak_of(pid) < 150 * MIB


def test_a_sparse_file_of_8_gib(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    islands = {0: b"start", 3 * GIB + 1: os.urandom(MIB), 8 * GIB - 5: b"the end"[-5:]}
    with (source / "sparse").open("wb") as file:
        file.truncate(8 * GIB)
        for offset, data in islands.items():
            file.seek(offset)
            file.write(data)
    machine.run("create", "--project", "p", "--name", "sparse")
    machine.run("add", "--files", str(source))
    assert machine.run("upload").peak_bytes < 400 * MIB
    machine.run("close")
    assert machine.stored_bytes() < 16 * MIB

    mounted, _ = machine.mount("p/sparse", "empty cache")
    assert (mounted / "sparse").stat().st_size == 8 * GIB
    with (mounted / "sparse").open("rb") as file:
        for offset, data in islands.items():
            file.seek(offset)
            assert file.read(len(data)) == data
        file.seek(5 * GIB)
        assert file.read(MIB) == bytes(MIB)


def test_a_file_of_3_gib_and_a_directory_of_200_000_files(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "wide").mkdir(parents=True)
    with (source / "large").open("wb") as file:
        for _ in range(3 * 1024 // 64):
            file.write(os.urandom(64 * MIB))
        file.write(b"and a bit")
    for number in range(200_000):
        (source / "wide" / f"{number * 7919 % 200_000:06}").write_bytes(b"%d" % number)
    machine.run("create", "--project", "p", "--name", "large")
    machine.run("add", "--files", str(source))
    assert machine.run("upload").peak_bytes < 400 * MIB
    machine.run("close")

    mounted, pid = machine.mount("p/large", "empty cache")
    names = os.listdir(mounted / "wide")
    assert len(names) == len(set(names)) == 200_000
    assert digest_of(mounted / "large") == digest_of(source / "large")
    assert_same_tree(source, mounted)
    assert peak_of(pid) < 400 * MIB
