"""The contestants of the edits: a plain folder, fuse-overlayfs, a passthrough in C, and dvfs with an overlay.

Each gives an empty place to work in, new each time, in which the base file lies; afterwards nothing of it is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

from bench.daemons import Place, mounted_by
from bench.machine import ROOT, remove_tree
from bench.mounting import Dvfs
from bench.programs import Failed, Programs

_SOURCE = ROOT / "bench" / "passthrough.c"


class Contestant(Protocol):
    """Somewhere to edit."""

    @property
    def name(self) -> str:
        """As in the headings of the table."""

    @property
    def is_rival(self) -> bool:
        """Whether it is somebody else's: where it fails, its figure is left out, and the run goes on."""

    def place(self) -> AbstractContextManager[Place]:
        """Give a new place. Raises Failed."""


class Folder:
    """A plain folder in *folder*, with *base_file* linked into it: it is changed in place."""

    name = "native"
    is_rival = False

    def __init__(self, folder: Path, base_file: Path) -> None:
        self._folder = folder
        self._base_file = base_file
        self._numbers = count()

    @contextmanager
    def place(self) -> Iterator[Place]:
        directory = self._folder / f"{self.name}-{next(self._numbers)}"
        directory.mkdir()
        try:
            os.link(self._base_file, directory / self._base_file.name)
            yield Place(directory)
        finally:
            remove_tree(directory)


class Passthrough:
    """The *program* made of passthrough.c, over a plain folder."""

    name = "passthrough"
    is_rival = True

    def __init__(self, program: Path, below: Folder, mounts: Path) -> None:
        self._program = program
        self._below = below
        self._mounts = mounts

    @contextmanager
    def place(self) -> Iterator[Place]:
        with self._below.place() as below, mounted_by(self._mounts, self._program, below.directory) as place:
            yield place


class FuseOverlay:
    """fuse-overlayfs as Debian has it, with no options: *base* is the lower layer, the upper one is in *folder*."""

    name = "fuse-overlayfs"
    is_rival = True

    def __init__(self, folder: Path, base: Path, mounts: Path) -> None:
        self._folder = folder
        self._base = base
        self._mounts = mounts
        self._numbers = count()

    @contextmanager
    def place(self) -> Iterator[Place]:
        layers = self._folder / f"layers-{next(self._numbers)}"
        upper, work = layers / "upper", layers / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        options = f"lowerdir={self._base},upperdir={upper},workdir={work}"
        try:
            with mounted_by(self._mounts, "fuse-overlayfs", "-f", "-o", options) as place:
                yield place
        finally:
            remove_tree(layers)


class DvfsOverlay:
    """`dvfs mount --rw --overlay NAME` of the version *dataset*, with a *cache* that all places share."""

    name = "dvfs"
    is_rival = False

    def __init__(self, dvfs: Dvfs, dataset: str, cache: Path) -> None:
        self._dvfs = dvfs
        self._dataset = dataset
        self._cache = cache
        self._numbers = count()

    @contextmanager
    def place(self) -> Iterator[Place]:
        overlay = f"{self._dataset[:8]}-{next(self._numbers)}"
        try:
            with self._dvfs.mounted(self._dataset, self._cache, overlay=overlay) as mount:
                yield Place(mount.directory, mount.pid)
        finally:
            self._dvfs.remove_overlay(overlay)


def compile_passthrough(programs: Programs, folder: Path) -> Path:
    """Compile passthrough.c into *folder*; return the program. Raises Failed where that cannot be done."""
    program = folder / "passthrough"
    for needed in ("cc", "pkg-config"):
        if shutil.which(needed) is None:
            raise Failed(f"there is no {needed}")
    flags = programs.run(["pkg-config", "--cflags", "--libs", "fuse3"]).output.split()
    programs.run(["cc", "-O2", "-o", program, _SOURCE, *flags])
    return program
