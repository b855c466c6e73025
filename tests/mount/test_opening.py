"""Opening files costs no message where the shim is at work, and works without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.mount.conftest import ROOT, Mounted, Mounter
from tests.store_kit import tree_of

Odd = Callable[..., Mounted]


def _open_many(mounted: Mounted) -> None:
    for _ in range(5):
        for path in sorted((mounted.directory / "many").iterdir()):
            path.read_bytes()


def test_one_open_and_one_opendir_are_sent_with_the_shim(odd: Odd) -> None:
    mounted = odd()
    _open_many(mounted)
    asked = mounted.requests()
    assert (asked["open"], asked["opendir"]) == (1, 1)
    assert "release" not in asked
    assert "releasedir" not in asked


def test_every_open_is_sent_without_it(odd: Odd) -> None:
    mounted = odd(zero_open=False)
    _open_many(mounted)
    asked = mounted.requests()
    assert (asked["open"], asked["opendir"]) == (1500, 5)


def test_not_every_request_is_waited_for_on_the_event_loop(odd: Odd) -> None:
    mounted = odd()
    for number in range(2000):
        assert not (mounted.directory / f"missing {number}").exists()
    asked = mounted.requests()
    waits = int(mounted.log_lines("INFO dvfs.fs.serve: waits for requests:")[-1].rpartition(" ")[2])
    assert 0 < waits < asked["lookup"]


def test_whether_files_are_terminals_is_answered_without_the_event_loop(odd: Odd) -> None:
    """Only the first few such questions wake it; what needs Python comes through meanwhile, and the mount ends."""
    mounted = odd()
    rounds, paths = 3, sorted((mounted.directory / "many").iterdir())[:100]
    for number in range(rounds):
        assert not (mounted.directory / f"missing {number}").exists()
        for path in paths:
            with path.open("rb", buffering=0) as file:
                assert not file.isatty()
            time.sleep(0.001)  # as a program that does something with the file: longer than the shim waits otherwise
    asked = mounted.requests()
    assert asked["lookup"] >= rounds

    def counted(what: str) -> int:
        return int(mounted.log_lines(f"INFO dvfs.fs.serve: {what}:")[-1].rpartition(" ")[2])

    assert counted("requests answered by the shim") >= rounds * len(paths)
    assert counted("watches for requests") >= rounds
    assert counted("waits for requests") + counted("watches for requests") < rounds * len(paths) / 3


def test_a_machine_without_the_shim(mounter: Mounter, odd_tree: Path, tmp_path: Path) -> None:
    """The package as it is where no compiler was: its opens are plain."""
    package = tmp_path / "package" / "dvfs"
    shutil.copytree(ROOT / "dvfs", package, symlinks=False, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "package" / "tests").symlink_to(ROOT / "tests")
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(1); sys.argv.pop(1)\n"
    program += "import runpy; runpy.run_module('tests.mount.daemon', run_name='__main__')"
    mounter.command = (sys.executable, "-P", "-c", program, os.fspath(package.parent))
    mounted = mounter(mounter.make(odd_tree))
    assert tree_of(mounted.directory) == tree_of(odd_tree)
    assert any("the shim is not built" in line for line in mounted.log_lines("INFO"))
    assert mounted.requests()["open"] > 1


def test_the_shim_comes_too_late_once_pyfuse3_is_there() -> None:
    program = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "import pyfuse3\n"
        "from dvfs.fs.zeroopen import load\n"
        "print(load())"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "opening files costs messages: pyfuse3 was imported before the shim\nNone\n"


def test_the_shim_is_at_work_only_with_a_session() -> None:
    program = "from dvfs.fs.zeroopen import load; shim = load(); import pyfuse3; print(shim.is_at_work)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
