"""Who keeps a mount busy: processes with files open in it, mapped from it, or standing in it.

Reads /proc and never the mount. Processes of other users are not seen without root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dvfs.fs.mountinfo import all_mounts

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class User:
    """A process: *pid*, its *name* as ps shows it, and one *path* that it uses."""

    pid: int
    name: str
    path: str


def users_of(directory: Path, *, proc: Path = _PROC) -> list[User]:
    """Return the processes that use something at or below *directory*, ourselves not."""
    found = []
    for process in _processes(proc):
        path = next((path for path in _paths(process) if is_below(path, directory)), None)
        if path is not None and int(process.name) != os.getpid():
            found.append(User(int(process.name), _name(process), path))
    return found


def mounts_below(directory: Path) -> list[str]:
    """Return the directories below *directory* on which something else is mounted."""
    name = os.fspath(directory)
    return [
        mount.directory for mount in all_mounts() if mount.directory != name and is_below(mount.directory, directory)
    ]


def is_below(path: str, directory: Path) -> bool:
    """Tell whether *path* is *directory* or lies in it."""
    name = os.fspath(directory)
    return path == name or path.startswith(name.rstrip("/") + "/")


def _processes(proc: Path) -> Iterator[Path]:
    for name in sorted(filter(str.isdigit, os.listdir(proc)), key=int):
        yield proc / name


def _paths(process: Path) -> Iterator[str]:
    """Yield what *process* uses; nothing of a process that ended or is not ours to see."""
    links = [process / "cwd", process / "root"]
    try:
        links += [process / "fd" / name for name in os.listdir(process / "fd")]
    except OSError:
        pass
    for link in links:
        try:
            yield os.readlink(link)
        except OSError:
            continue
    try:
        with (process / "maps").open("rb") as maps:
            for line in maps:
                fields = line.rstrip(b"\n").split(maxsplit=5)
                if len(fields) == 6 and fields[5].startswith(b"/"):
                    yield os.fsdecode(fields[5])
    except OSError:
        return


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
