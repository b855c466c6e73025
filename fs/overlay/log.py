"""The log of an overlay: every change, written before it is made, so that a killed daemon loses none.

    record   length u32, crc32 of the payload on top of that of the record before u32, serial u64, payload

Records follow one another from the start of the file, their serials by one. When the database holds all of them, the
next is written at the start again: what is left behind it has older serials, which end the reading. The file is
allocated ahead, so that a change is refused for want of space before anything of it was made; the last
`RESERVE_BYTES` are for removals, so that a full disk can be emptied.

Belongs to one thread, but for `sync`.
"""

from __future__ import annotations

import errno
import marshal
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from dvfs.store.errors import NoSpace, Unavailable

Statement = tuple[int, tuple[object, ...]]
"""The number of a statement, and what goes into it: ints, bytes and None."""

RESERVE_BYTES = 512 << 10
_STEP_BYTES = 1 << 20
_HEAD = struct.Struct("<IIQ")
_MARSHAL_VERSION = 4


class Log:
    """The log in file *path*; *serial* is that of the last record that the database holds."""

    def __init__(self, path: Path, serial: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._position = 0
        self._crc = 0
        self._allocated = os.fstat(self._file).st_size
        self.serial = serial
        self._synced = serial

    def replay(self) -> Iterator[list[Statement]]:
        """Yield the changes that the database does not hold, in order; further ones are written after them."""
        data = os.pread(self._file, self._allocated, 0)
        for payload, end, crc in _records(data, self.serial):
            yield marshal.loads(payload)
            self.serial += 1
            self._position = end
            self._crc = crc

    def append(self, statements: list[Statement], *, removes: bool = False) -> None:
        """Write a change; it is kept by a kill, not by a power cut. Raises NoSpace; then nothing is written.

        A change that *removes* may use the reserve.
        """
        serial = self.serial + 1
        payload = marshal.dumps(statements, _MARSHAL_VERSION)
        crc = zlib.crc32(payload, self._crc if self._position else _first(serial))
        record = _HEAD.pack(len(payload), crc, serial) + payload
        end = self._position + len(record)
        if end + RESERVE_BYTES > self._allocated:
            self._allocate(end, removes=removes)
        try:
            done = os.pwrite(self._file, record, self._position)
            while done < len(record):
                done += os.pwrite(self._file, record[done:], self._position + done)
        except OSError as exc:
            raise _translated(exc, self._path) from exc
        self._position = end
        self.serial = serial
        self._crc = crc

    def rewind(self, serial: int) -> None:
        """Have `replay` begin at the start again: the database holds no more than the change *serial*."""
        self._position = 0
        self.serial = serial

    @property
    def bytes(self) -> int:
        """The bytes of records that the database does not hold."""
        return self._position

    @property
    def synced(self) -> int:
        """The serial of the last change that a power cut cannot take."""
        return self._synced

    def sync(self) -> None:
        """Have what was appended kept by a power cut, too. May be called in any thread. Raises NoSpace, Unavailable."""
        serial = self.serial
        try:
            os.fdatasync(self._file)
        except OSError as exc:
            raise _translated(exc, self._path) from exc
        self._synced = max(self._synced, serial)

    def restart(self) -> None:
        """Take note that the database holds all: the next record is written at the start."""
        self._position = 0
        self._synced = self.serial

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._file

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _allocate(self, end: int, *, removes: bool) -> None:
        wanted = (end + RESERVE_BYTES + _STEP_BYTES - 1) // _STEP_BYTES * _STEP_BYTES
        try:
            os.posix_fallocate(self._file, self._allocated, wanted - self._allocated)
        except OSError as exc:
            if not removes or end > self._allocated:
                raise _translated(exc, self._path) from exc
        else:
            self._allocated = wanted


def has_records(path: Path, serial: int) -> bool:
    """Tell whether the log in file *path*, which may be in use, has changes after *serial*."""
    try:
        with path.open("rb") as file:
            length = _HEAD.unpack(head)[0] if len(head := file.read(_HEAD.size)) == _HEAD.size else 0
            return next(_records(head + file.read(length), serial), None) is not None
    except FileNotFoundError:
        return False


def _first(serial: int) -> int:
    """Return what the crc of the first record, that of *serial*, starts with."""
    return serial & 0xFFFFFFFF


def _records(data: bytes, serial: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the records in *data* that follow that of *serial*: the payload, where it ends, its crc."""
    end = 0
    before = _first(serial + 1)
    while end + _HEAD.size <= len(data):
        length, crc, found = _HEAD.unpack_from(data, end)
        start = end + _HEAD.size
        payload = data[start : start + length]
        serial += 1
        if found != serial or len(payload) != length or zlib.crc32(payload, before) != crc:
            return
        before = crc
        end = start + length
        yield payload, end, crc


def _translated(exc: OSError, path: Path) -> NoSpace | Unavailable:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space for {path}")
    return Unavailable(f"cannot write {path}: {exc.strerror}")
