"""The workers of a mount as processes: forked, handed what they need, and ended.

They are forked by the daemon, their leader, before it owns threads, sockets or SQLite handles, and wait for what they
need: which version it is, a descriptor of the mount's device, and the INIT by which its session began. A descriptor is
made for each (FUSE_DEV_IOC_CLONE), so that the kernel knows which requests each of them has; the leader keeps a copy.
When a worker is gone, the kernel is told to give out again what was not answered (FUSE_NOTIFY_RESEND, Linux 6.9), and
the copy is closed: an older kernel then ends the requests of that worker with ECONNABORTED. Nobody takes its place.

Imports no trio. What a leader and its workers say to each other meanwhile is in `leading.py` and `worker.py`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from dvfs.fs.notes import MOST_MESSAGE_BYTES, Board

_log = logging.getLogger(__name__)

END_SECONDS = 8.0
"""How long workers may take to end by themselves."""

_POLL_SECONDS = 0.01
_FUSE_DEV_IOC_CLONE = 0x8004E500
_FUSE_NOTIFY_RESEND = 7


@dataclass(slots=True, eq=False)
class Worker:
    """A worker: its process, the channel to it, the copy of its descriptor of the device (-1: there is none).

    *code*: its exit code, once it was asked for; until then no other process can have its number.
    """

    pid: int
    channel: socket.socket
    device: int = -1
    code: int | None = None

    def begin(self, version: str, init: bytes, device: int) -> None:
        """Have it answer requests of the version with that id from a clone of *device*. Raises OSError."""
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(self.device, _FUSE_DEV_IOC_CLONE, struct.pack("I", device))
        socket.send_fds(self.channel, [json.dumps({"id": version, "init": init.hex()}).encode()], [self.device])

    def exit_code(self, flags: int = os.WNOHANG) -> int | None:
        """Return its exit code, negative for a signal; None while it runs, unless *flags* are 0, which waits."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, flags)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def let_go(self) -> None:
        """Have it end, or let go of what is left of it."""
        self.channel.close()
        if self.device >= 0:
            os.close(self.device)
            self.device = -1


class Workers:
    """*count* workers, each forked to *run* with its channel to this process and the board of all.

    Made by a process of one thread; *run* never returns.
    """

    def __init__(self, count: int, run: Callable[[socket.socket, Board], NoReturn]) -> None:
        self.board = Board()
        self.all: list[Worker] = []
        for _ in range(count):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                for other in (ours, *(worker.channel for worker in self.all)):
                    other.close()  # else nobody would see the end of the leader
                run(theirs, self.board)
            theirs.close()
            self.all.append(Worker(pid, ours))

    def let_go(self) -> None:
        """Have all end. May be called again."""
        for worker in self.all:
            worker.let_go()

    def end(self) -> None:
        """Have all end, and wait for it; kill those that take longer than `END_SECONDS`."""
        self.let_go()
        deadline = time.monotonic() + END_SECONDS
        while left := [worker for worker in self.all if worker.exit_code() is None]:
            if time.monotonic() > deadline:
                for worker in left:
                    _log.warning("a worker did not end, and is killed")
                    os.kill(worker.pid, signal.SIGKILL)
                    worker.exit_code(0)
            time.sleep(_POLL_SECONDS)


def first_message(channel: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Return what `Worker.begin` sent, and the descriptor that came with it; None when the leader is gone."""
    message, descriptors, _, _ = socket.recv_fds(channel, MOST_MESSAGE_BYTES, 1)
    return (json.loads(message), descriptors[0]) if message else None


def resend(device: int) -> bool:
    """Have the kernel give out again all requests that are not answered; return whether it does."""
    try:
        os.write(device, struct.pack("IiQ", 16, _FUSE_NOTIFY_RESEND, 0))
    except OSError:
        return False  # it is older, or the mount is over
    return True
