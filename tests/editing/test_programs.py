"""Whole programs at work in a mount: version control, an installer, a database, a checker of disks."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pip as pip_of_tests
import pytest

from tests.editing.conftest import Pair, kept, look
from tests.mount.conftest import Mounter

REPOSITORY = """
git init -q -b main origin
cd origin
for i in $(seq 30); do mkdir -p d$((i % 4)); seq $i 300 > d$((i % 4))/f$i; done
ln -s d1/f1 link
git add .
git commit -qm one
seq 1000 > d1/f1
git rm -qr d2
git commit -qam two
"""


def test_git(pair: Callable[..., Pair]) -> None:
    edits = pair(REPOSITORY, but=(b"index",))
    edits.run(
        """
        git clone -q origin clone
        cd clone
        git config gc.autoDetach false
        git config pack.threads 1
        git checkout -q -b side HEAD~1
        for i in 5 9 13; do echo changed >> d1/f$i; done
        git commit -qam three
        git merge -q -m merged main
        git mv d1 moved
        git stash -q
        git stash pop -q
        git commit -qam four
        git gc -q
        git fsck --full --strict
        git push -q origin side
        git log --format=%H%d
        git status --porcelain
        """
    )
    edits.run(
        "cd origin; git config pack.threads 1; git repack -adq; git fsck; git reset -q --hard side;"
        " git worktree add -q ../tree HEAD~1"
    )
    edits.check()
    edits.run("git -C clone fsck; git -C clone status --porcelain; git -C tree rev-parse HEAD")


def _wheel(folder: Path) -> Path:
    """Make a wheel with a module and a script that runs it."""
    files = {
        "tiny/__init__.py": "def main():\n    print('tiny runs')\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
    }
    rows = [
        f"{name},sha256={urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for name, text in files.items()
    ]
    files["tiny-1.0.dist-info/RECORD"] = "".join(rows) + "tiny-1.0.dist-info/RECORD,,\n"
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name), text)
    return path


def test_pip_installs_into_a_venv_that_runs(pair: Callable[..., Pair], tmp_path: Path) -> None:
    wheel = _wheel(tmp_path)
    pip = os.path.dirname(pip_of_tests.__file__)
    edits = pair(f"{sys.executable} -m venv --without-pip env", but=(b"RECORD",))
    edits.run(
        f"env/bin/python {pip} install -q --no-index --no-compile --no-cache-dir --disable-pip-version-check"
        f" --root-user-action ignore {wheel}; env/bin/tiny",
        PYTHONDONTWRITEBYTECODE="1",
    )
    edits.check()
    edits.run("env/bin/tiny; env/bin/python -c 'import tiny; print(tiny.__file__)'", PYTHONDONTWRITEBYTECODE="1")


_WRITER = """
import sqlite3, sys
mode, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = sqlite3.connect("rows.db", timeout=60, isolation_level=None)
assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
for number in range(count):
    database.execute("BEGIN IMMEDIATE")
    (before,) = database.execute("SELECT count(*) FROM made").fetchone()
    database.execute("INSERT INTO made VALUES (?, ?, ?)", (name, number, before))
    database.execute("UPDATE total SET value = value + 1")
    database.execute("ROLLBACK" if number % 5 == 4 else "COMMIT")
database.close()
"""
_SCHEMA = """
import sqlite3
database = sqlite3.connect("rows.db")
database.executescript("CREATE TABLE made (name, number, before); CREATE TABLE total (value); CREATE INDEX i ON made"
    " (number); INSERT INTO total VALUES (0)")
database.close()
"""
_WRITERS, _ROWS = 3, 10


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_with_several_writers(pair: Callable[..., Pair], mode: str) -> None:
    edits = pair(f"{sys.executable} -c '{_SCHEMA}'", but=(b"rows.db", b"rows.db-wal", b"rows.db-shm"))

    def edit(folder: Path) -> object:
        words = [sys.executable, "-c", _WRITER, mode]
        writers = [subprocess.Popen([*words, str(name), str(_ROWS)], cwd=folder) for name in range(_WRITERS)]
        assert [writer.wait(100) for writer in writers] == [0] * _WRITERS
        return _rows(folder)

    edits.each(edit)
    edits.check()
    edits.each(_rows)


def _rows(folder: Path) -> object:
    database = sqlite3.connect(folder / "rows.db")
    found = [
        database.execute(query).fetchall()
        for query in (
            "PRAGMA integrity_check",
            "SELECT name, number FROM made ORDER BY name, number",
            "SELECT before FROM made ORDER BY before",
            "SELECT value FROM total",
        )
    ]
    database.close()
    assert found[2] == [(before,) for before in range(_WRITERS * _ROWS * 4 // 5)]
    assert found[3] == [(_WRITERS * _ROWS * 4 // 5,)]
    return found


_JOBS = {
    "psync": ["--bsrange=512-40k", "--fsync=16", "--numjobs=2"],
    "mmap": ["--bsrange=4k-40k", "--blockalign=4k"],
    "sync": ["--bsrange=4k-40k", "--blockalign=4k", "--direct=1"],
}
"""Of each engine of fio that writes, how it does."""


def test_fio_reads_what_it_wrote(mounter: Mounter) -> None:
    source = mounter.folder / "source"
    source.mkdir()
    for engine in _JOBS:
        for number in range(2):
            (source / f"base-{engine}.{number}.0").write_bytes(bytes(range(256)) * (1 << 12))
    made = mounter.make(source)
    mounted = mounter.rw(made)
    _fio(mounted.directory)
    before = look(mounted.directory)
    mounted.umount()
    mounted = mounter.rw(made)
    assert kept(look(mounted.directory)) == kept(before)
    _fio(mounted.directory, "--verify_only=1")


def _fio(folder: Path, *further: str) -> None:
    """Have each engine write to a file of the version and to a new one, and read that back."""
    words = [
        "fio", "--size=1m", "--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
        "--randrepeat=1", "--fallocate=truncate", f"--directory={folder}", *further,
    ]  # fmt: skip
    for name in ("base", "new"):
        for engine, how in _JOBS.items():
            words += [f"--name={name}-{engine}", f"--ioengine={engine}", *how]
    ran = subprocess.run(words, cwd=folder.parent, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
