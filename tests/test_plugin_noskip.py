"""On CI a skip is a failure; elsewhere it stays a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MODULE = """
import pytest

def test_that_runs():
    pass

def test_that_skips():
    pytest.skip("no fuse")

@pytest.mark.skip(reason="marked")
def test_that_is_marked():
    pass

@pytest.mark.xfail
def test_that_is_expected_to_fail():
    assert False
"""


def run(folder: Path, ci: str) -> tuple[int, str]:
    """Run the tests in *folder* with CI set to *ci*; return exit code and closing line."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.plugin_noskip", "--rootdir", folder, folder],
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()[-1].rpartition(" in ")[0]


@pytest.mark.parametrize(
    ("ci", "expected"),
    [("", (0, "1 passed, 2 skipped, 1 xfailed")), ("true", (1, "1 failed, 1 passed, 1 xfailed, 1 error"))],
)
def test_tests_that_skip(tmp_path: Path, ci: str, expected: tuple[int, str]) -> None:
    (tmp_path / "test_some.py").write_text(MODULE)
    assert run(tmp_path, ci) == expected


@pytest.mark.parametrize(("ci", "code"), [("", 5), ("true", 2)])
def test_modules_that_skip_themselves(tmp_path: Path, ci: str, code: int) -> None:
    (tmp_path / "test_some.py").write_text("import pytest\npytest.importorskip('there_is_no_such_module')\n")
    assert run(tmp_path, ci)[0] == code
