"""Room on the disk of an overlay that is kept free for its database, so that a full disk can be emptied.

A file that holds it is given up when the database needs the room, and made again when there is room again. Not
thread-safe.
"""

from __future__ import annotations

import os
from pathlib import Path

RESERVE_BYTES = 4 << 20


class Reserve:
    """The room that file *path* holds. Nothing is held until `hold`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_held = False
        self._is_wanted = False

    @property
    def is_missing(self) -> bool:
        """Whether the room should be held, and is not."""
        return self._is_wanted and not self._is_held

    def hold(self) -> bool:
        """Take the room, from now on after each `give_up` again; return whether it is held."""
        self._is_wanted = True
        if not self._is_held:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, RESERVE_BYTES)
                self._is_held = True
            except OSError:  # what was taken of it is in the way of what needs it
                os.ftruncate(file, 0)
            finally:
                os.close(file)
        return self._is_held

    def hold_again(self) -> bool:
        """Take the room if it should be held; return whether nothing is missing."""
        return not self._is_wanted or self.hold()

    def give_up(self) -> None:
        """Let the database have the room, what a killed process held as well."""
        try:
            os.truncate(self._path, 0)
        except FileNotFoundError:
            pass
        self._is_held = False
