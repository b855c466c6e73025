"""Commits at real sizes: what they cost follows what was edited, not what it lies in."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.large.test_sizes import MIB, Machine, peak_of

pytestmark = pytest.mark.large


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    yield found
    for place in found.mounts:
        found.run("umount", str(place))


def mount(machine: Machine, dataset: str) -> tuple[Path, int]:
    """Mount *dataset* to be edited; return where, and the pid of the daemon."""
    place = machine.folder / f"mount-{len(machine.mounts)}"
    said = json.loads(machine.run("mount", "--rw", dataset, str(place), "--json").out)
    machine.mounts.append(place)
    return place, said["pid"]


def test_ten_files_of_a_million(machine: Machine, tmp_path: Path) -> None:
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
    machine.run("add", "--files", str(source))
    machine.run("close")

    mounted, pid = mount(machine, "p/million")
    edited = {}
    for number in range(10):
        path = mounted / f"d{number * 97:03}/img_{number * 61:06}.txt"
        edited[path] = os.urandom(10_000)
        path.write_bytes(edited[path])
    before = machine.stored_bytes()
    ran = machine.run("commit", str(mounted), "-q")
    assert machine.stored_bytes() - before < MIB + 100_000
    assert ran.peak_bytes < 200 * MIB
    assert {path: path.read_bytes() for path in edited} == edited
    assert (mounted / "d999/img_000999.txt").read_text() == "file 999 of directory 999\n"

    before = machine.stored_bytes()
    (mounted / "d500").rename(mounted / "moved")
    machine.run("commit", str(mounted))
    assert machine.stored_bytes() - before < MIB
    assert len(os.listdir(mounted / "moved")) == 1000
    assert peak_of(pid) < 250 * MIB
    listed = json.loads(machine.run("search", "--json").out)
    assert [item["version"] for item in listed] == ["1.0.0", "1.0.1", "1.0.2"]


def test_a_mebibyte_inside_two_gibibytes(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with (tmp_path / "source/large").open("wb") as file:
        for _ in range(32):
            file.write(os.urandom(64 * MIB))
    machine.run("create", "--project", "p", "--name", "large")
    machine.run("add", "--files", str(tmp_path / "source"))
    machine.run("close")
    mounted, _ = mount(machine, "p/large")
    places = random.Random(1)
    for _ in range(3):
        start, data = places.randrange(2047 * MIB), os.urandom(MIB)
        with (mounted / "large").open("r+b") as file:
            file.seek(start)
            file.write(data)
        before = machine.stored_bytes()
        machine.run("commit", str(mounted))
        assert machine.stored_bytes() - before < 6 * MIB
        with (mounted / "large").open("rb") as file:
            file.seek(start - 5)
            assert file.read(MIB + 10)[5:-5] == data
        with (tmp_path / "source/large").open("r+b") as file:
            file.seek(start)
            file.write(data)
    digest = os.getxattr(mounted / "large", "user.dvfs.digest")
    machine.run("create", "--project", "p", "--name", "anew")
    machine.run("add", "--files", str(tmp_path / "source"))
    machine.run("close")
    anew = machine.folder / "anew"
    machine.run("mount", "p/anew", str(anew))
    machine.mounts.append(anew)
    assert os.getxattr(anew / "large", "user.dvfs.digest") == digest
