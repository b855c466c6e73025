"""How a version is mounted: what the caller decides. Imports nothing heavy, so that a command line can make it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dvfs.fs.readahead import MAX_WINDOW_BYTES

LARGE_FILE_BYTES = 16 << 20
"""To read this much takes so long that the message by which such a file is opened does not matter."""
_CORES_A_WORKER = 8
_MOST_WORKERS = 4


def workers_for(cores: int) -> int:
    """Return how many processes should answer the requests of a mount on a machine with so many *cores*.

    The programs that read need most of them; see docs/design/concurrency.md.
    """
    return min(1 + cores // _CORES_A_WORKER, _MOST_WORKERS)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Where and how to mount.

    *directory*: made if it is not there. *state_dir*: where the mount is noted and logged. *uid*, *gid*: owner of all
    files; None is the user who mounts. *allow_other*: other users may look. *subdir*: the directory of the version that
    becomes the root of the mount. *prefetch*: `none`, `auto` or `all`. *read_ahead_bytes*: most bytes fetched ahead of
    a reader. *fuse_options*: passed to FUSE as they are. *zero_open*: open without messages where possible.
    *large_file_bytes*: files from here on are read by the kernel itself where it may; see `passthrough.py`.
    *writable*: edits go to an overlay, and one process answers. *workers*: how many processes answer requests.
    """

    directory: Path
    state_dir: Path
    uid: int | None = None
    gid: int | None = None
    allow_other: bool = False
    subdir: bytes = b""
    prefetch: str = "auto"
    read_ahead_bytes: int = MAX_WINDOW_BYTES
    fuse_options: tuple[str, ...] = ()
    zero_open: bool = True
    large_file_bytes: int = LARGE_FILE_BYTES
    writable: bool = False
    workers: int = 1

    @property
    def owner(self) -> int:
        """The user id that all files have."""
        return os.geteuid() if self.uid is None else self.uid

    @property
    def group(self) -> int:
        """The group id that all files have."""
        return os.getegid() if self.gid is None else self.gid
