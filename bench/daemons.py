"""Daemons of other file systems: started in the foreground, waited for, and ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.machine import environment
from bench.programs import Failed, Usage, usage

_MOUNT_SECONDS = 20.0
_END_SECONDS = 120.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """A directory to work in; *pid* is the daemon behind it, if there is one."""

    directory: Path
    pid: int | None = None

    def usage(self) -> Usage | None:
        """Return what the daemon used so far."""
        return None if self.pid is None else usage(self.pid)


@contextmanager
def mounted_by(
    mounts: Path, *command: str | os.PathLike[str], variables: Mapping[str, str] | None = None
) -> Iterator[Place]:
    """Run the daemon *command*, which stays in the foreground, with a new mount point in *mounts* as its last word.

    It gets the environment *variables*. At the end it is unmounted, and it and what it started have ended. Raises
    Failed where it does not mount.
    """
    directory = Path(tempfile.mkdtemp(prefix="mount-", dir=mounts))
    with tempfile.TemporaryFile() as said:
        daemon = subprocess.Popen(
            [*command, directory],
            env=environment(dict(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + _MOUNT_SECONDS
            while not _is_mount(directory):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise Failed(
                        f"{os.fspath(command[0])} did not mount: {said.read()[-2000:].decode(errors='replace')}"
                    )
                time.sleep(_POLL_SECONDS)
            yield Place(directory, daemon.pid)
        finally:
            _end(daemon, directory)
            directory.rmdir()


def _end(daemon: subprocess.Popen[bytes], directory: Path) -> None:
    """Unmount *directory* and wait for its *daemon*; kill what is left of its session."""
    if _is_mount(directory):
        done = subprocess.run(["fusermount3", "-u", directory], check=False, capture_output=True)
        if done.returncode:
            subprocess.run(["fusermount3", "-u", "-z", directory], check=False)
    elif daemon.poll() is None:
        daemon.terminate()
    try:
        daemon.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    with suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)


def _is_mount(directory: Path) -> bool:
    try:
        return directory.is_mount()
    except OSError:
        return True  # its daemon is gone
