"""The mounts of this machine that were made with one state folder: noted in a file each, checked against the kernel.

    mounts/<key>.json   one mount, written by its daemon; <key> stands for the directory
    mounts/<key>.log    what its daemon logs
    mounts/<key>.<pid>/ the folder of its daemon's control socket

Processes write and remove files of their own only, each as a whole; nothing is locked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dvfs.fs.busy import mounts_below, users_of
from dvfs.fs.mountinfo import canonical, mounted_at
from dvfs.fs.mountpoint import take_away
from dvfs.store.errors import NotFound, WrongState

GONE_SECONDS = 15.0
"""How long an unmount waits for its daemon to end."""

_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: where, of what, served by whom.

    *device*: `major:minor`. *started*: when the process *pid* began, in the kernel's ticks, so that a number that is
    used again is noticed. *options*: how it was mounted, for people. *overlay*: the one that takes edits, "" for none.
    """

    directory: str
    id: str
    name: str
    version: str
    digest: str
    pid: int
    started: int
    device: str
    log: str | None
    options: dict[str, Any] = field(default_factory=dict)
    overlay: str = ""

    @property
    def title(self) -> str:
        """`project/name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def is_served(self) -> bool:
        """Whether its daemon lives; a mount without one is dead."""
        return is_running(self.pid, self.started)


class Mounts:
    """The table in folder *state_dir*."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "mounts"

    def log_path(self, directory: Path) -> Path:
        """Return where the daemon of a mount at *directory* logs."""
        return self._folder / f"{_key(directory)}.log"

    def control_folder(self, directory: Path, pid: int) -> Path:
        """Return the folder in which daemon *pid* of a mount at *directory* has its control socket."""
        return self._folder / f"{_key(directory)}.{pid}"

    @contextmanager
    def own_control_folder(self, directory: Path) -> Iterator[Path]:
        """The `control_folder` of this process, made for as long as that; those that killed daemons left go.

        Raises WrongState when the state folder cannot be written.
        """
        for path in self._folder.glob(f"{_key(directory)}.[0-9]*/"):
            if not started_at(int(path.suffix[1:])):
                shutil.rmtree(path, ignore_errors=True)
        folder = self.control_folder(directory, os.getpid())
        try:
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as exc:
            raise WrongState(f"the state folder cannot be written: {exc.filename}: {exc.strerror}") from exc
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, mount: Mount) -> None:
        """Note *mount*, in place of an earlier one at its directory."""
        path = self._path(Path(mount.directory))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(mount), indent=1) + "\n")
        temporary.replace(path)

    def remove(self, mount: Mount) -> None:
        """Forget *mount*; of what is noted of its directory only what is its own."""
        shutil.rmtree(self.control_folder(Path(mount.directory), mount.pid), ignore_errors=True)
        path = self._path(Path(mount.directory))
        if _read(path) == mount:
            path.unlink(missing_ok=True)

    def all(self) -> list[Mount]:
        """Return the mounts that the kernel has, by directory; others are forgotten once their daemon is gone."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            mount = _read(path)
            if mount is None:
                continue
            now = mounted_at(Path(mount.directory))
            if now is not None and now.is_ours and now.device == mount.device:
                found.append(mount)
            elif not mount.is_served:
                self.remove(mount)
        return sorted(found, key=lambda mount: mount.directory)

    def at(self, directory: Path) -> Mount | None:
        """Return the mount at *directory*; None when there is none that this table knows."""
        name = os.fspath(canonical(directory))
        return next((mount for mount in self.all() if mount.directory == name), None)

    def holding(self, path: Path) -> Mount | None:
        """Return the mount that *path* is in, or is; None when this table knows none."""
        return self._around(canonical(path))

    def named(self, path: Path) -> Mount | None:
        """Return the mount that *path* is in by its name alone: the mount is not touched, which may hang."""
        return None if ".." in path.parts else self._around(path.absolute())

    def umount(self, directory: Path, *, lazy: bool = False) -> None:
        """Unmount *directory* and wait until its daemon has ended; when *lazy*, also while in use, and at once.

        Raises NotFound when no mount of dvfs is there, WrongState when it is busy or not ours to unmount.
        """
        directory = canonical(directory)
        known = self.at(directory)
        there = mounted_at(directory)
        if there is None or not there.is_ours:
            raise NotFound(f"{directory} is not a mount of dvfs", hint="`dvfs mounts` lists them")
        try:
            take_away(directory, lazy=lazy)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise _busy(directory) from exc
            raise WrongState(f"{directory} cannot be unmounted: {exc.strerror}") from exc
        if known is not None and not lazy:
            wait_gone(known.pid, known.started)
            self.remove(known)

    def _around(self, place: Path) -> Mount | None:
        found = [mount for mount in self.all() if place.is_relative_to(mount.directory)]
        return max(found, key=lambda mount: len(mount.directory), default=None)

    def _path(self, directory: Path) -> Path:
        return self._folder / f"{_key(directory)}.json"


def started_at(pid: int) -> int:
    """Return when process *pid* began, in ticks since boot; 0 when there is none, or it is a zombie.

    One whose threads still hold what is open is none yet.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = stat[stat.rindex(b")") + 2 :].split()
    is_over = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return 0 if is_over else int(fields[19])


def is_running(pid: int, started: int) -> bool:
    """Tell whether the process *pid* that began at *started* still runs."""
    return started_at(pid) == started != 0


def wait_gone(pid: int, started: int, timeout_seconds: float = GONE_SECONDS) -> bool:
    """Wait until the process *pid* that began at *started* has ended; return False when it takes longer."""
    deadline = time.monotonic() + timeout_seconds
    while is_running(pid, started):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _key(directory: Path) -> str:
    return hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]


def _read(path: Path) -> Mount | None:
    try:
        return Mount(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _busy(directory: Path) -> WrongState:
    users = [f"{user.name} (pid {user.pid})" for user in users_of(directory)]
    users += [f"the mount {below}" for below in mounts_below(directory)]
    by = " by " + ", ".join(users) if users else ""
    return WrongState(
        f"{directory} is in use{by}",
        hint=f"end what uses it, or take it away when it is no longer used: `dvfs umount --lazy {directory}`",
    )
