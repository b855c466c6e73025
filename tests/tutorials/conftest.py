"""Tutorials of ClearML Data, run with dvfs in the place of `clearml-data` and of the package `clearml`.

Commands keep their words but for the name of the program; code keeps its lines but for the import, and those that begin
a task.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dvfs import Dataset
from tests.python.conftest import settings

ROOT = Path(__file__).resolve().parent.parent.parent

_IMPORT = re.compile(r"^from clearml import .*$", re.MULTILINE)
_TASK = re.compile(r"^task = Task\.init\(.*\)$", re.MULTILINE)


@dataclass
class Reader:
    """Somebody who follows a tutorial in *folder*; *names* is what the code has defined so far."""

    folder: Path
    environ: dict[str, str]
    names: dict[str, object] = field(default_factory=dict)

    def types(self, commands: str) -> str:
        """Type *commands* into a shell; return what they print."""
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def runs(self, code: str) -> dict[str, object]:
        """Run *code*, which uses the package `clearml`; return what it and the code before defined."""
        translated = _TASK.sub("", _IMPORT.sub("from dvfs import Dataset", code))
        assert "clearml" not in translated
        assert "Task" not in translated
        exec(compile(translated, "tutorial", "exec"), self.names)
        return self.names


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Somebody with an empty folder and an empty store."""
    for name, value in settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("home", "work", "bin"):
        (tmp_path / name).mkdir()
    script = tmp_path / "bin" / "clearml-data"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dvfs "$@"\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path / "work")
    environ = {"PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **settings(tmp_path)}
    yield Reader(tmp_path / "work", environ)
    Dataset.surroundings.stores.close()
