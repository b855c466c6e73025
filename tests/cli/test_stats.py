"""`dvfs stats` and `dvfs why-slow` on real mounts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dvfs.cli.figures import RATES
from tests.cli.conftest import Program
from tests.docs.pages import ROOT, code_spans, section, table
from tests.seaweed import SeaweedServer
from tests.store.noise import noise

STATS = (ROOT / "docs/STATS.md").read_text()
CAUSES = ["catalog", "queue", "network", "decompression", "disk", "other"]


def mount_version(dvfs: Program, *words: str) -> Path:
    """Make p/d of text and noise, and mount it at `mnt`."""
    source = dvfs.folder / "source"
    source.mkdir()
    (source / "text").write_bytes(b"".join(b"line %d\n" % number for number in range(300_000)))
    (source / "noise").write_bytes(noise(3 << 20, 1))
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", "source", "-q")
    dvfs.ok("cache", "clear", "-q")
    ran = dvfs.process("mount", "p/d", "mnt", "-q", *words)
    assert (ran.code, ran.err) == (0, "")
    return dvfs.folder / "mnt"


@pytest.fixture
def mounted(dvfs: Program) -> Iterator[Path]:
    """Where p/d is mounted, with nothing fetched ahead."""
    yield mount_version(dvfs, "--prefetch", "none")
    assert dvfs("umount", "--all", "--lazy").code == 0


@contextmanager
def watching(dvfs: Program, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "dvfs", "stats", "mnt", "--watch", "--interval", "0.05", *words]
    with subprocess.Popen(
        command, cwd=dvfs.folder, env=dvfs.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(dvfs: Program, path: Path | str = "mnt") -> Any:
    return json.loads(dvfs.ok("stats", path, "--json"))


def test_a_page_says_what_was_read(dvfs: Program, mounted: Path) -> None:
    assert len((mounted / "text").read_bytes()) > 1 << 20
    page = dvfs.ok("stats", "mnt")
    assert re.match(rf"p/d@1\.0\.0 at {re.escape(str(mounted))}, mounted \d{{4}}-.* UTC\n", page)
    assert [line.split(":")[0].split()[0] for line in page.splitlines()[1:]] == [
        *["requests", "reads", "blocks", "bytes", "store", "waiting"], *CAUSES, *["prefetch", "cache", "daemon"],
    ]  # fmt: skip
    assert re.search(
        r"^reads: +\d+ of \d\.\d MiB, \d+ answered at once, [1-9]\d* waited: .* p50, .* at most$", page, re.M
    )
    assert re.search(r"^store: +[1-9]\d* requests? for .*; 0 tried again, 0 of them throttled$", page, re.M)
    assert re.search(r"^cache: .* of 1\.0 GiB; the version has 6\.3 MiB$", page, re.M)


def test_json_has_the_fields_that_are_documented(dvfs: Program, mounted: Path) -> None:
    (mounted / "text").read_bytes()
    found = told(dvfs, mounted / "text")
    assert (found["name"], found["version"], found["directory"]) == ("p/d", "1.0.0", str(mounted))
    names = set()
    for key, value in found.items():
        names |= {f"{key}.{name}" for name in value} if isinstance(value, dict) and key != "requests" else {key}
    for part in ("reads", "store"):
        names |= {f"latencies.{name}" for name in found[part]["latencies"]}
    documented = {span for row in table(section(STATS, "Fields")) for span in code_spans(row[0])}
    assert names == documented

    waits = found["waits"]
    assert sum(waits[f"{cause}_seconds"] for cause in CAUSES) == pytest.approx(waits["seconds"])
    assert waits["decompression_seconds"] > 0
    assert waits["network_seconds"] > 0
    latencies = found["store"]["latencies"]
    assert sum(bucket["count"] for bucket in latencies["buckets"]) == latencies["count"] == found["store"]["count"]
    assert latencies["p50_seconds"] <= latencies["p90_seconds"] <= latencies["p99_seconds"] <= latencies["max_seconds"]
    assert found["store"]["raw_bytes"] > found["store"]["bytes"]  # text is stored compressed


def test_watching_ends_with_the_mount(dvfs: Program, mounted: Path) -> None:
    with watching(dvfs) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{RATES}\n"
        (mounted / "noise").read_bytes()
        while not re.search(r" [1-9]\d*%  (network|disk|decompression|queue|other)$", process.stdout.readline()):
            assert process.poll() is None
        dvfs.ok("umount", "mnt")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert all(len(line.split()) in (7, 8) for line in out.splitlines())


def test_watching_ends_with_ctrl_c_and_json_is_a_line_each(dvfs: Program, mounted: Path) -> None:
    with watching(dvfs, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert set(first) == {span for row in table(section(STATS, "Watching")) for span in code_spans(row[0])}
        assert (first["reads_per_second"], first["at_once_percent"], first["cause"]) == (0, None, None)
        (mounted / "noise").read_bytes()
        while (line := json.loads(process.stdout.readline()))["read_bytes_per_second"] == 0:
            assert process.poll() is None
        assert line["fetched_bytes_per_second"] > 0
        assert 0 < line["waiting_percent"] <= 100
        assert line["cause"] in CAUSES
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")


def test_a_daemon_that_is_stopped_is_told_of(dvfs: Program, mounted: Path) -> None:
    pid = told(dvfs)["pid"]
    with watching(dvfs) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            ran = dvfs.process("why-slow", "mnt/never/looked/up", "--since-mount")
            assert (ran.code, ran.out) == (6, "")
            assert ran.err == "error: the mount does not answer within 5 s\nhint: its log says what it is at\n"
            _, err = process.communicate(timeout=60)
            assert process.returncode == 6
            assert err.startswith("error: the mount does not answer within 5 s\n")
            assert time.monotonic() - began < 30
        finally:
            os.kill(pid, signal.SIGCONT)
    assert told(dvfs)["pid"] == pid


def test_watching_ends_with_a_mount_that_goes_while_it_is_asked(dvfs: Program, mounted: Path) -> None:
    pid = told(dvfs)["pid"]
    with watching(dvfs) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.5)  # by then it has asked
        os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("command", ["stats", "why-slow"])
def test_what_is_no_mount_is_not_found(dvfs: Program, command: str) -> None:
    ran = dvfs(command, ".")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "error: . is in no mount of dvfs\nhint: `dvfs mounts` lists them\n"
    assert json.loads(dvfs(command, ".", "--json").err)["error"]["kind"] == "not_found"


def test_a_mount_whose_daemon_is_gone(dvfs: Program, mounted: Path) -> None:
    os.kill(told(dvfs)["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while "dead" not in dvfs.ok("mounts"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ran = dvfs("stats", "mnt")
    assert (ran.code, ran.err.splitlines()[0]) == (6, f"error: the daemon of {mounted} is gone")


def test_nothing_was_read_and_then_it_was(dvfs: Program, mounted: Path) -> None:
    ran = dvfs("why-slow", "mnt", "--seconds", "0.1")
    assert (ran.code, ran.err) == (0, "looking for 0.1 s\n")
    assert ran.out.startswith("nothing was read from the daemon; 0 requests of other kinds came\n  hint: ")
    (mounted / "text").read_bytes()
    told_since = dvfs("why-slow", "mnt", "--since-mount", "--json").json
    assert (told_since["name"], told_since["directory"]) == ("p/d", str(mounted))
    assert set(told_since["findings"][0]) == {"kind", "share", "text", "hint"}
    assert dvfs("why-slow", "mnt", "--since-mount", "--seconds", "1").code == 2


def test_a_slow_bucket_is_named(
    dvfs: Program, private_s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is held up while a file is read: why-slow says that it was the network."""
    for name, value in private_s3_server.environment().items():
        monkeypatch.setenv(name, value)
    dvfs.on(f"s3://{private_s3_server.bucket}/slow")
    try:
        mounted = mount_version(dvfs)
        (mounted / "noise").lstat()
        before = told(dvfs)
        private_s3_server.pause()
        with subprocess.Popen(["cat", mounted / "noise"], stdout=subprocess.DEVNULL) as reader:
            try:
                ran = dvfs("why-slow", "mnt", "--seconds", "1")
                found = told(dvfs)
            finally:
                private_s3_server.resume()
            assert reader.wait(60) == 0
        assert ran.code == 0
        assert ran.out.startswith("the store answered no request; "), ran.out
        assert found["waits"]["now"] > before["waits"]["now"] == 0
        assert found["waits"]["network_seconds"] - before["waits"]["network_seconds"] >= 0.9
        after = dvfs("why-slow", "mnt", "--since-mount").out
        assert re.match(r"\d+% of the waiting was for answers of the store: .* median a request, ", after), after
        assert "`dvfs warm`" in after
    finally:
        assert dvfs("umount", "--all", "--lazy").code == 0
