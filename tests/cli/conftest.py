"""The program to run, with all that it keeps in a temporary folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dvfs.cli.main import run

Word = str | bytes | os.PathLike[str]

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended: its exit *code*, what it wrote to *out* and *err*."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it wrote, read as one JSON document."""
        return json.loads(self.out)


@dataclass(slots=True)
class Program:
    """Runs `dvfs` in *folder*, with *environ* as all of its environment."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: Word, environ: Mapping[str, str] | None = None) -> Ran:
        """Run `dvfs` with *words* inside this process, which is quick; *environ* is added to the environment."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ:
                patch.delenv(name)
            for name, value in (self.environ | dict(environ or {})).items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            arguments = [os.fsdecode(word) for word in words]
            patch.setattr(sys, "argv", ["dvfs", *arguments])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(arguments)
        return Ran(code, out.getvalue(), err.getvalue())

    def on(self, store_url: str) -> Program:
        """Let the program use the store at *store_url*, as this process reaches its cloud; return the program."""
        clouds = ("AWS_", "AZURE_", "CLOUDSDK_", "NO_GCE_CHECK", "STORAGE_")
        self.environ |= {name: value for name, value in os.environ.items() if name.startswith(clouds)}
        self.environ["DVFS_STORE"] = store_url
        return self

    def process(self, *words: Word, environ: Mapping[str, str] | None = None) -> Ran:
        """Run `dvfs` with *words* in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "dvfs", *words],
            cwd=self.folder,
            env=self.environ | dict(environ or {}),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *words: Word, environ: Mapping[str, str] | None = None) -> str:
        """Run `dvfs` with *words*, which must end well without a word on stderr; return what it wrote."""
        ran = self(*words, environ=environ)
        assert (ran.code, ran.err) == (0, "")
        return ran.out


def program(tmp_path: Path) -> Program:
    """Return the program on an empty folder store, all in *tmp_path*."""
    work = tmp_path / "work"
    work.mkdir()
    return Program(
        work,
        {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "DVFS_STORE": str(tmp_path / "store"),
            "DVFS_STATE_DIR": str(tmp_path / "state"),
            "DVFS_CACHE_DIR": str(tmp_path / "cache"),
            "DVFS_CACHE_SIZE": "1GiB",
            "DVFS_CONFIG": str(tmp_path / "config.toml"),
        },
    )


@pytest.fixture
def dvfs(tmp_path: Path) -> Program:
    """The program, on an empty folder store."""
    return program(tmp_path)


@pytest.fixture
def dvfs_anywhere(dvfs: Program, store_url: str) -> Program:
    """The program on an empty store, of each kind."""
    return dvfs.on(store_url)


@pytest.fixture
def dvfs_cloud(dvfs: Program, cloud_url: str) -> Program:
    """The program on an empty store in Google Cloud Storage and in Azure."""
    return dvfs.on(cloud_url)


@pytest.fixture
def source(dvfs: Program) -> Path:
    """A small tree with odd things, in the working directory: `source`."""
    return tree(dvfs.folder / "source")


def tree(root: Path) -> Path:
    """Make a small tree with odd things in *root*; return it."""
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"alpha\n")
    (root / "sub" / "b.txt").write_bytes(b"beta\n" * 100)
    (root / "sub" / "link").symlink_to("../a.txt")
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    return root
