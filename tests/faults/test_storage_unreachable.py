"""Another storage that does not answer: what lies there is an error soon, the catalog and all else is read on."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

import pytest

from dvfs.store.url import open_backend
from tests.fault_kit import Machine, add, opened
from tests.faults.test_unreachable import SOON_SECONDS, soon
from tests.seaweed import SeaweedServer

HERE, THERE = b"here" * 5000, b"there" * 5000


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    told = {"DVFS_S3_CONNECT_TIMEOUT": "1", "DVFS_S3_READ_TIMEOUT": "1", "DVFS_RETRY_DEADLINE": "0.5"}
    return Machine(tmp_path / "machine", str(tmp_path / "store"), told)


def publish(tmp_path: Path, storage: str) -> str:
    """Make a version with a file in the store and one in *storage*; return its id."""
    with opened(open_backend(str(tmp_path / "store")), tmp_path / "publisher", open_storage=open_backend) as store:
        parents: list[str] = []
        for name, data, url in (("there", THERE, storage), ("here", HERE, None)):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).write_bytes(data)
            draft = store.create(project="faults", name="set", parents=parents, storage=url)
            parents = [add(draft, tmp_path / name).finalize().id]
    return parents[0]


def read(path: Path) -> bytes:
    """Return the bytes of the file *path* as its daemon gives them."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def test_a_server_that_does_not_answer(
    private_s3_server: SeaweedServer, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in private_s3_server.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{private_s3_server.bucket}/{secrets.token_hex(6)}"
    version = publish(tmp_path, url)
    private_s3_server.pause()
    try:
        with machine.mounted(version, "--prefetch", "none") as mount:
            assert sorted(os.listdir(mount.directory)) == ["here", "there"]
            assert soon(lambda: read(mount.directory / "there")) == errno.EIO
            assert soon(lambda: read(mount.directory / "here")) == HERE
            private_s3_server.resume()
            assert soon(lambda: read(mount.directory / "there")) == THERE
            assert url in mount.said()
            private_s3_server.pause()
        shutil.rmtree(machine.cache)
        assert machine.run("list", version, timeout=SOON_SECONDS).returncode == 0
        for words in (
            ["verify", version],
            ["get", version, "--copy", tmp_path / "copy"],
            ["squash", "--name", "s", "--ids", version, "--storage", tmp_path / "target"],
        ):
            done = machine.run(*words, timeout=SOON_SECONDS)
            assert (done.returncode, done.stdout) == (6, ""), words
            (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
            assert url in line
        assert machine.run("squash", "--name", "s", "--ids", version, timeout=SOON_SECONDS).returncode == 0
    finally:
        private_s3_server.resume()


def test_a_folder_that_is_gone(machine: Machine, tmp_path: Path) -> None:
    version = publish(tmp_path, f"file://{tmp_path}/elsewhere")
    os.rename(tmp_path / "elsewhere", tmp_path / "gone")
    with machine.mounted(version, "--prefetch", "none") as mount:
        assert soon(lambda: read(mount.directory / "there")) == errno.EIO
        assert soon(lambda: read(mount.directory / "here")) == HERE
        assert f"is missing in file://{tmp_path}/elsewhere" in mount.said()
        os.rename(tmp_path / "gone", tmp_path / "elsewhere")
        assert soon(lambda: read(mount.directory / "there")) == THERE
