"""What `doctor` finds: each check made to say each of its verdicts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dvfs.cli import checks
from dvfs.cli.checks import Finding
from dvfs.store.backend import Backend, ObjectInfo
from dvfs.store.digest import Buffer
from dvfs.store.errors import AccessDenied, Unavailable
from dvfs.store.folder import FolderBackend
from tests.memory_backend import MemoryBackend


def verdicts(findings: Iterator[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.name, finding.verdict, finding.text) for finding in findings]


def test_fuse_device(tmp_path: Path) -> None:
    assert checks.fuse_device(Path("/dev/null")) == Finding("fuse device", "ok", "/dev/null")
    missing = checks.fuse_device(tmp_path / "fuse")
    assert (missing.verdict, missing.text) == ("fail", f"{tmp_path}/fuse is not there")
    assert missing.hint.startswith("load the module")
    closed = checks.fuse_device(tmp_path)
    assert (closed.verdict, closed.text) == ("fail", f"{tmp_path} cannot be opened: Is a directory")


def test_fusermount(tmp_path: Path) -> None:
    program = tmp_path / "fusermount3"
    program.touch(mode=0o755)
    assert checks.fusermount(True, lambda name: str(tmp_path / name)).verdict == "ok"
    plain = checks.fusermount(False, lambda name: str(tmp_path / name))
    assert (plain.verdict, plain.text) == ("warn", f"{program} is not setuid root")
    program.chmod(0o4755)
    assert checks.fusermount(False, lambda name: str(program)).verdict == "ok"
    assert [checks.fusermount(is_root, lambda name: None).verdict for is_root in (True, False)] == ["warn", "fail"]


def test_allow_other(tmp_path: Path) -> None:
    conf = tmp_path / "fuse.conf"
    assert [checks.allow_other(is_root, conf).verdict for is_root in (True, False)] == ["ok", "warn"]
    conf.write_text("# user_allow_other\nmount_max = 10\n")
    assert checks.allow_other(False, conf).verdict == "warn"
    conf.write_text("mount_max = 10\n user_allow_other # yes\n")
    assert checks.allow_other(False, conf) == Finding("user_allow_other", "ok", f"set in {conf}")


def test_folder(tmp_path: Path) -> None:
    assert checks.folder("state", tmp_path / "a" / "b") == Finding("state", "ok", f"{tmp_path}/a/b can be written")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    refused = checks.folder("state", tmp_path / "file")
    assert (refused.verdict, refused.text) == ("fail", f"{tmp_path}/file cannot be written: File exists")


def test_cache_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.cache_disk(tmp_path, 1 << 30).verdict == "ok"
    monkeypatch.setattr(checks, "MIN_FREE_BYTES", 1 << 60)
    assert checks.cache_disk(tmp_path, 1 << 30).verdict == "warn"


def test_a_sound_store(store_backend: Backend) -> None:
    assert verdicts(checks.store(store_backend, has_if_match=store_backend.url.startswith("s3:"))) == [
        ("store read", "ok", store_backend.url),
        ("store write", "ok", "can be written"),
        ("conditional writes", "ok", "enforced"),
    ]
    assert list(store_backend.list("")) == []


def test_a_store_that_may_only_be_read(s3_readonly: Backend) -> None:
    found = list(checks.store(s3_readonly, has_if_match=True))
    assert [(finding.name, finding.verdict) for finding in found] == [("store read", "ok"), ("store write", "warn")]
    assert found[1].hint == "mount, list, search and get work; making versions does not"


class _Broken(MemoryBackend):
    """A store with one defect."""

    def __init__(self, defect: str) -> None:
        super().__init__()
        self._defect = defect

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if self._defect == "gone":
            raise Unavailable("no answer")
        if self._defect == "denied":
            raise AccessDenied("not you")
        return iter(())

    def put_if_absent(self, key: str, data: Buffer) -> str:
        if self._defect == "full":
            raise Unavailable("try later")
        if self._defect == "no If-None-Match":
            self.delete(key)
        return super().put_if_absent(key, data)

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        if self._defect == "no If-Match":
            etag = self.head(key).etag
        return super().replace_if(key, data, etag)


@pytest.mark.parametrize(
    ("defect", "last"),
    [
        ("gone", ("store read", "fail", "no answer")),
        ("denied", ("store read", "fail", "not you")),
        ("full", ("store write", "fail", "try later")),
        ("no If-None-Match", ("conditional writes", "fail", "the store overwrites what must not be (If-None-Match)")),
        (
            "no If-Match",
            ("conditional writes", "fail", "the store overwrites what was changed meanwhile (If-Match)"),
        ),
    ],
)
def test_defects_of_a_store(defect: str, last: tuple[str, str, str]) -> None:
    backend = _Broken(defect)
    assert verdicts(checks.store(backend, has_if_match=True))[-1] == last
    backend._defect = ""
    assert list(MemoryBackend.list(backend, "")) == []


@pytest.mark.parametrize(
    ("server", "verdict", "text"),
    [
        (1030.0, "ok", "within 60 seconds of the store's"),
        (1100.0, "fail", "this machine is 100 seconds behind the store"),
        (900.0, "fail", "this machine is 100 seconds ahead of the store"),
    ],
)
def test_clock(server: float, verdict: str, text: str) -> None:
    finding = checks.clock(lambda: server, lambda: 1000.0)
    assert (finding.verdict, finding.text) == (verdict, text)


@contextmanager
def http_server(date: str | None, status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(status)
            if date is not None:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [200, 403])
def test_time_of_a_server_whatever_it_answers(status: int) -> None:
    with http_server("Thu, 01 Jan 1970 00:16:40 GMT", status) as url:
        assert checks.http_time(url, 10) == 1000.0


def test_a_server_without_a_time() -> None:
    with http_server(None, 200) as url:
        finding = checks.clock(lambda: checks.http_time(url, 10))
    assert (finding.verdict, finding.text) == ("warn", f"the store's time cannot be read: {url} tells no time")
    assert checks.clock(lambda: checks.http_time(url, 10)).verdict == "warn"


def test_time_of_a_folder(tmp_path: Path) -> None:
    assert checks.folder_time(tmp_path) == pytest.approx(os.stat(tmp_path).st_mtime, abs=60)
    with pytest.raises(OSError):
        checks.folder_time(tmp_path / "none")


def test_probe_of_a_folder_leaves_no_object(tmp_path: Path) -> None:
    backend = FolderBackend(tmp_path)
    assert [verdict for _, verdict, _ in verdicts(checks.store(backend, has_if_match=False))] == ["ok", "ok", "ok"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
