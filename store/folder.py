"""A store in a folder, on any file system that gives what NFSv4 gives: link(2), rename(2), O_EXCL, fsync.

Layout below the root: an object is the file of its key. Two names are the backend's own, and no keys:
`tmp/` (files being written; at its first write a process removes what dead processes of its machine left, and what
is older than a day) and `generations/`.

**Whole or not at all.** A write makes a temp file, fsyncs it, gives it its name with link(2), which fails
where the name exists, and fsyncs the directory (and the parents of directories that it made). A link whose
reply NFS lost says EEXIST the second time; the temp file and the name being one inode tells that it was ours.

**Compare-and-swap without locks.** Renaming over a name is unconditional, so a lock that is broken when its
holder looks dead lets a holder that merely slept overwrite its successor, and one that is never broken blocks
for ever. Here nothing is ever overwritten that counts. A mutable key K (below one of *mutable*) is a row of
generations, each a name that is made once by link(2) and never freed: K itself, then `generations/K,1`,
`generations/K,2`, … The highest is the object. To swap is to read generation n, compare the hash of its
bytes, and link the new bytes as generation n+1: of all who read n exactly one succeeds, however long each
slept in between, and who dies before the link has changed nothing, after it has won. There is no claim to
abandon. A delete is a generation too (a symbolic link), so a swap that began before it fails.
What follows a won link is for tidiness and may be lost or come late without harm: the new bytes are renamed
over K too (so that a person sees them there; K is not looked at once `K,1` exists), and the superseded
generation is emptied (an empty generation that has a successor reads as "look again").

**Etags.** Of a mutable key the hash of its bytes; of all others (written once) inode, size and mtime.
Reads through NFS can be as old as its attribute cache; a conditional write never acts on that, as link(2) is
decided by the server. A key cannot be both an object and a prefix ending before a `/` of another.

Thread-safe; processes on any number of machines may share the root. Reads no environment, logs nothing.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from dvfs.store.backend import Blob, ObjectInfo, check_range
from dvfs.store.clock import Clock, SystemClock
from dvfs.store.digest import Buffer, block_digest
from dvfs.store.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    DvfsError,
    InvalidInput,
    NoSpace,
    NotFound,
    Unavailable,
)

MUTABLE = ("datasets/",)
"""The keys that may be replaced: the records."""

STALE_NS = 24 * 3600 * 10**9
"""A temp file older than this many ns belongs to nobody any more."""

_RACY_NS = 2 * 10**9  # an inode number can be given anew within one tick of mtime: remember only older files
_COMPONENT = re.compile(r"[A-Za-z0-9%_.~-]+")
_GENERATION = re.compile(r"(.+),([0-9]+)")
_NFS_SILLY = re.compile(r"\.nfs[0-9a-f]{8,}")
_OWN = frozenset({"tmp", "generations"})
_READ_STEP = 8 << 20
_MISSING = (FileNotFoundError, NotADirectoryError)

T = TypeVar("T")


def _nowhere(point: str) -> None:
    """The default of *at*: crash points do nothing."""


class FolderBackend:
    """The `Backend` protocol on the folder *root*, which is made by the first write.

    *mutable*: prefixes of the keys that `replace_if` takes. *at* is called with the name of each step of a
    write, so that tests can die there.
    """

    def __init__(
        self,
        root: Path,
        *,
        mutable: tuple[str, ...] = MUTABLE,
        clock: Clock | None = None,
        at: Callable[[str], None] = _nowhere,
    ) -> None:
        self._root = root.absolute()
        self._base = str(self._root)
        self._mutable = mutable
        self._clock: Clock = clock or SystemClock()
        self._at = at
        self._swept = False
        # Hints, each right or harmless when stale; single dict operations are atomic.
        self._tops: dict[str, int] = {}  # key -> a generation known to exist
        self._etags: dict[str, tuple[tuple[int, int, int], str]] = {}  # key -> (inode, mtime, size), etag

    @property
    def url(self) -> str:
        return "file://" + quote(os.fsencode(self._base))

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        """See `Backend.get`. Of a mutable key the whole object is read, for its etag."""
        check_range(key, start, length)
        with self._errors(f"cannot read {key}"):
            fd, _generation = self._open(key)
            try:
                status = os.fstat(fd)
                if self._is_mutable(key):
                    whole = _pread(fd, 0, status.st_size)
                    stop = len(whole) if length is None else start + length
                    return Blob(whole[start:stop], _hash(whole))
                stop = status.st_size if length is None else min(status.st_size, start + length)
                return Blob(_pread(fd, start, max(0, stop - start)), _stat_etag(status))
            finally:
                os.close(fd)

    def put_if_absent(self, key: str, data: Buffer) -> str:
        """See `Backend.put_if_absent`."""
        with self._errors(f"cannot write {key}"):
            if self._is_there(key):
                raise self._taken(key)
            temp = self._write_temp(data)
            try:
                top = self._top(key)
                if top and not os.path.islink(self._generation(key, top)):
                    raise self._taken(key)
                status = self._link(temp, self._generation(key, top + 1) if top else self._path(key))
                if status is None:
                    raise self._taken(key)
                self._at("linked")
                if top:
                    self._tidy(key, temp, 0)
                elif self._top(key):
                    # Created and removed by others while we slept, or ours and at once replaced: cannot be told.
                    raise Unavailable(f"cannot tell whether {key} was written: it changed meanwhile")
                return _hash(data) if self._is_mutable(key) else _stat_etag(status)
            finally:
                self._discard(temp)
                self._at("unlinked")

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        """See `Backend.replace_if`. Raises also InvalidInput for a key that is not mutable, and NoSpace."""
        if not self._is_mutable(key):
            raise InvalidInput(f"cannot replace {key}: only {', '.join(self._mutable)} can be replaced")
        with self._errors(f"cannot replace {key}"):
            try:
                fd, generation = self._open(key)
            except NotFound as exc:
                raise Conflict(f"cannot replace {key} in {self._base}: it is gone") from exc
            try:
                current = _hash(_pread(fd, 0, os.fstat(fd).st_size))
            finally:
                os.close(fd)
            if current != etag:
                raise self._changed(key)
            temp = self._write_temp(data)
            try:
                if self._link(temp, self._generation(key, generation + 1)) is None:
                    raise self._changed(key)
                self._at("linked")
                self._tidy(key, temp, generation)
                return _hash(data)
            finally:
                self._discard(temp)
                self._at("unlinked")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        if prefix:
            _check_key(prefix[:-1] if prefix.endswith("/") else prefix)
        with self._errors(f"cannot list {prefix or 'the store'}"):
            yield from self._walk(prefix[: prefix.rfind("/") + 1], prefix)

    def head(self, key: str) -> ObjectInfo:
        """See `Backend.head`."""
        with self._errors(f"cannot look at {key}"):
            fd, _generation = self._open(key)
            try:
                status = os.fstat(fd)
                if not self._is_mutable(key):
                    return ObjectInfo(key, _stat_etag(status), status.st_size)
                etag = self._known_etag(key, status)
                if etag is None:
                    etag = _hash(_pread(fd, 0, status.st_size))
                    if self._clock.now_ns() - status.st_mtime_ns > _RACY_NS:
                        self._etags[key] = _identity(status), etag
                return ObjectInfo(key, etag, status.st_size)
            finally:
                os.close(fd)

    def delete(self, key: str) -> None:
        """See `Backend.delete`."""
        with self._errors(f"cannot delete {key}"):
            path = self._path(key)
            while self._is_mutable(key) and self._is_there(key):
                top = self._top(key)
                with suppress(FileExistsError):  # somebody replaced or deleted it: look again
                    marker = self._generation(key, top + 1)
                    self._with_parents(marker, lambda name: os.symlink(",deleted", name))
                    _sync_folder(os.path.dirname(marker))
                    self._at("marked")
                    self._empty(key, top)
            with suppress(*_MISSING):
                os.unlink(path)
                _sync_folder(os.path.dirname(path))

    def close(self) -> None:
        """Nothing is kept open."""

    # Names and generations

    def _path(self, key: str) -> str:
        _check_key(key)
        return f"{self._base}/{key}"

    def _generation(self, key: str, number: int) -> str:
        return f"{self._base}/generations/{key},{number}"

    def _is_mutable(self, key: str) -> bool:
        return key.startswith(self._mutable)

    def _top(self, key: str) -> int:
        """Return the highest generation of *key*; 0 when there is none besides the file of the key itself."""
        if not self._is_mutable(key):
            return 0
        top = self._tops.get(key, 0)
        if top and not os.path.lexists(self._generation(key, top)):
            top = 0  # somebody put another store into this folder
        while os.path.lexists(self._generation(key, top + 1)):
            top += 1
        self._tops[key] = top
        return top

    def _is_there(self, key: str) -> bool:
        path = self._path(key)
        top = self._top(key)
        if top:
            return not os.path.islink(self._generation(key, top))
        return os.path.isfile(path)

    def _open(self, key: str) -> tuple[int, int]:
        """Open the current generation of *key*; return descriptor and number. Raises NotFound."""
        path = self._path(key)
        while True:
            top = self._top(key)
            try:
                fd = os.open(self._generation(key, top) if top else path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                if self._top(key) != top:
                    continue
                raise NotFound(f"there is no {key} in {self._base}") from exc
            status = os.fstat(fd)
            # A generation is emptied, and the file of the key renamed over, only after the next one exists.
            if (status.st_size == 0 or not top) and self._top(key) != top:
                os.close(fd)
                continue
            if stat.S_ISDIR(status.st_mode):
                os.close(fd)
                raise NotFound(f"there is no {key} in {self._base}: it is a prefix of others")
            return fd, top

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Yield what is below *folder* (a key ending in `/`, or "") and starts with *prefix*."""
        names: set[str] = set()
        tops: dict[str, int] = {}
        for entry in _scan(f"{self._base}/{folder}"):
            if entry.is_dir(follow_symlinks=False):
                if folder or entry.name not in _OWN:
                    names.add(entry.name + "/")
            elif not _NFS_SILLY.fullmatch(entry.name):
                names.add(entry.name)
        for entry in _scan(f"{self._base}/generations/{folder}"):
            match = _GENERATION.fullmatch(entry.name)
            if match:
                tops[match[1]] = max(int(match[2]), tops.get(match[1], 0))
                names.add(match[1])
            elif entry.is_dir(follow_symlinks=False):
                names.add(entry.name + "/")
        for name in sorted(names):  # a folder sorts with its slash, as its keys do
            key = folder + name
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix) and _COMPONENT.fullmatch(name):
                info = self._listed(key, tops.get(name, 0))
                if info is not None:
                    yield info

    def _listed(self, key: str, top: int) -> ObjectInfo | None:
        """Return what `head` says of *key*, known to have generation *top*; None when it is gone."""
        try:
            status = os.lstat(self._generation(key, top) if top else f"{self._base}/{key}")
            if stat.S_ISLNK(status.st_mode):
                return None
            if not self._is_mutable(key):
                return ObjectInfo(key, _stat_etag(status), status.st_size)
            etag = self._known_etag(key, status)
            return ObjectInfo(key, etag, status.st_size) if etag is not None else self.head(key)
        except (NotFound, *_MISSING):
            return None

    def _known_etag(self, key: str, status: os.stat_result) -> str | None:
        known = self._etags.get(key)
        return known[1] if known is not None and known[0] == _identity(status) else None

    # Writing

    def _write_temp(self, data: Buffer) -> str:
        if not self._swept:
            self._swept = True
            self._sweep()
        temp = f"{self._base}/tmp/{_machine()}-{os.getpid()}-{secrets.token_hex(12)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = self._with_parents(temp, lambda name: os.open(name, flags, 0o666))
        try:
            self._at("created")
            view = memoryview(data).cast("B")
            while len(view):
                view = view[os.write(fd, view[:_READ_STEP]) :]
            self._at("written")
            os.fsync(fd)
            self._at("synced")
        except BaseException:
            self._discard(temp)
            raise
        finally:
            os.close(fd)
        return temp

    def _link(self, temp: str, target: str) -> os.stat_result | None:
        """Give *temp* the name *target* durably and return its status; None where the name is taken."""
        self._at("linking")
        try:
            self._with_parents(target, lambda name: os.link(temp, name))
        except FileExistsError:
            if not os.path.samestat(os.lstat(temp), os.lstat(target)):
                return None
        except OSError as exc:
            if exc.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise InvalidInput(
                    f"the file system of {self._base} has no hard links, which a store needs",
                    hint="put the store on a local disk or NFS, or use an object store",
                ) from exc
            raise
        _sync_folder(os.path.dirname(target))
        return os.lstat(target)

    def _tidy(self, key: str, temp: str, generation: int) -> None:
        """Show the new bytes under the key itself and drop those of *generation*; none of it counts."""
        with suppress(OSError):
            os.rename(temp, self._path(key))
            self._at("shown")
            self._empty(key, generation)

    def _empty(self, key: str, generation: int) -> None:
        """Drop the bytes of a superseded *generation*, keeping its name. Open descriptors read on."""
        if not generation:
            return
        temp = f"{self._base}/tmp/{_machine()}-{os.getpid()}-{secrets.token_hex(12)}"
        os.close(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        os.rename(temp, self._generation(key, generation))

    def _discard(self, temp: str) -> None:
        with suppress(OSError):
            os.unlink(temp)

    def _with_parents(self, name: str, make: Callable[[str], T]) -> T:
        """Return make(name), making the folders above it where they are missing."""
        try:
            return make(name)
        except FileNotFoundError:
            self._make_folder(os.path.dirname(name))
            return make(name)

    def _make_folder(self, folder: str) -> None:
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
        except FileNotFoundError:
            self._make_folder(os.path.dirname(folder))
            self._make_folder(folder)
            return
        _sync_folder(os.path.dirname(folder))

    def _sweep(self) -> None:
        """Remove temp files that nobody writes any more."""
        horizon = self._clock.now_ns() - STALE_NS
        for entry in _scan(f"{self._base}/tmp"):
            with suppress(OSError):
                if _is_orphan(entry.name) or entry.stat(follow_symlinks=False).st_mtime_ns < horizon:
                    os.unlink(entry.path)

    # Errors

    def _taken(self, key: str) -> AlreadyExists:
        return AlreadyExists(f"{key} exists already in {self._base}")

    def _changed(self, key: str) -> Conflict:
        return Conflict(f"{key} in {self._base} was changed by somebody else")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn OSError into the errors of dvfs."""
        try:
            yield
        except DvfsError:
            raise
        except OSError as exc:
            message = f"{what} in {self._base}: {exc.strerror or exc}"
            match exc.errno:
                case errno.ENOENT:
                    raise NotFound(message) from exc
                case errno.EACCES | errno.EPERM | errno.EROFS:
                    raise AccessDenied(message) from exc
                case errno.ENOSPC | errno.EDQUOT:
                    raise NoSpace(message) from exc
                case errno.ENAMETOOLONG | errno.ENOTDIR | errno.EISDIR:
                    raise InvalidInput(message) from exc
                case _:
                    raise Unavailable(message) from exc


def _is_key(text: str) -> bool:
    parts = text.split("/")
    return parts[0] not in _OWN and all(_COMPONENT.fullmatch(part) and part not in (".", "..") for part in parts)


def _check_key(key: str) -> None:
    if not _is_key(key):
        raise InvalidInput(f"{key!r} is no key of a store")


def _pread(fd: int, start: int, length: int) -> bytes:
    """Return *length* bytes from *start*, fewer only at the end of the file."""
    parts = []
    while length > 0:
        part = os.pread(fd, min(length, _READ_STEP), start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _hash(data: Buffer) -> str:
    return block_digest(data).hex()


def _stat_etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except _MISSING:
        return []


@functools.cache
def _machine() -> str:
    """Return a word for where a process id means one process: a boot of a machine, and a pid namespace there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return block_digest(boot + os.fsencode(os.readlink("/proc/self/ns/pid")))[:6].hex()
    except OSError:
        return secrets.token_hex(6)  # then nobody is known to be dead


def _is_orphan(name: str) -> bool:
    """Tell whether the temp file *name* was written by a process of this machine that is gone."""
    machine, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    return machine == _machine() and pid.isdecimal() and not os.path.exists(f"/proc/{pid}")


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
