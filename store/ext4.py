"""What ext4 must be told to stay quick."""

from __future__ import annotations

import fcntl
import os
import struct

_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_TOP_OF_HIERARCHIES = 0x00020000


def spread_folders_in(folder: str) -> None:
    """Have folders that are made in *folder* from now on, and what is in them, lie far from each other on the disk.

    A new file passes over all inodes beside it that were deleted within the last minutes, one after the other: after
    many were, that is most of what creating a file takes. Spread over folders far from each other they are fewer.
    Where the file system has no such flag, or takes it from nobody, nothing is done. See chattr(1), `T`.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        flags = struct.unpack("I", fcntl.ioctl(fd, _GET_FLAGS, bytes(4)))[0]
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("I", flags | _TOP_OF_HIERARCHIES))
    except OSError:
        return
    finally:
        os.close(fd)
