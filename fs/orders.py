"""What a daemon does when somebody hands in the order in which files will be read.

The order comes as a file of inode numbers (unsigned, 8 bytes each, in the machine's byte order) in the folder of the
control socket: stat(2) tells them, and no path has to be looked up again.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvfs.fs.control import Control
from dvfs.store.errors import InvalidInput

if TYPE_CHECKING:
    from dvfs.fs.control_server import Handler
    from dvfs.fs.prefetch import Prefetcher
    from dvfs.fs.threads import Threads

_PREFIX = "order-"


class Orders:
    """Takes orders for *prefetcher* from files in *folder*."""

    def __init__(self, folder: Path, prefetcher: Prefetcher, threads: Threads) -> None:
        self._folder = folder
        self._prefetcher = prefetcher
        self._threads = threads

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each request."""
        return {"follow": self.follow}

    async def follow(self, file: str) -> dict[str, Any]:
        """Follow the order in *file*, which goes; answer with its number of files."""
        return {"files": await self._threads.run(self._threads.chores, lambda: self._follow(file))}

    def _follow(self, file: str) -> int:
        if not file.startswith(_PREFIX) or "/" in file:
            raise InvalidInput(f"{file!r} is no order")
        path = self._folder / file
        inodes = array("Q")
        try:
            inodes.frombytes(path.read_bytes())
        except (OSError, ValueError) as exc:
            raise InvalidInput(f"the order cannot be read: {exc}") from exc
        finally:
            path.unlink(missing_ok=True)
        try:
            self._prefetcher.follow(array("Q", [inode - 1 for inode in inodes]))
        except (IndexError, OverflowError) as exc:
            raise InvalidInput(f"the order names a file that the version does not have: {exc}") from exc
        return len(inodes)


def inodes_of(paths: Iterable[str | bytes | os.PathLike[str]], device: int) -> array[int]:
    """Return the inode numbers of *paths*, 0 for those that are not there or not on *device* (st_dev)."""
    found = array("Q")
    for path in paths:
        try:
            told = os.stat(path)
            found.append(told.st_ino if told.st_dev == device else 0)
        except OSError:
            found.append(0)
    return found


def hand_in(folder: Path, inodes: Sequence[int]) -> int:
    """Hand the order *inodes* to the mount whose control socket is in *folder*; return how many files it has.

    Raises Unavailable when it does not answer, InvalidInput when it does not take it.
    """
    control = Control(folder)
    try:
        name = f"{_PREFIX}{os.getpid()}-{os.urandom(8).hex()}"
        path = folder / name
        try:
            path.write_bytes(array("Q", inodes).tobytes())
            return int(control.call("follow", file=name)["files"])
        finally:
            path.unlink(missing_ok=True)
    finally:
        control.close()
