"""Waiting until a writable mount has all that was written to it before.

syncfs(2) has the kernel send what it holds back, and does not wait until it is written. What is written after it goes
the same way, behind it: so the sync point is a file of its own that the mount forgets, written through a mapping and
synced. When that returns, all before it has arrived.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import stat
import time
from pathlib import Path

from dvfs.fs.overlay.schema import Node
from dvfs.fs.view import ROOT_INODE

SYNC_INODE = (1 << 62) + 1
_PREFIX = b".dvfs-sync-"


def is_sync_name(parent: int, name: bytes) -> bool:
    """Tell whether *name* in *parent* is that of a sync point."""
    return parent == ROOT_INODE and name.startswith(_PREFIX)


def sync_node(uid: int, gid: int) -> Node:
    """Return what a mount says of a sync point."""
    now = time.time_ns()
    return Node(SYNC_INODE, 1, stat.S_IFREG | 0o600, uid, gid, mmap.PAGESIZE, now, now, now, 1)


def sync_bytes(start: int, length: int) -> bytes:
    """Return what a sync point has: zeros, as many as its size says. Where less comes, a kernel may cut it off."""
    return bytes(max(0, min(length, mmap.PAGESIZE - start)))


def sync(directory: Path) -> None:
    """Wait until the mount at *directory* has all that was written. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(root):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(directory))
        name = _PREFIX + secrets.token_hex(8).encode()
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            with mmap.mmap(handle, mmap.PAGESIZE) as mapped:
                mapped[0] = 1
                mapped.flush()
            os.fsync(handle)
        finally:
            os.close(handle)
            os.unlink(name, dir_fd=root)
    finally:
        os.close(root)
