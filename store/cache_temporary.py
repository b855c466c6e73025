"""Temporary files of the cache: what is being written has such a name until it is complete.

Each is named after the session of its process, so that what a dead process left can be told from what a live one is
writing. Thread-safe.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from dvfs.store.cache_locks import Sessions
from dvfs.store.ext4 import spread_folders_in

_SHARDS = 16


class TemporaryFiles:
    """The files under `tmp/` of the cache folder *root*."""

    def __init__(self, root: Path, sessions: Sessions) -> None:
        self._folder = os.fspath(root / "tmp")
        self._sessions = sessions
        self._numbers = itertools.count()

    def begin(self) -> None:
        """See that this process is known to write, so that what it leaves is found if it dies. Raises OSError."""
        self._sessions.current()

    def new_path(self) -> str:
        """Return a name that no other file has, in a folder that may not be there. Raises OSError."""
        number = next(self._numbers)
        return f"{self._folder}/{number % _SHARDS:x}/{self._sessions.current()}-{number:x}"

    def make_folder(self, path: str) -> None:
        """Make the folder that *path*, a new one, is in. Raises OSError."""
        os.makedirs(self._folder, exist_ok=True)
        spread_folders_in(self._folder)
        os.makedirs(os.path.dirname(path), exist_ok=True)

    def create(self) -> tuple[str, int]:
        """Make a new file; return its path and a descriptor to write and read it. Raises OSError."""
        path = self.new_path()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return path, os.open(path, flags, 0o666)
        except FileNotFoundError:
            self.make_folder(path)
            return path, os.open(path, flags, 0o666)

    def remove_strays(self) -> int:
        """Remove the temporary files of dead processes; return how many. Raises OSError."""
        removed = 0
        alive: dict[str, bool] = {}
        for shard in range(_SHARDS):
            folder = f"{self._folder}/{shard:x}"
            try:
                names = os.listdir(folder)
            except FileNotFoundError:
                continue
            for name in names:
                session = name.partition("-")[0]
                if session not in alive:
                    alive[session] = self._sessions.is_alive(session)
                if not alive[session]:
                    removed += unlinked(f"{folder}/{name}")
        return removed


def unlinked(path: str) -> bool:
    """Remove the file *path*; return whether that was done. Raises nothing."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
