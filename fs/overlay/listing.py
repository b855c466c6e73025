"""What overlays there are, and what is in them: found out without a lock, and without changing anything.

So it is what was true a moment ago. Of one that is in use, edits of the last moments count also where they came to
nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dvfs.fs.mounts import Mount
from dvfs.fs.overlay.home import STASH, About, Overlays
from dvfs.fs.overlay.log import has_records
from dvfs.fs.overlay.rows import DATABASE, LOG
from dvfs.fs.overlay.schema import EDITED, get_meta

_BLOCK_BYTES = 512
_ROWS = "SELECT " + " OR ".join(
    f"EXISTS (SELECT 1 FROM {table} WHERE layer > ?1)" for table in ("dentries", "xattrs", "inodes")
)


class Use(Enum):
    """Who has an overlay: a mount that is served, some other command, nobody any more, nobody."""

    MOUNTED = "mounted"
    BUSY = "busy"
    DEAD = "dead"
    UNMOUNTED = "unmounted"


@dataclass(frozen=True, slots=True)
class Listed:
    """An overlay. *disk_bytes*: that it takes. *child*: id of the version that was committed from it last, "" for none.

    *directory*: where it is mounted, None when it is not. *has_edits*, *has_stash*, *has_begun* (a commit that is not
    done): None where its database cannot be read.
    """

    name: str
    about: About
    disk_bytes: int
    use: Use
    directory: str | None
    child: str | None
    has_edits: bool | None
    has_stash: bool | None
    has_begun: bool | None


def listed(overlays: Overlays, mounts: Iterable[Mount]) -> list[Listed]:
    """Return all *overlays*, by name; *mounts*: those that there are. Raises Corrupt."""
    mounted = {mount.overlay: mount for mount in mounts if mount.overlay}
    return [_listed(name, overlays.about(name), overlays.path(name), mounted.get(name)) for name in overlays.names()]


def holds_any(folder: Path) -> bool:
    """Tell whether the overlay in *folder* holds edits, a stash or a commit that was begun, or cannot be read."""
    found = _peek(folder)
    return found is None or found.has_edits or found.has_stash or found.has_begun


def _listed(name: str, about: About, folder: Path, mount: Mount | None) -> Listed:
    is_locked = _is_locked(folder / "lock")
    found = _peek(folder)
    if is_locked:
        use = Use.MOUNTED if mount is not None and mount.is_served else Use.BUSY
    else:
        use = Use.DEAD if mount is not None or (found is not None and not found.is_clean) else Use.UNMOUNTED
    return Listed(
        name,
        about,
        _disk_bytes(folder),
        use,
        None if mount is None else mount.directory,
        None if found is None else found.child,
        None if found is None else found.has_edits,
        None if found is None else found.has_stash,
        None if found is None else found.has_begun,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    is_clean: bool
    child: str
    has_edits: bool
    has_stash: bool
    has_begun: bool


def _peek(folder: Path) -> _Found | None:
    path = folder / DATABASE
    # Where nobody has it open all is in one file: SQLite would make others to read it, unless told that it stays so.
    stays = "" if path.with_name(DATABASE + "-wal").exists() else "&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{stays}", uri=True)) as connection:
            committed = get_meta(connection, "committed") or 0
            is_more = has_records(folder / LOG, get_meta(connection, "serial") or 0)
            return _Found(
                is_clean=get_meta(connection, "clean") == 1 and not is_more,
                child=get_meta(connection, "child") or "",
                has_edits=is_more
                or (get_meta(connection, EDITED) != 0 and bool(connection.execute(_ROWS, (committed,)).fetchone()[0])),
                has_stash=bool(get_meta(connection, "stash")) and (folder / STASH).exists(),
                has_begun=bool(get_meta(connection, "frozen")),
            )
    except sqlite3.Error:
        return None


def _disk_bytes(folder: Path) -> int:
    seen: dict[tuple[int, int], int] = {}
    for top, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            try:
                found = os.lstat(os.path.join(top, name))
            except FileNotFoundError:
                continue
            seen[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK_BYTES
    return sum(seen.values())


def _is_locked(path: Path) -> bool:
    """Tell whether a process has a lock on *path*: asking for it oneself would keep others from getting it."""
    try:
        found = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any(inode == found.st_ino and (pid <= 0 or _has_open(pid, found)) for pid, inode in _locks(lines))


def _locks(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield the process, 0 for one that cannot be seen, and the inode of each lock of a whole file."""
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK":
            yield int(words[4]), int(words[5].rpartition(":")[2])


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    """Tell whether process *pid* has the file open: inode numbers are of one file system, and not told which."""
    folder = f"/proc/{pid}/fd"
    try:
        handles = os.listdir(folder)
    except OSError:
        return True
    for handle in handles:
        try:
            found = os.stat(f"{folder}/{handle}")
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False
