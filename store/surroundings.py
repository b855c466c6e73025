"""What the public `Dataset` needs from the program around it: settings, the run, progress, mounts.

`store/` reads no environment, prints nothing and mounts nothing; who imports `dvfs.Dataset` gets all that from
`dvfs.surroundings`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from dvfs.store.opened import Stores, StoreSettings
from dvfs.store.record import Origin
from dvfs.store.upload import Progress

Local = str | os.PathLike[str]
"""A local path."""


class Surroundings(Protocol):
    """The program that uses datasets. Thread-safe."""

    @property
    def stores(self) -> Stores:
        """The stores that it has opened."""
        ...

    def settings(self, store: Local | None) -> StoreSettings:
        """Return the settings for *store*, a path or URL, or for the store that the program works on."""
        ...

    def local(self, path: Local) -> Path:
        """Return the local *path* as the user means it."""
        ...

    def creator(self) -> str:
        """Return the name of the user."""
        ...

    def origin(self) -> Origin:
        """Return where the program makes versions."""
        ...

    def note(self, settings: StoreSettings, version: str, did: str) -> None:
        """Note in the store of *settings* that this run *did* something with *version*, once; see `dvfs.store.runs`.

        Returns at once; what goes wrong is logged.
        """
        ...

    def run_name(self) -> str:
        """Return what the program is called: the name of a dataset that nobody named."""
        ...

    def progress(self, *, is_shown: bool, verbose: bool) -> AbstractContextManager[Progress]:
        """Return what shows how work goes on: a bar where somebody sees it, and if *verbose* each path."""
        ...

    def teller(self, verbose: bool) -> Callable[[bytes], None] | None:
        """Return what tells each path that it is called with, None unless *verbose*."""
        ...

    def mount(self, settings: StoreSettings, dataset_id: str, directory: Path, *, writable: bool) -> bool:
        """Mount a finished version at *directory*, or leave it where it is mounted there already.

        *writable*: it takes edits. Returns False where this machine cannot mount. Raises WrongState when the directory
        is used otherwise, and as opening the version.
        """
        ...
