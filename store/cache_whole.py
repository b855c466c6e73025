"""Large files in one piece: their blocks lie in the cache where they lie in the file, so that the kernel can read it.

    files/<xx>/<file digest>   a file, with holes where blocks are missing
    blocks/<xx>/<digest>       of a block that lies in one: a symbolic link whose target is its place, encoded

A block is as good there as in a file of its own: whoever looks for it follows the link, and verifies it. A link whose
file is gone, or has a hole there, is no block: it was left by a file that was evicted.

What is evicted is a file with all that lies in it, as the kernel may be reading it: nothing is ever taken out of one,
none is cut short, and bytes that are there are not written over, but by `cache_join.py`, which knows what belongs
there. A file has its full length from the moment that it has its name.

Thread-safe; `lay` and `laid` touch no disk.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import stat
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dvfs.store.block import MAX_BLOCK_BYTES
from dvfs.store.cache_temporary import TemporaryFiles, unlinked
from dvfs.store.cache_verified import Identity, identity_of
from dvfs.store.digest import DIGEST_SIZE, Buffer, block_digest

_MOST_PLACES = 1 << 17
_TRIES = 8
_HOLE_BYTES = 4096
"""Holes begin and end at multiples of this, or of more."""

FOLIO_BYTES = 256 << 10
"""So much is written at once, and lies in one folio. For larger ones the kernel takes large free areas, and these are
what a virtual machine may have to be given by its host, slowly."""
LARGE_FOLIO_BYTES = 2 << 20
"""As large as ext4 has them of what it reads from the disk: pages side by side in memory are read sooner."""

_PLACE = struct.Struct(f">{DIGEST_SIZE}sHIBH")
FILE_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Place(NamedTuple):
    """Where a block lies: *length* bytes from byte *start* of the whole file of that *file* digest."""

    file: bytes
    start: int
    length: int

    def encode(self) -> str:
        """Return the target of a link to it: 56 letters, which a file system keeps without a block of its own."""
        start, length = self.start, self.length
        packed = _PLACE.pack(self.file, start >> 32, start & 0xFFFFFFFF, length >> 16, length & 0xFFFF)
        return base64.urlsafe_b64encode(packed).decode()


def decoded(target: str) -> Place | None:
    """Return the place that a link with *target* leads to, None when that is none."""
    try:
        packed = base64.b64decode(target.encode(), altchars=b"-_", validate=True)
        file, high, low, upper, lower = _PLACE.unpack(packed)
    except (binascii.Error, UnicodeError, struct.error):
        return None
    length = upper << 16 | lower
    return Place(file, high << 32 | low, length) if 0 < length <= MAX_BLOCK_BYTES else None


class WholeFiles:
    """The files under `files/` of the cache folder *root*.

    *most_places*: how many blocks may be expected at a time; of more, those told first become files of their own.
    """

    def __init__(self, root: Path, temporary: TemporaryFiles, *, most_places: int = _MOST_PLACES) -> None:
        self._files = os.fspath(root / "files")
        self._temporary = temporary
        self._most_places = most_places
        self._lock = threading.Lock()
        self._places: dict[bytes, tuple[Place, int]] = {}

    def path(self, file: bytes) -> str:
        """Return where the whole file *file* is, or would be."""
        name = file.hex()
        return f"{self._files}/{name[:2]}/{name}"

    def lay(self, digest: bytes, place: Place, size: int) -> None:
        """Have the block *digest*, when it comes, lie at *place* in its file, of *size* bytes."""
        with self._lock:
            if self._places.pop(digest, None) is None and len(self._places) >= self._most_places:
                del self._places[next(iter(self._places))]  # it was here already, or is never read
            self._places[digest] = place, size

    def laid(self, digest: bytes) -> tuple[Place, int] | None:
        """Return what `lay` was told last of the block *digest*, and forget it."""
        with self._lock:
            return self._places.pop(digest, None)

    def is_laid(self, digest: bytes) -> bool:
        """Tell whether `lay` was told of the block *digest*, and `laid` was not asked."""
        return digest in self._places

    def open(self, file: bytes) -> int:
        """Return a descriptor of the whole file *file*. Raises OSError."""
        return os.open(self.path(file), os.O_RDONLY | FILE_FLAGS)

    def open_to_write(self, file: bytes, size: int, *, replace: bool = False) -> int:
        """Return a descriptor of the whole file *file* of *size* bytes, which is made where none is.

        What else has its name is removed if *replace*; FileExistsError otherwise. Raises OSError.
        """
        path = self.path(file)
        for _ in range(_TRIES):
            try:
                fd = os.open(path, os.O_RDWR | FILE_FLAGS)
            except FileNotFoundError:
                made = self._made(path, size)
                if made is not None:
                    return made
                continue
            except OSError as exc:
                if exc.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                    raise
            else:
                found = os.fstat(fd)
                if stat.S_ISREG(found.st_mode) and found.st_size == size:
                    return fd
                os.close(fd)
            if not replace:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        raise FileExistsError(errno.EEXIST, "something else has the name of a file", path)

    def _made(self, path: str, size: int) -> int | None:
        """Return a descriptor of the new file *path*; None when another has made it meanwhile."""
        temporary, fd = self._temporary.create()
        try:
            os.ftruncate(fd, size)
            try:
                os.link(temporary, path)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.link(temporary, path)
            return fd
        except FileExistsError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        finally:
            unlinked(temporary)

    def open_block(self, pointer: str) -> tuple[int, Place]:
        """Return a descriptor of the file that the link *pointer* leads into, and the place. Raises OSError.

        A link to a file that is gone is removed, and FileNotFoundError raised.
        """
        place = place_of(pointer)
        if place is None:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), pointer)
        try:
            return self.open(place.file), place
        except FileNotFoundError:
            unlink_pointer(pointer, place)
            raise

    def leads_to_a_file(self, pointer: str) -> bool:
        """Tell whether the link *pointer* leads into a file that is there. Raises OSError when there is no link."""
        place = place_of(pointer)
        return place is not None and os.path.lexists(self.path(place.file))

    def rows(self, shard: int) -> Iterator[bytes]:
        """Yield the digests of the whole files in directory *shard* of 0 to 255. Raises OSError."""
        for name in names_in(f"{self._files}/{shard:02x}"):
            try:
                file = bytes.fromhex(name)
            except ValueError:
                continue
            if len(file) == DIGEST_SIZE and file.hex() == name:
                yield file


def place_of(pointer: str) -> Place | None:
    """Return where the link *pointer* leads, None when that is no place. Raises OSError when there is no link."""
    return decoded(os.readlink(pointer))


def unlink_pointer(pointer: str, place: Place) -> None:
    """Remove the link *pointer* if it leads to *place*, and can be removed. Raises nothing."""
    with contextlib.suppress(OSError):
        if place_of(pointer) == place:
            os.unlink(pointer)


def identity_at(found: os.stat_result, place: Place | None) -> Identity:
    """Return what tells the block at *place* in the file *found*, None: all of it, from what is there later."""
    return identity_of(found) if place is None else identity_of(found, place.start, place.length)


def is_link(path: str) -> bool:
    """Tell whether *path* is a link. Raises OSError, but not where there is nothing."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def names_in(folder: str) -> list[str]:
    """Return the names in *folder*; none when there is no such. Raises OSError."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_at(fd: int, pieces: Iterable[Buffer], start: int, folio_bytes: int = FOLIO_BYTES) -> None:
    """Write all *pieces*, one behind the other, from byte *start* of *fd* on, a folio at a time. Raises OSError."""
    for folio in _folios(pieces, start, folio_bytes):
        while folio:
            written = os.pwritev(fd, folio, start)
            start += written
            folio = _behind(folio, written)


def _folios(pieces: Iterable[Buffer], start: int, folio_bytes: int) -> Iterator[list[memoryview]]:
    """Yield the bytes of *pieces* by the folios that they lie in from byte *start* on."""
    folio: list[memoryview] = []
    room = folio_bytes - start % folio_bytes
    for piece in pieces:
        left = memoryview(piece)
        while left:
            folio.append(left[:room])
            left = left[room:]
            room -= len(folio[-1])
            if not room:
                yield folio
                folio, room = [], folio_bytes
    if folio:
        yield folio


def _behind(pieces: Sequence[memoryview], count: int) -> list[memoryview]:
    """Return what of *pieces* lies behind their first *count* bytes."""
    behind = []
    for piece in pieces:
        if count < len(piece):
            behind.append(piece[count:])
        count = max(count - len(piece), 0)
    return behind


def holds(fd: int, digest: bytes, place: Place) -> bool:
    """Tell whether the bytes at *place* in the file *fd* are the block *digest*. Raises OSError."""
    return block_digest(os.pread(fd, place.length, place.start)) == digest


def is_blank(fd: int, place: Place) -> bool:
    """Tell whether nothing but zeros was written at *place* in the file *fd*, or nothing. Raises OSError."""
    end = place.start + place.length
    first, last = -(-place.start // _HOLE_BYTES) * _HOLE_BYTES, end // _HOLE_BYTES * _HOLE_BYTES
    if first < last:  # else other blocks lie in each part that may be a hole
        try:
            if os.lseek(fd, first, os.SEEK_DATA) >= last:
                return True
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing behind it either
                return os.fstat(fd).st_size >= end
    return os.pread(fd, place.length, place.start) == bytes(place.length)
