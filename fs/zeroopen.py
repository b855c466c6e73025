"""Loads the shim that makes opening files cost no message; see `_zeroopen.c`.

It must be loaded before pyfuse3 is imported. Where it was not built, or pyfuse3 does not go through it, opens are
plain: slower, and right all the same.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import struct
import sys

_log = logging.getLogger(__name__)

READY_FILES = 128
"""So many files are ready at a time; a file takes the place of another whose inode is the same modulo this."""
READY_BYTES = 128 << 10
"""A file that is ready is no longer."""

_INIT_BYTES = 256
_READY = struct.Struct("=QqIi")
_MOST_GIVEN = 64


class Shim:
    """The shim, loaded into this process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._sessions = ctypes.c_int.in_dll(library, "dvfs_zeroopen_sessions")
        self._max_background = ctypes.c_uint.in_dll(library, "dvfs_zeroopen_max_background")
        self._writable = ctypes.c_int.in_dll(library, "dvfs_zeroopen_writable")
        self._idle = ctypes.c_int.in_dll(library, "dvfs_zeroopen_idle")
        self._wait_ns = ctypes.c_int.in_dll(library, "dvfs_zeroopen_wait_ns")
        self._answered = ctypes.c_uint.in_dll(library, "dvfs_zeroopen_answered")
        self._device = ctypes.c_int.in_dll(library, "dvfs_zeroopen_device")
        self._init = (ctypes.c_char * _INIT_BYTES).in_dll(library, "dvfs_zeroopen_init")
        self._init_size = ctypes.c_int.in_dll(library, "dvfs_zeroopen_init_size")
        self._begins = ctypes.c_int.in_dll(library, "dvfs_zeroopen_begins")
        ready = (ctypes.c_char * (READY_FILES * _READY.size)).in_dll(library, "dvfs_zeroopen_ready")
        self._ready = memoryview(ready).cast("B")
        given = (ctypes.c_ulonglong * _MOST_GIVEN).in_dll(library, "dvfs_zeroopen_given")
        self._given = memoryview(given).cast("B").cast("Q")
        self._given_count = ctypes.c_uint.in_dll(library, "dvfs_zeroopen_given_count")
        self._watch_answered = ctypes.c_uint.in_dll(library, "dvfs_watch_answered")
        self._wants_passthrough = ctypes.c_int.in_dll(library, "dvfs_zeroopen_wants_passthrough")
        self._passes = ctypes.c_int.in_dll(library, "dvfs_zeroopen_passes")
        self._backing = ctypes.c_int.in_dll(library, "dvfs_zeroopen_backing")
        self._backed = ctypes.c_ulonglong.in_dll(library, "dvfs_zeroopen_backed")

    @property
    def is_at_work(self) -> bool:
        """Whether a FUSE session of this process went through the shim."""
        return self._sessions.value > 0

    @property
    def is_idle(self) -> bool:
        """Whether there was no request when pyfuse3 last took one."""
        return self._idle.value != 0

    @property
    def answered(self) -> int:
        """How many requests were answered without Python."""
        return self._answered.value + self._watch_answered.value

    @property
    def device(self) -> int:
        """The descriptor of the session's device, once it took a request."""
        return self._device.value

    @property
    def init(self) -> bytes:
        """The request by which the kernel began the session; empty before it did."""
        return self._init.raw[: self._init_size.value]

    def make_ready(self, inode: int, fd: int, start: int, size: int) -> None:
        """Have who reads all of the file *inode* next be given *size* bytes from byte *start* of *fd*, once.

        It must stay open until another file has this one's place.
        """
        _READY.pack_into(self._ready, inode % READY_FILES * _READY.size, inode, start, size, fd)

    def given(self) -> list[int]:
        """Return the inodes of files that were ready and have been read since the last call."""
        count = self._given_count.value
        if not count:
            return []
        self._given_count.value = 0
        return self._given[:count].tolist()

    def want_passthrough(self) -> None:
        """Ask the kernel, in new sessions, to read by itself those files that it is handed."""
        self._wants_passthrough.value = 1

    @property
    def passes(self) -> bool:
        """Whether the kernel takes files to read by itself; known once the session has begun."""
        return self._passes.value != 0

    def hand_over(self, fh: int, backing: int) -> None:
        """Have the next answer to OPEN, if it has the handle *fh*, hand over the file of the number *backing*."""
        self._backed.value = fh
        self._backing.value = backing

    def begin_with(self, init: bytes) -> None:
        """Have the session begin with *init*, which the kernel sent to another process, and take no wait for it."""
        ctypes.memmove(self._init, init, len(init))
        self._init_size.value = len(init)
        self._begins.value = 1
        self._idle.value = 0

    def wait_ns(self, nanoseconds: int) -> None:
        """Wait up to *nanoseconds* for a request when pyfuse3 takes one, before there is none."""
        self._wait_ns.value = nanoseconds

    def watch(self) -> int | None:
        """Have a thread wait for the next request that needs Python; return the eventfd that says there is one.

        It must be read before the next watch. None where there is no watch.
        """
        woken: int = self._library.dvfs_watch_begin()
        return None if woken < 0 else woken

    def end_watch(self) -> None:
        """End the watch, for good; nobody may wait for it any more."""
        self._library.dvfs_watch_end()

    def set_writable(self) -> None:
        """Have the kernel, in new sessions, truncate and drop set-user-id bits by requests of their own."""
        self._writable.value = 1

    def set_max_background(self, requests: int) -> None:
        """Ask the kernel, in sessions made from now on, for as many read-ahead *requests* under way."""
        self._max_background.value = requests


def load() -> Shim | None:
    """Load the shim; None when it is not there, or too late. Raises nothing."""
    if "pyfuse3" in sys.modules:
        _log.warning("opening files costs messages: pyfuse3 was imported before the shim")
        return None
    try:
        found = importlib.util.find_spec("dvfs.fs._zeroopen")
        if found is None or found.origin is None:
            _log.info("opening files costs messages: the shim is not built")
            return None
        return Shim(ctypes.CDLL(found.origin, mode=os.RTLD_GLOBAL | os.RTLD_NOW))
    except (OSError, ImportError, ValueError) as exc:
        _log.warning("opening files costs messages: the shim cannot be loaded: %s", exc)
        return None
