"""The contestants of the race that download everything first: boto3, obstore, and DVC."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Protocol

from bench.programs import Programs
from bench.race.mounts import AT_ONCE, OBJECTS
from bench.race.rows import Taken
from bench.scale import MIB
from bench.session import expect
from bench.trees import Tree


class Download(Protocol):
    """A contestant that uploads a tree, and downloads it into a folder."""

    @property
    def name(self) -> str:
        """As in the headings of the table."""

    @property
    def program_files(self) -> tuple[Path, ...]:
        """What it is loaded from: its start is not what is measured cold."""

    def put(self, tree: Tree, name: str) -> float:
        """Upload *tree* as *name*; return the seconds. Raises Failed."""

    def get(self, tree: Tree, name: str, target: Path) -> float:
        """Download the files of *tree* from what was uploaded as *name* into *target*; return the seconds."""


class Objects:
    """Single objects below `objects/`, one a file, by the program *module* run with *python*.

    Its seconds count from the first request: without the start of the program.
    """

    program_files = ()

    def __init__(self, name: str, python: Path, module: str, programs: Programs, bucket: str) -> None:
        self.name = name
        self._command = (python, "-m", module)
        self._programs = programs
        self._bucket = bucket

    def put(self, tree: Tree, name: str) -> float:
        return self._many("upload", tree, name, tree.root)

    def get(self, tree: Tree, name: str, target: Path) -> float:
        return self._many("download", tree, name, target)

    def ranges(self, prefix: str, size: int) -> Taken:
        """Get the objects below *prefix* by ranges, in memory alone, until there are *size* bytes."""
        done = self._programs.read_by([*self._command, "ranges", self._bucket, prefix, "--bytes", str(size)])
        return Taken(done.seconds, done.files, done.bytes)

    def _many(self, mode: str, tree: Tree, name: str, root: Path) -> float:
        if len(tree.files) == 1:
            file = os.fsdecode(tree.files[0])
            root.mkdir(exist_ok=True)
            words: tuple[str | Path, ...] = (f"{mode}-file", root / file, self._bucket, f"{OBJECTS}/{name}/{file}")
        else:
            words = (mode, root, tree.list_file, self._bucket, f"{OBJECTS}/{name}")
        done = self._programs.read_by([*self._command, *words])
        expect(f"bytes of {name} by {self.name}", done.bytes, tree.bytes)
        return done.seconds


class Dvc:
    """DVC without Git, a repository for each tree, its remote in the bucket; `add`, `push`, and `pull` in a new clone.

    Its seconds are those of the programs, with their start. Its cache is linked into the working folder.
    """

    name = "DVC"

    def __init__(
        self, program: Path, programs: Programs, variables: Mapping[str, str], bucket: str, folder: Path
    ) -> None:
        folder.mkdir()
        self.program_files = (program,)
        self._program = program
        self._programs = programs
        self._of_store = variables
        self._bucket = bucket
        self._folder = folder
        self._numbers = count()
        self._variables = {
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(folder / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(folder / "system"),
        }

    def put(self, tree: Tree, name: str) -> float:
        return self.publish(self.prepare(tree, name))

    def prepare(self, tree: Tree, name: str) -> Path:
        """Make the repository *name* with a copy of *tree* in `data`; return it."""
        repository = self._folder / name
        repository.mkdir()
        self._run(repository, "init", "--no-scm")
        (repository / ".dvc" / "config").write_text(
            "[core]\n    no_scm = True\n    remote = race\n    check_update = false\n[cache]\n    type = hardlink\n"
            f"['remote \"race\"']\n    url = s3://{self._bucket}/dvc-{name}\n"
        )
        shutil.copytree(tree.root, repository / "data")
        os.sync()
        return repository

    def publish(self, repository: Path) -> float:
        """Add what `data` of *repository* holds and push it; return the seconds."""
        self._point(repository)
        return sum(self._run(repository, *words) for words in (("add", "data"), ("push", "-j", AT_ONCE)))

    def get(self, tree: Tree, name: str, target: Path) -> float:
        clone = target / "repository"
        clone.mkdir(parents=True)
        shutil.copytree(self._folder / name / ".dvc", clone / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        shutil.copyfile(self._folder / name / "data.dvc", clone / "data.dvc")
        self._point(clone)
        seconds = self._run(clone, "pull", "-j", AT_ONCE)
        for child in (clone / "data").iterdir():
            child.rename(target / child.name)
        return seconds

    def unlink(self, repository: Path, path: str) -> None:
        """Make the file *path* of `data` one that may be written: what DVC has is linked and read-only."""
        file = repository / "data" / path
        own = file.with_name(file.name + ".own")
        with file.open("rb") as linked, own.open("xb") as copied:
            shutil.copyfileobj(linked, copied, MIB)
        own.replace(file)

    def _run(self, repository: Path, *words: str) -> float:
        return self._programs.run([self._program, *words], self._variables, repository).seconds

    def _point(self, repository: Path) -> None:
        """Have *repository* reach the server where it is now."""
        url = self._of_store["AWS_ENDPOINT_URL"]
        (repository / ".dvc" / "config.local").write_text(f"['remote \"race\"']\n    endpointurl = {url}\n")


def boto3_objects(programs: Programs, bucket: str) -> Objects:
    """Return boto3, with 16 threads."""
    return Objects("boto3", Path(sys.executable), "bench.objects", programs, bucket)


def obstore_objects(python: Path, programs: Programs, bucket: str) -> Objects:
    """Return obstore, which *python* can import, with 16 threads."""
    return Objects("obstore", python, "bench.race.obstore_objects", programs, bucket)
