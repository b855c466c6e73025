"""How the memory of a daemon that is free is used again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

KEPT_BYTES = 128 << 20
_LARGEST_BYTES = 32 << 20
"""glibc takes no more."""


def use_again() -> None:
    """Use the memory of a buffer for the next one, in place of giving it back to the system and asking for more.

    A daemon fills and drops buffers of megabytes all the time. glibc gives such memory back when it is free, and keeps
    what is free apart for each of several threads: new memory has to be made, page by page, and more of it is held.
    For the whole process, threads and children that come after included; up to `KEPT_BYTES` of free memory stay.
    See mallopt(3). With another C library nothing is done.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES)):
        set_option(option, value)
