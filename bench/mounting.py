"""dvfs by its command line: versions made, mounts made and taken away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.machine import remove_tree
from bench.programs import Failed, Programs, Ran, Usage, usage
from bench.trees import Tree

DVFS = (sys.executable, "-m", "dvfs")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount at *directory*; the command took *seconds*, the daemon is *pid*."""

    directory: Path
    seconds: float
    pid: int

    def usage(self) -> Usage:
        """Return what the daemon used so far."""
        return usage(self.pid)


class Dvfs:
    """The program dvfs with a store at *prefix* of *bucket*.

    Its state folder and caches are in *folder*, its mounts in *mounts*. Not thread-safe.
    """

    def __init__(self, programs: Programs, bucket: str, prefix: str, folder: Path, mounts: Path) -> None:
        self.prefix = prefix
        self._programs = programs
        self._numbers = count()
        self._folder = folder
        self._mounts = mounts
        self._variables = {
            "DVFS_STORE": f"s3://{bucket}/{prefix}",
            "DVFS_STATE_DIR": str(folder / "state"),
            "DVFS_CACHE_DIR": str(folder / "cache-of-writers"),
            "DVFS_CONFIG": str(folder / "no-such-config.toml"),
        }
        (folder / "state").mkdir(parents=True)

    def create(self, tree: Tree) -> tuple[str, dict[str, float]]:
        """Make a version of *tree* with create, add and close; return its id and the seconds of each command."""
        name = f"{tree.name}-{next(self._numbers)}"
        created = self.run("create", "--project", "bench", "--name", name, "-q")
        dataset = created.output.strip()
        added = self.run("add", "--id", dataset, "--files", str(tree.root))
        closed = self.run("close", "--id", dataset)
        return dataset, {"create": created.seconds, "add": added.seconds, "close": closed.seconds}

    def take_in(self, tree: Tree) -> tuple[str, float]:
        """Make a version of *tree* by one program, sync; return its id and the seconds."""
        name = f"{tree.name}-{next(self._numbers)}"
        ran = self.run("sync", "--json", "--project", "bench", "--name", name, "--folder", str(tree.root))
        return str(json.loads(ran.output)["id"]), ran.seconds

    def sync(self, folder: Path, parent: str) -> tuple[str, float]:
        """Make what differs in *folder* from version *parent* a new version; return its id and the seconds."""
        ran = self.run("sync", "--json", "--folder", str(folder), "--parents", parent)
        made: str | None = json.loads(ran.output)["id"]
        if made is None:
            raise Failed(f"nothing in {folder} differs from {parent}")
        return made, ran.seconds

    def sync_unchanged(self, folder: Path, parent: str) -> float:
        """Find that nothing in *folder* differs from version *parent*; return the seconds. Raises Failed."""
        ran = self.run("sync", "--json", "--folder", str(folder), "--parents", parent)
        if json.loads(ran.output)["id"] is not None:
            raise Failed(f"{folder} differs from {parent}")
        return ran.seconds

    def new_cache(self) -> Path:
        """Return a folder for a cache that is not there yet."""
        return self._folder / f"cache-{next(self._numbers)}"

    @contextmanager
    def mounted(
        self, dataset: str, cache: Path, *, overlay: str | None = None, options: Sequence[str] = ()
    ) -> Iterator[Mounted]:
        """Mount the version with *cache* and *options*, writable with *overlay*, then unmount it. Raises Failed."""
        directory = self._mounts / f"mount-{next(self._numbers)}"
        try:
            editing = () if overlay is None else ("--rw", "--overlay", overlay)
            ran = self.run("mount", "--json", *editing, *options, dataset, str(directory), cache=cache)
            yield Mounted(directory, ran.seconds, json.loads(ran.output)["pid"])
        finally:
            self._unmount(directory)

    def commit(self, directory: Path) -> float:
        """Make the edits of the mount at *directory* a version; return the seconds."""
        return self.run("commit", "-q", "-m", "edited", str(directory)).seconds

    def remove_overlay(self, name: str) -> None:
        """Remove the overlay *name*, which is not mounted, with the edits in it."""
        remove_tree(self._folder / "state" / "overlays" / name)

    def help_seconds(self) -> float:
        """Return how long `dvfs --help` takes."""
        return self._programs.seconds_of([*DVFS, "--help"])

    def run(self, *words: str, cache: Path | None = None) -> Ran:
        """Run `dvfs` with *words*. Raises Failed."""
        variables = self._variables if cache is None else self._variables | {"DVFS_CACHE_DIR": str(cache)}
        return self._programs.run([*DVFS, *words], variables)

    def run_and_weigh(self, *words: str, cache: Path) -> tuple[Ran, Usage]:
        """Do as `run`; also return what the program used."""
        file = self._folder / "used"
        command = [sys.executable, "-m", "bench.peak", str(file), *words]
        ran = self._programs.run(command, self._variables | {"DVFS_CACHE_DIR": str(cache)})
        return ran, Usage(**json.loads(file.read_text()))

    def python(self, module: str, *words: str) -> Ran:
        """Run *module* with the settings of these commands. Raises Failed."""
        return self._programs.run([sys.executable, "-m", module, *words], self._variables)

    def _unmount(self, directory: Path) -> None:
        if not directory.is_mount():
            return
        try:
            self.run("umount", str(directory))
        except Failed:
            # The benchmark leaves no mount behind, whatever dvfs says.
            subprocess.run(["fusermount3", "-u", "-z", str(directory)], check=False)
            raise
        directory.rmdir()
