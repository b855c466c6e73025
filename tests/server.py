"""A server of storage for tests: a process of its own on loopback, with its data in a folder of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

START_SECONDS = 60.0
POLL_SECONDS = 0.05

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Server:
    """One server, with one bucket. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it; it is stopped at the end."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server (again, with the data it had if it keeps them) and return when it takes writes."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.takes_writes():
            if not self.is_running or time.monotonic() > deadline:
                self.stop()
                said = (self._folder / "log").read_text()[-4000:]
                raise RuntimeError(f"{type(self).__name__} did not start:\n{said}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Kill the server and all that it started; its port refuses connections afterwards."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Stop the server from answering: connections are taken by the kernel and nothing comes back.

        When killpg returns the signal is only sent, and a thread that runs may answer one more: each is waited for.
        """
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        deadline = time.monotonic() + START_SECONDS
        while any(state not in "TZX" for state in _thread_states(self._process.pid)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} did not stop on SIGSTOP")
            time.sleep(POLL_SECONDS)

    def resume(self) -> None:
        """Let a paused server go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def command(self) -> Sequence[str | Path]:
        """Return the words that start it."""
        raise NotImplementedError

    def takes_writes(self) -> bool:
        """Make the bucket if it is not there; return whether it can be written to."""
        raise NotImplementedError


def _thread_states(group: int) -> list[str]:
    """Return the state letter (proc_pid_stat(5)) of each thread of the processes of *group*."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[2]) != group:
                continue
            states += [
                thread.read_text().rpartition(")")[2].split()[0] for thread in stat.parent.glob("task/[0-9]*/stat")
            ]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return states


def free_ports(count: int) -> list[int]:
    """Return *count* ports of loopback on which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
