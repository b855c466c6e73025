"""The table of mounts: its files, and what it believes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dvfs.fs.busy import is_below, users_of
from dvfs.fs.mounts import Mount, Mounts, is_running, started_at, wait_gone


def noted(directory: Path, pid: int = 0, started: int = 0) -> Mount:
    return Mount(str(directory), "id", "p/n", "1.0.0", "digest", pid, started, "0:999", None, {"prefetch": "auto"})


def test_what_the_kernel_does_not_have_is_forgotten_once_its_daemon_is_gone(tmp_path: Path) -> None:
    table = Mounts(tmp_path)
    assert table.all() == []
    mine = noted(tmp_path / "a", os.getpid(), started_at(os.getpid()))
    table.add(mine)
    table.add(noted(tmp_path / "b", 2**22 + 1, 5))
    (tmp_path / "mounts" / "broken.json").write_text("{")
    assert len(list((tmp_path / "mounts").glob("*.json"))) == 3
    assert table.all() == []
    assert table.at(tmp_path / "a") is None
    assert len(list((tmp_path / "mounts").glob("*.json"))) == 2
    table.remove(noted(tmp_path / "a"))  # an older one at the same directory
    assert len(list((tmp_path / "mounts").glob("*.json"))) == 2
    table.remove(mine)
    assert [path.name for path in (tmp_path / "mounts").glob("*.json")] == ["broken.json"]


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    process = subprocess.Popen(["sleep", "100"])
    started = started_at(process.pid)
    assert is_running(process.pid, started)
    assert not is_running(process.pid, started + 1)
    assert not wait_gone(process.pid, started, 0.02)
    process.kill()
    assert wait_gone(process.pid, started)  # also while nobody has waited for it
    process.wait()
    assert started_at(process.pid) == 0


def test_a_process_is_there_while_its_threads_are() -> None:
    """The one that began it has ended; another still holds what is open."""
    script = "import ctypes, threading; threading.Thread(target=input).start(); ctypes.CDLL(None).pthread_exit(None)"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        started = started_at(process.pid)
        while b") Z " not in Path(f"/proc/{process.pid}/stat").read_bytes():
            assert process.poll() is None
        assert is_running(process.pid, started)
        process.kill()
        assert wait_gone(process.pid, started)


def test_users_of_a_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "de").mkdir()
    assert users_of(tmp_path / "d") == []
    one = subprocess.Popen(["sleep", "100"], cwd=tmp_path / "d" / "e")
    other = subprocess.Popen(["sleep", "100"], cwd=tmp_path / "de")
    try:
        found = users_of(tmp_path / "d")
        assert [(user.pid, user.name, user.path) for user in found] == [(one.pid, "sleep", str(tmp_path / "d" / "e"))]
    finally:
        for process in (one, other):
            process.kill()
            process.wait()


def test_below_is_by_component() -> None:
    assert is_below("/a/b", Path("/a"))
    assert is_below("/a", Path("/a"))
    assert is_below("/a", Path("/"))
    assert not is_below("/ab", Path("/a"))
