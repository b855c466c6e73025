"""What is around a Python program that uses `dvfs.Dataset`: its settings, its run, its terminal, mounts.

Settings are those of the command line, read anew at each use. A mount is made by the program `dvfs` in a process of its
own: a daemon must not be forked off a process with threads.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from dvfs.cli.config import KEYS, Config
from dvfs.cli.origin import creator, origin
from dvfs.cli.output import shown
from dvfs.cli.progress import drawn
from dvfs.cli.provenance import Notes
from dvfs.store.errors import DvfsError, Internal, WrongState, error_from
from dvfs.store.opened import Stores, StoreSettings
from dvfs.store.record import Origin
from dvfs.store.surroundings import Local
from dvfs.store.upload import Progress


class ThisProgram:
    """The program that runs; see `dvfs.store.surroundings.Surroundings`."""

    def __init__(self) -> None:
        self.stores = Stores()
        self._noted: set[tuple[str, str, str]] = set()
        self._notes = Notes(sys.argv)

    def settings(self, store: Local | None) -> StoreSettings:
        from dvfs.store.url import parse_url

        config = Config(os.environ, {"store": None if store is None else os.fspath(store)})
        config.check()
        return StoreSettings(
            url=str(parse_url(config.store_url)),
            state_dir=config.state_dir,
            cache_dir=config.cache_dir,
            cache_bytes=config.cache_bytes,
            options=config.backend_options(),
            retry=config.retry_policy(),
            file_folders=config.file_folders,
        )

    def local(self, path: Local) -> Path:
        return Path(path).expanduser()

    def creator(self) -> str:
        return creator()

    def origin(self) -> Origin:
        return origin(sys.argv)

    def note(self, settings: StoreSettings, version: str, did: str) -> None:
        key = (settings.url, version, did)
        if key in self._noted:
            return
        self._noted.add(key)  # a child of this process is part of the same run, and tells nothing again
        config = Config(os.environ, {})
        if not config.has_provenance:
            return
        backend = self.stores.open(settings).backend
        atexit.unregister(self._notes.wait)
        atexit.register(self._notes.wait)  # after the stores were opened, so that they are closed after it
        self._notes.note(backend, version, did, config.folder)

    def wait_for_notes(self) -> None:
        """Wait a moment until what was noted is written, as the end of the program does."""
        self._notes.wait()

    def run_name(self) -> str:
        name = Path(sys.argv[0]).stem.strip() if sys.argv else ""
        return name if name and not name.startswith("-") else "python"

    def progress(self, *, is_shown: bool, verbose: bool) -> AbstractContextManager[Progress]:
        return drawn(is_shown=is_shown and sys.stderr.isatty(), verbose=verbose)

    def teller(self, verbose: bool) -> Callable[[bytes], None] | None:
        return (lambda path: print(shown(path), file=sys.stderr)) if verbose else None

    def mount(self, settings: StoreSettings, dataset_id: str, directory: Path, *, writable: bool) -> bool:
        from dvfs.fs.mountpoint import check_machine

        try:
            check_machine(allow_other=False)
        except WrongState:
            return False
        if _is_mounted(settings, dataset_id, directory, writable):
            return True
        try:
            _mount(settings, dataset_id, directory, writable)
        except WrongState:
            if not _is_mounted(settings, dataset_id, directory, writable):  # by another process, meanwhile
                raise
        return True


THIS_PROGRAM = ThisProgram()
"""What `dvfs.Dataset` and `dvfs.fsspec` share."""


def _is_mounted(settings: StoreSettings, dataset_id: str, directory: Path, writable: bool) -> bool:
    from dvfs.fs.mounts import Mounts

    there = Mounts(settings.state_dir).at(directory)
    return there is not None and there.is_served and (there.id, bool(there.overlay)) == (dataset_id, writable)


def _mount(settings: StoreSettings, dataset_id: str, directory: Path, writable: bool) -> None:
    words = ["--store", settings.url, "mount", dataset_id, os.fspath(directory), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "dvfs", *words, *(["--rw"] if writable else [])],
        env=os.environ | _environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise _error_of(done.stderr, directory)


def _error_of(said: bytes, directory: Path) -> DvfsError:
    for line in said.splitlines():
        try:
            error = json.loads(line)["error"]
            return error_from({"hint": None, **error})
        except (ValueError, TypeError, KeyError):
            continue
    text = said.decode(errors="backslashreplace").strip()
    return Internal(f"{directory} could not be mounted: {text or 'the program dvfs said nothing'}")


def _environment(settings: StoreSettings) -> dict[str, str]:
    """Return the variables by which another process of the program has these *settings*."""
    values: dict[str, object] = {
        "cache_dir": settings.cache_dir,
        "cache_size": settings.cache_bytes,
        "file_links": os.pathsep.join(map(str, settings.file_folders)) or None,
        "retry_deadline": None if settings.retry is None else settings.retry.deadline_seconds,
    }
    for key in KEYS:
        kind, _, name = key.name.rpartition(".")
        if settings.options is not None and kind:
            values[key.name] = getattr(getattr(settings.options, kind), name)
    told = {key.env: str(values[key.name]) for key in KEYS if values.get(key.name) is not None}
    return told | {"DVFS_STATE_DIR": str(settings.state_dir)}
