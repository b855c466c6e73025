"""Mode, size and modification time of many files of a folder at once, in columns.

Where `_lstats.c` was not built each file is asked for by a call of its own: slower, with the same answer.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Columns(NamedTuple):
    """One number for each file: mode with its type, size in bytes, modification time in ns."""

    modes: array[int]
    sizes: array[int]
    mtimes: array[int]


def lstats(handle: int, names: Sequence[bytes]) -> Columns:
    """Return the columns of *names* in the folder open as *handle*, links not followed. Raises OSError."""
    at_once = _library()
    return _in_turn(handle, names) if at_once is None else _at_once(at_once, handle, names)


def _at_once(library: Callable[..., int], handle: int, names: Sequence[bytes]) -> Columns:
    count = len(names)
    columns = Columns(array("H", bytes(2 * count)), array("Q", bytes(8 * count)), array("q", bytes(8 * count)))
    error = library(handle, b"\0".join(names), count, *[column.buffer_info()[0] for column in columns])
    if error:
        raise OSError(error, os.strerror(error))
    return columns


def _in_turn(handle: int, names: Sequence[bytes]) -> Columns:
    found = [os.stat(name, dir_fd=handle, follow_symlinks=False) for name in names]
    return Columns(
        array("H", [one.st_mode for one in found]),
        array("Q", [one.st_size for one in found]),
        array("q", [one.st_mtime_ns for one in found]),
    )


@functools.cache
def _library() -> Callable[..., int] | None:
    """Return the function of `_lstats.c`, None where it was not built."""
    found = importlib.util.find_spec("dvfs.store._lstats")
    if found is None or found.origin is None:
        return None
    try:
        function = ctypes.CDLL(found.origin).dvfs_lstats
    except (OSError, AttributeError):
        return None
    pointers = [ctypes.c_void_p] * 3
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, *pointers]
    function.restype = ctypes.c_int
    return function
