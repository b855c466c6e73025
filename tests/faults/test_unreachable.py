"""A store that does not answer: what is cached is read on, all else is an error soon, until the store is back."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from dvfs.store.url import open_backend
from tests.fault_kit import Content, Machine, content_of, opened, publish, write_tree
from tests.seaweed import SeaweedServer

SOON_SECONDS = 30.0
"""Nothing here may take longer; with timeouts of a second all of it takes a few."""

CACHED, OTHERS = b"middling0", (b"middling1", b"middling2")


@dataclass(frozen=True, slots=True)
class Remote:
    """A version in a bucket of *server*."""

    server: SeaweedServer
    url: str
    id: str
    expected: dict[bytes, Content]

    def bytes_of(self, path: bytes) -> bytes:
        data = self.expected[path][1]
        assert data is not None
        return data


@pytest.fixture
def remote(private_s3_server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    for name, value in private_s3_server.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{private_s3_server.bucket}/{secrets.token_hex(6)}"
    source = write_tree(tmp_path / "source", files=5)
    with opened(open_backend(url), tmp_path / "publisher") as store:
        record = publish(store, source)
    return Remote(private_s3_server, url, record.id, content_of(source))


@pytest.fixture
def machine(remote: Remote, tmp_path: Path) -> Machine:
    told = {"DVFS_S3_CONNECT_TIMEOUT": "1", "DVFS_S3_READ_TIMEOUT": "1", "DVFS_RETRY_DEADLINE": "0.5"}
    return Machine(tmp_path / "machine", remote.url, told)


def soon(work: Callable[[], bytes]) -> bytes | int:
    """Return what *work* returns, or the errno that it raises; fail when it hangs."""
    answers: list[bytes | int] = []

    def run() -> None:
        try:
            answers.append(work())
        except OSError as exc:
            answers.append(exc.errno or 0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SOON_SECONDS)
    assert answers, "a reader hangs"
    return answers[0]


def read_past_the_kernel(file: int) -> bytes:
    """Return the bytes of *file* as its daemon gives them: none are left in the page cache."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return os.pread(file, 1 << 20, 0)


@pytest.fixture
def files(remote: Remote, machine: Machine) -> Iterator[dict[bytes, int]]:
    """Open files of a mount, by path; one of them has been read."""
    with machine.mounted(remote.id, "--prefetch", "none") as mount, ExitStack() as stack:
        found = {}
        for path in (CACHED, *OTHERS):
            found[path] = os.open(os.path.join(os.fsencode(mount.directory), path), os.O_RDONLY)
            stack.callback(os.close, found[path])
        assert soon(lambda: read_past_the_kernel(found[CACHED])) == remote.bytes_of(CACHED)
        yield found
        assert "Traceback" not in mount.said()
        assert mount.said().count("blocks cannot be fetched") >= 1


def test_a_mount_outlives_a_server_that_is_paused(remote: Remote, files: dict[bytes, int]) -> None:
    remote.server.pause()
    try:
        assert soon(lambda: read_past_the_kernel(files[OTHERS[0]])) == errno.EIO
        assert soon(lambda: read_past_the_kernel(files[CACHED])) == remote.bytes_of(CACHED)
    finally:
        remote.server.resume()
    for path in (*OTHERS, CACHED):
        assert soon(lambda path=path: read_past_the_kernel(files[path])) == remote.bytes_of(path)  # type: ignore[misc]


def test_a_mount_outlives_a_server_that_is_down(remote: Remote, files: dict[bytes, int]) -> None:
    remote.server.stop()
    try:
        assert soon(lambda: read_past_the_kernel(files[OTHERS[0]])) == errno.EIO
        assert soon(lambda: read_past_the_kernel(files[CACHED])) == remote.bytes_of(CACHED)
    finally:
        remote.server.start()
    for path in (*OTHERS, CACHED):
        assert soon(lambda path=path: read_past_the_kernel(files[path])) == remote.bytes_of(path)  # type: ignore[misc]


def test_commands_say_that_a_paused_store_is_unavailable(remote: Remote, machine: Machine) -> None:
    remote.server.pause()
    try:
        _assert_unavailable(machine, ["search"])
    finally:
        remote.server.resume()
    assert machine.run("search", timeout=SOON_SECONDS).returncode == 0


def test_commands_say_that_a_refusing_store_is_unavailable(remote: Remote, machine: Machine) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        machine.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}"
        _assert_unavailable(machine, ["list", remote.id])
        _assert_unavailable(machine, ["mount", "faults/set", machine.folder / "mnt"])
        _assert_unavailable(machine, ["get", remote.id, "--copy", machine.folder / "copy"])
        _assert_unavailable(machine, ["create", "--project", "p", "--name", "n"])
    assert not (machine.folder / "copy").exists()


def _assert_unavailable(machine: Machine, words: list[str | Path]) -> None:
    done = machine.run(*words, timeout=SOON_SECONDS)
    assert done.returncode == 6, (words, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_what_is_cached_is_mounted_and_read_with_the_store_away(remote: Remote, machine: Machine) -> None:
    with machine.mounted(remote.id, "--prefetch", "none") as mount:
        assert content_of(mount.directory) == remote.expected
    remote.server.pause()
    try:
        with machine.mounted(remote.id, "--prefetch", "none") as mount:
            assert content_of(mount.directory) == remote.expected
    finally:
        remote.server.resume()
