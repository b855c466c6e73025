"""Copies of a version as ordinary files: into a folder of the user's, or read-only beside the cache.

A copy is made in a temporary folder next to its place and renamed into it when it is whole. Every file is made through
a descriptor of its own directory that was reached without following a link, so that no catalog, however hostile, has
anything written outside of the target.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, starmap
from pathlib import Path

from dvfs.store.block import BlockRef
from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.key import parent_of
from dvfs.store.errors import Corrupt, DvfsError, InvalidInput, NoSpace, NotFound
from dvfs.store.version import Version

OnFile = Callable[[bytes, int], None]
"""Told the path and size in bytes of each file that is done."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AHEAD_FILES = 256
_AHEAD_BLOCKS = 128
_MORE_BLOCKS = 64
"""Of a file so many blocks are wanted when it is begun, and so many more each time that as many are written."""


def copy_out(
    version: Version,
    target: Path,
    *,
    overwrite: bool = False,
    part: int | None = None,
    num_parts: int | None = None,
    workers: int = 8,
    on_file: OnFile | None = None,
) -> None:
    """Make *target* a writable copy of *version*, or of *part* (from 0) of *num_parts* of it.

    A folder there is replaced with *overwrite*, else it must be empty. Raises InvalidInput, NoSpace, and as
    `Fetcher.block`; then *target* is as it was.
    """
    stretch = part_of(version.tree.entries, part, num_parts)
    target = Path(os.path.abspath(target))
    if os.path.lexists(target) and not overwrite and not _is_empty_folder(target):
        raise InvalidInput(f"{target} exists and is not an empty folder", hint="--overwrite replaces it")
    with_parent = target.parent
    _local(lambda: with_parent.mkdir(parents=True, exist_ok=True), target)
    fresh = target.with_name(f".{target.name}.dvfs-{secrets.token_hex(4)}")
    try:
        _Copy(version, fresh, workers, on_file, read_only=False).run(stretch)
        _local(lambda: _replace(target, fresh), target)
    except BaseException:
        _remove(fresh)
        raise


def cached_copy(
    version: Version,
    root: Path,
    *,
    part: int | None = None,
    num_parts: int | None = None,
    paths: Collection[bytes] | None = None,
    workers: int = 8,
    on_file: OnFile | None = None,
) -> Path:
    """Return a read-only copy of *version* (or a part, as `copy_out`) below *root*, made if it is not there yet.

    *paths*: only these of the version, of a directory all in it. Raises NotFound for one that it has not.
    """
    stretch = part_of(version.tree.entries, part, num_parts)
    name = version.record.id if num_parts is None else f"{version.record.id}_{part}_{num_parts}"
    chosen = None
    if paths is not None:
        chosen = _ranks_of(version, paths)
        name += "_" + hashlib.sha256(b"".join(path + b"\0" for path in sorted(set(paths)))).hexdigest()[:16]
    place = root / name
    if place.is_dir():
        return place
    _local(lambda: root.mkdir(parents=True, exist_ok=True), root)
    fresh = root / f".{name}.dvfs-{secrets.token_hex(4)}"
    try:
        _Copy(version, fresh, workers, on_file, read_only=True).run(stretch, chosen)
        os.rename(fresh, place)
    except OSError as exc:
        _remove(fresh)
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST) and place.is_dir():
            return place  # another process was faster; its copy is as whole as ours
        raise _as_error(exc, place) from exc
    except BaseException:
        _remove(fresh)
        raise
    return place


def part_of(entries: int, part: int | None, num_parts: int | None) -> tuple[int, int]:
    """Return the ranks that *part* of *num_parts* covers: stretches of equal length, the first ones one longer."""
    if part is None and num_parts is None:
        return 0, entries
    if part is None or num_parts is None or not 0 <= part < num_parts:
        raise InvalidInput(f"part {part} of {num_parts} parts", hint="give --part 0 to N-1 together with --num-parts N")
    size, longer = divmod(entries, num_parts)
    start = part * size + min(part, longer)
    return start, start + size + (part < longer)


def _ranks_of(version: Version, paths: Iterable[bytes]) -> list[tuple[int, int]]:
    """Return the stretches of ranks, in order and apart, of *paths*, all below them and all directories above them."""
    stretches: list[tuple[int, int]] = [(0, 1)]
    for path in paths:
        found = version.tree.find(path)
        if found is None:
            raise NotFound(f"dataset {version.record.title} ({version.record.id}) has no {os.fsdecode(path)!r}")
        if found[1].is_dir:
            stretches.append(version.tree.subtree(path))
        above = path
        while above:
            located = version.tree.locate(above)
            if located is not None:  # else the catalog is damaged, and making what is below says so
                stretches.append((located[0], located[0] + 1))
            above = parent_of(above)
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(stretches):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        elif start < stop:
            joined.append((start, stop))
    return joined


class _Copy:
    """One copy of *version* into the folder *root*, which it makes."""

    def __init__(self, version: Version, root: Path, workers: int, on_file: OnFile | None, *, read_only: bool) -> None:
        self._version = version
        self._root = root
        self._workers = max(1, workers)
        self._on_file = on_file
        self._keep = ~0o222 if read_only else ~0
        self._open: tuple[bytes, int] | None = None

    def run(self, stretch: tuple[int, int], chosen: Sequence[tuple[int, int]] | None = None) -> None:
        """Make the files with ranks in *stretch*, and all directories; of both only those with ranks in *chosen*."""
        chosen = [(0, self._version.tree.entries)] if chosen is None else chosen
        try:
            os.mkdir(self._root, 0o700)
            with ThreadPoolExecutor(self._workers, thread_name_prefix="dvfs-copy") as pool:
                pending: deque[Future[None]] = deque()
                try:
                    for rank, path, entry in chain.from_iterable(starmap(self._version.tree.scan, chosen)):
                        if entry.is_dir or stretch[0] <= rank < stretch[1]:
                            self._make(path, entry, pool, pending)
                        while len(pending) > _AHEAD_FILES:
                            pending.popleft().result()
                    while pending:
                        pending.popleft().result()
                finally:
                    for future in pending:
                        future.cancel()
            self._finish_directories(chosen)
        except OSError as exc:
            raise _as_error(exc, self._root) from exc
        finally:
            self._close()

    def _make(self, path: bytes, entry: Entry, pool: ThreadPoolExecutor, pending: deque[Future[None]]) -> None:
        if not path:
            return
        directory = self._directory(parent_of(path))
        name = path.rpartition(b"/")[2]
        if entry.is_dir:
            os.mkdir(name, 0o700, dir_fd=directory)
        elif entry.is_link:
            os.symlink(entry.target, name, dir_fd=directory)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(name, flags, 0o600, dir_fd=directory)
            try:
                blocks = self._version.blocks(entry)
                self._version.fetcher.want(islice(blocks, _AHEAD_BLOCKS))
            except BaseException:
                os.close(handle)
                raise
            pending.append(pool.submit(self._fill, handle, path, entry, blocks))

    def _fill(self, handle: int, path: bytes, entry: Entry, ahead: Iterator[BlockRef]) -> None:
        """Write the bytes of *entry*; *ahead* yields its blocks that are not wanted yet."""
        try:
            for number, chunk in enumerate(self._version.chunks(entry), 1):
                if number % _MORE_BLOCKS == 0:
                    self._version.fetcher.want(islice(ahead, _MORE_BLOCKS))
                view = memoryview(chunk)
                while view:
                    view = view[os.write(handle, view) :]
            os.fchmod(handle, entry.mode & 0o7777 & self._keep)
            os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
        except DvfsError as exc:
            raise type(exc)(f"{os.fsdecode(path)}: {exc.message}", hint=exc.hint) from exc
        finally:
            os.close(handle)
        if self._on_file is not None:
            self._on_file(path, entry.size)

    def _finish_directories(self, chosen: Sequence[tuple[int, int]]) -> None:
        """Set modes and times of directories with ranks in *chosen*, those inside before those around them."""
        for start, stop in reversed(chosen):
            while stop > start:
                leaf, index = self._version.tree.leaf_at(stop - 1)
                for at in range(index, max(-1, index - (stop - start)), -1):
                    mode = leaf.modes[at]
                    if stat.S_ISDIR(mode):
                        directory = self._directory(leaf.path_at(at))
                        os.fchmod(directory, mode & 0o7777 & self._keep)
                        os.utime(directory, ns=(leaf.mtimes[at], leaf.mtimes[at]))
                stop -= index + 1

    def _directory(self, path: bytes) -> int:
        """Return a descriptor of directory *path* of the copy, reached step by step without following links."""
        if self._open is not None and self._open[0] == path:
            return self._open[1]
        self._close()
        handle = os.open(self._root, _DIRECTORY)
        for name in path.split(b"/") if path else ():
            try:
                below = os.open(name, _DIRECTORY, dir_fd=handle)
            except (FileNotFoundError, NotADirectoryError) as exc:
                what = f"the catalog has something below {os.fsdecode(path)!r}, which it has not as a directory"
                raise Corrupt(what) from exc
            finally:
                os.close(handle)
            handle = below
        self._open = path, handle
        return handle

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def _is_empty_folder(path: Path) -> bool:
    try:
        return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    except OSError as exc:
        raise _as_error(exc, path) from exc


def _replace(target: Path, fresh: Path) -> None:
    """Put *fresh* in the place of *target*; what was there goes when that is done."""
    if not os.path.lexists(target) or _is_empty_folder(target):
        os.rename(fresh, target)
        return
    old = target.with_name(f".{target.name}.dvfs-old-{secrets.token_hex(4)}")
    os.rename(target, old)
    os.rename(fresh, target)
    _remove(old)


def _remove(path: Path) -> None:
    """Remove a tree, its read-only directories too."""
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in _folders(path):
            os.chmod(folder, 0o700)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def _folders(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    os.chmod(path, 0o700)
    for folder, names, files in os.walk(path):
        for name in names:
            below = os.path.join(folder, name)
            if not os.path.islink(below):
                os.chmod(below, 0o700)
        yield folder, names, files


def _local(step: Callable[[], object], path: Path) -> None:
    try:
        step()
    except OSError as exc:
        raise _as_error(exc, path) from exc


def _as_error(exc: OSError, path: Path) -> DvfsError:
    what = f"{os.fsdecode(exc.filename) if exc.filename else path}: {exc.strerror}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"cannot write the copy to {what}", hint="free some space, or copy to another disk")
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InvalidInput(f"cannot write the copy to {what}", hint="the folder must be one you may write to")
    return InvalidInput(f"cannot write the copy to {what}")
