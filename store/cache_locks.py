"""Locks between the processes that share one cache: bytes of one lock file, held by open file descriptions.

An open-file-description lock (fcntl F_OFD_SETLK) belongs to an open of the file, not to a process: it dies with
the process however that ends, and two opens in one process exclude each other. A forked child shares its
parent's opens, so each process opens the file anew, found out by its pid. Thread-safe.

Nothing here blocks in the kernel: a wait is bounded, because the holder may be a stopped process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from dvfs.store.clock import Clock
from dvfs.store.log_once import LogOnce

_FLOCK = struct.Struct("hhqqi4x")
_SESSIONS_AT = 1 << 62
_SESSION_BITS = 60
_FIRST_DELAY_SECONDS = 0.001
_MAX_DELAY_SECONDS = 0.01


class LockFile:
    """Exclusive locks on single bytes of the file at *path*, between threads as well as between processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._fd = -1
        self._pid = 0
        self._held: set[int] = set()

    def try_lock(self, position: int) -> bool:
        """Lock the byte at *position* and return True, or return False when somebody holds it. Raises OSError."""
        with self._guard:
            fd = self._open()
            if position in self._held:
                return False
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, position))
            except (BlockingIOError, PermissionError):
                return False
            self._held.add(position)
            return True

    def unlock(self, position: int) -> None:
        """Let go of the byte at *position*."""
        with self._guard:
            if self._pid == os.getpid() and position in self._held:
                self._held.remove(position)
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, position))

    def is_held(self, position: int) -> bool:
        """Tell whether anybody holds the byte at *position*, this object included. Raises OSError."""
        with self._guard:
            fd = self._open()
            if position in self._held:
                return True
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, position))
            return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go of all locks; the next use opens the file again."""
        with self._guard:
            self._close()

    def _open(self) -> int:
        if self._pid != os.getpid():
            self._close()
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._pid = os.getpid()
        return self._fd

    def _close(self) -> None:
        # In a forked child this closes the child's copy of the parent's descriptor: the parent's locks remain.
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._pid = 0
        self._held = set()


class FetchLocks:
    """One fetch for each block: whoever fetches a block holds the byte that its digest names."""

    def __init__(self, file: LockFile, *, wait_seconds: float, clock: Clock, log: LogOnce) -> None:
        self._file = file
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._log = log

    @contextlib.contextmanager
    def fetching(self, digest: bytes) -> Iterator[bool]:
        """Hold the lock of *digest*; yields False when it was not to be had in time: fetch all the same."""
        position = _position(digest)
        held = self._try(position)
        if held is False:
            held = self._wait(position)
        try:
            yield bool(held)
        finally:
            if held:
                self._file.unlock(position)

    @contextlib.contextmanager
    def try_fetching(self, digest: bytes) -> Iterator[bool]:
        """Hold the lock of *digest* if nobody does; yields False when somebody else is fetching the block."""
        position = _position(digest)
        held = self._try(position)
        try:
            yield held is not False
        finally:
            if held:
                self._file.unlock(position)

    def _try(self, position: int) -> bool | None:
        """Return True when the lock is ours, False when it is another's, None where there are no locks."""
        try:
            return self._file.try_lock(position)
        except OSError as exc:
            self._log.warning("lock", "cache: no locks, blocks may be fetched more than once: %s", exc)
            return None

    def _wait(self, position: int) -> bool | None:
        give_up = self._clock.monotonic() + self._wait_seconds
        delay = _FIRST_DELAY_SECONDS
        held: bool | None = False
        while held is False and self._clock.monotonic() < give_up:
            self._clock.sleep(delay)
            delay = min(2 * delay, _MAX_DELAY_SECONDS)
            held = self._try(position)
        return held


class Sessions:
    """Which processes write to the cache, so that what a dead one left can be told from what a live one needs.

    A session is a random number. Its process locks the byte that the number names, then writes an empty marker
    file of that name, and removes the marker when it has closed the cache in order. A marker, or a temporary
    file named after a session, whose byte nobody holds was left by a process that died.
    """

    def __init__(self, folder: Path, file: LockFile) -> None:
        self._folder = folder
        self._file = file
        self._guard = threading.Lock()
        self._id: str | None = None
        self._pid = 0

    def current(self) -> str:
        """Return the id of this process's session, which begins at the first call. Raises OSError."""
        if self._id is not None and self._pid == os.getpid():
            return self._id
        with self._guard:
            if self._id is None or self._pid != os.getpid():
                number = secrets.randbits(_SESSION_BITS)
                if not self._file.try_lock(_SESSIONS_AT + number):
                    raise OSError(f"session {number:015x} is taken")
                name = f"{number:015x}"
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / name).touch()
                self._id, self._pid = name, os.getpid()
            return self._id

    def is_alive(self, session: str) -> bool:
        """Tell whether the process of *session* lives; one of no valid form does not. Raises OSError."""
        try:
            number = int(session, 16)
        except ValueError:
            return False
        return 0 <= number < 1 << _SESSION_BITS and self._file.is_held(_SESSIONS_AT + number)

    def dead(self) -> list[str]:
        """Return the sessions that ended without `end`. Raises OSError."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [name for name in names if not self.is_alive(name)]

    def bury(self, session: str) -> None:
        """Forget the dead *session*: what it left undone has been done. Raises OSError."""
        (self._folder / session).unlink(missing_ok=True)

    def end(self) -> None:
        """End this process's session in order. Raises OSError."""
        with self._guard:
            if self._id is None or self._pid != os.getpid():
                return
            session, self._id = self._id, None
            (self._folder / session).unlink(missing_ok=True)
            self._file.unlock(_SESSIONS_AT + int(session, 16))


def _flock(kind: int, position: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, position, 1, 0)


def _position(digest: bytes) -> int:
    """Return the byte that stands for *digest*: 62 of its bits; two blocks that share one only wait in vain."""
    return int.from_bytes(digest[:8], "little") >> 2
