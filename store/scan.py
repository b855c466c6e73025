"""Scanning: what `add` and `sync` find on the local disk, in catalog order, without reading any file's bytes.

A folder's content goes to the dataset folder, and the folder itself stands for it; a file goes there by its name.
Symbolic links stay links. What cannot be taken is collected by name and told at the end. Folders are walked by
descriptors, so depth and length of paths are bounded by open files, not by the kernel's path length.

A `Scan` is used by one thread. It keeps the names of one folder per level in memory, no more.
"""

from __future__ import annotations

import errno
import glob
import heapq
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

from dvfs.store.catalog.key import PATH_MAX_BYTES, check_path, key_of, parent_of
from dvfs.store.errors import BadSource, InvalidInput
from dvfs.store.failures import Failures, plural, printable
from dvfs.store.ignore import IGNORE_FILE, IgnoreRules, read_ignore_file
from dvfs.store.include import wildcards
from dvfs.store.lstats import lstats
from dvfs.store.same import READABLE_BY_ALL, Same, SameFolders
from dvfs.store.source import (
    Kind,
    Source,
    directory_source,
    file_source,
    link_source,
    parent_source,
    why,
)

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How to scan.

    *recursive*: folders inside the given folders too. *include*: of folders only the files and links that match one of
    these wildcards, and the folders that they are in; see `include`. *follow_links*: take what symbolic links lead to;
    those that lead nowhere or back up stay links. *exclude*: gitignore patterns, relative to each given folder.
    *skip_unreadable*, *skip_special*: leave such files (fifos, sockets, devices are special) out instead of failing.
    """

    recursive: bool = True
    follow_links: bool = False
    exclude: tuple[str, ...] = ()
    skip_unreadable: bool = False
    skip_special: bool = False
    include: tuple[str, ...] = ()


def expand(arguments: Iterable[str | bytes | os.PathLike[str] | os.PathLike[bytes]]) -> list[bytes]:
    """Return the absolute local paths that *arguments* name; one with wildcards that is no path itself is expanded.

    Raises InvalidInput for what names nothing.
    """
    found: list[bytes] = []
    for argument in arguments:
        path = os.fsencode(argument)
        if os.path.lexists(path):
            found.append(os.path.abspath(path))
            continue
        matches = sorted(glob.iglob(path, recursive=True)) if glob.has_magic(path) else []
        if not matches:
            what = "nothing matches" if glob.has_magic(path) else "no such file or folder:"
            raise InvalidInput(f"{what} {printable(path)}")
        found += map(os.path.abspath, matches)
    return found


def dataset_folder(text: str | bytes) -> bytes:
    """Return *text* as the path of a folder of a dataset; slashes around it do not matter. Raises InvalidInput."""
    path = os.fsencode(text).strip(b"/")
    if path == b".":
        return b""
    check_path(path)
    return path


class Scan:
    """One pass over local paths; iterating it once yields a `Source` for each path of the dataset, in catalog order.

    After the last one, iterating raises BadSource if anything could not be taken, with names and count; so who
    stages what it yields stages nothing of a scan that fails. Of two sources for one path the later given wins.
    """

    def __init__(self, paths: Sequence[bytes], options: ScanOptions, *, folder: bytes = b"") -> None:
        """Scan the absolute local *paths* (see `expand`) into the dataset's *folder* (see `dataset_folder`)."""
        self.failures = Failures()
        self.skipped = Failures()
        self._paths = paths
        self._options = options
        self._folder = folder
        self._rules = IgnoreRules.of(options.exclude)
        self._includes = wildcards(options.include, recursive=options.recursive) if options.include else None

    def __iter__(self) -> Iterator[Source]:
        return cast("Iterator[Source]", self._found(None))

    def compared(self, same: SameFolders) -> Iterator[Source | Same]:
        """Do as iterating does; in the place of the children of a folder that are as *same* has them comes a `Same`."""
        return self._found(same)

    def _found(self, same: SameFolders | None) -> Iterator[Source | Same]:
        folders = [number for number, path in enumerate(self._paths) if os.path.isdir(path)]
        if len(folders) == 1 == len(self._paths):
            yield from self._parents(up_to=-1)
            quick = self._options.recursive and not self._options.follow_links and self._includes is None
            yield from self._walk_all(self._paths[0], same) if quick else self._walk(self._paths[0])
        else:
            streams = [_numbered(number, self._walk(self._paths[number])) for number in folders]
            taken = set(folders)
            given = enumerate(self._paths)
            files = [(n, found) for n, path in given if n not in taken for found in self._file(path)]
            files.sort(key=lambda item: (key_of(item[1].path), item[0]))
            yield from _merged([_numbered(-1, self._parents()), iter(files), *streams])
        hint = "--skip-unreadable and --skip-special leave such files out"
        self.failures.raise_as(BadSource, "cannot be taken:", hint=hint)

    def _parents(self, *, up_to: int | None = None) -> Iterator[Source]:
        """Yield the folders above what is found, the dataset folder too; only those *up_to* that one."""
        names = self._folder.split(b"/") if self._folder else []
        for count, _ in enumerate(names[:up_to], 1):
            yield parent_source(b"/".join(names[:count]))

    def _file(self, source: bytes) -> Iterator[Source]:
        """Yield the source for one given path that is no folder."""
        name = os.path.basename(source)
        if self._rules.ignores(name, is_folder=False):
            return
        parent = os.path.dirname(source)
        taken = None
        try:
            handle = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            level = _Level(handle, parent, self._folder, b"", self._rules, ())
            try:
                taken = self._child(level, name, os.stat(name, dir_fd=handle, follow_symlinks=False))
            finally:
                level.close()
        except OSError as exc:
            self._refuse(source, why(exc), skip=self._options.skip_unreadable)
        if taken is not None:
            yield taken

    def _walk(self, folder: bytes) -> Iterator[Source]:
        """Yield the sources of the local *folder* and, if recursive, of all below it, in catalog order.

        With wildcards the folder is walked twice: which folders hold something must be known before their content.
        """

        def walk() -> Iterator[Source]:
            return cast("Iterator[Source]", self._walk_all(folder, None))

        if self._includes is None:
            yield from walk()
            return
        needed: set[bytes] = set()
        told = self.failures, self.skipped
        self.failures, self.skipped = Failures(), Failures()  # the second walk tells
        for source in walk():
            parent = parent_of(source.path)
            while source.kind is not Kind.DIRECTORY and parent not in needed:
                needed.add(parent)
                parent = parent_of(parent)
        self.failures, self.skipped = told
        for source in walk():
            if source.path in needed if source.kind is Kind.DIRECTORY else parent_of(source.path) in needed:
                yield source

    def _walk_all(self, folder: bytes, same: SameFolders | None) -> Iterator[Source | Same]:
        stack: list[_Level] = []
        try:
            top = self._open_level(None, folder, folder, self._folder, b"")
            if top is None:
                return
            yield directory_source(self._folder, folder, os.fstat(top.handle))
            stack.append(top)
            yield from self._listed(top, same)
            while stack:
                level = stack[-1]
                if not level.pending:
                    stack.pop().close()
                    continue
                name = level.pending.pop()
                below = self._open_level(level, name, *level.places(name))
                if below is not None:
                    stack.append(below)
                    yield from self._listed(below, same)
        finally:
            for level in stack:
                level.close()

    def _open_level(
        self, above: _Level | None, name: bytes, source: bytes, path: bytes, relative: bytes
    ) -> _Level | None:
        """Open a folder; note it and return None when that does not work."""
        flags = _DIRECTORY_FLAGS | (0 if above is None or self._options.follow_links else os.O_NOFOLLOW)
        try:
            handle = os.open(name, flags, dir_fd=None if above is None else above.handle)
        except OSError as exc:
            if exc.errno == errno.EMFILE:
                raise InvalidInput(
                    f"too many open files at a depth of {relative.count(b'/') + 1} folders: {printable(source)}",
                    hint="raise the limit with `ulimit -n`",
                ) from exc
            self._refuse(source, why(exc), skip=self._options.skip_unreadable)
            return None
        rules = self._rules if above is None else above.rules
        above_it = () if above is None else above.chain
        chain = (*above_it, _identity(os.fstat(handle))) if self._options.follow_links else ()
        return _Level(handle, source, path, relative, rules, chain)

    def _listed(self, level: _Level, same: SameFolders | None) -> Iterator[Source | Same]:
        """Yield the children of the folder of *level*; note in it which of them are folders to walk."""
        try:
            listed = os.listdir(level.handle)
            names = sorted(os.fsencode("\0".join(listed)).split(b"\0")) if listed else []
        except OSError as exc:
            self._refuse(level.source, why(exc), skip=self._options.skip_unreadable)
            return
        if IGNORE_FILE in names:
            patterns = read_ignore_file(level.handle, printable(level.source))
            if patterns is not None:
                level.rules = level.rules.below(level.relative, patterns)
        if len(level.path) + 256 > PATH_MAX_BYTES and any(
            len(level.path) + 1 + len(name) > PATH_MAX_BYTES for name in names
        ):
            raise InvalidInput(f"paths below {printable(level.source)} are longer than {PATH_MAX_BYTES} bytes")
        known = self._known(level, names, same) if same is not None and not level.rules else None
        if known is not None:
            yield known
            return
        for name in names:
            try:
                found = os.stat(name, dir_fd=level.handle, follow_symlinks=False)
                taken = self._child(level, name, found) if self._is_wanted(level, name, found.st_mode) else None
            except FileNotFoundError:
                continue  # removed since the folder was listed
            except OSError as exc:
                self._refuse(level.places(name)[0], why(exc), skip=self._options.skip_unreadable)
                continue
            if taken is None:
                continue
            if taken.kind is Kind.DIRECTORY:
                if not self._options.recursive:
                    continue
                level.pending.append(name)
            yield taken
        level.pending.reverse()

    def _known(self, level: _Level, names: list[bytes], same: SameFolders) -> Same | None:
        """Return where *same* has all children of the folder of *level*, and note in it the folders among them."""
        try:
            found = lstats(level.handle, names)
        except OSError:
            return None
        known = same.find(level.path, names, found)
        if known is not None and known.has_folders:
            folders = [name for name, mode in zip(names, found.modes, strict=True) if stat.S_ISDIR(mode)]
            level.pending.extend(reversed(folders))
        return known

    def _is_wanted(self, level: _Level, name: bytes, mode: int) -> bool:
        """Tell whether the child of a folder is one that the wildcards, if there are any, let be looked at."""
        if self._includes is None or stat.S_ISDIR(mode) or self._includes(level.places(name)[2]):
            return True
        led_to = self._followed(level, name) if self._options.follow_links and stat.S_ISLNK(mode) else None
        return led_to is not None and stat.S_ISDIR(led_to.st_mode)

    def _child(self, level: _Level, name: bytes, found: os.stat_result) -> Source | None:
        """Return the source for one child of a folder; None if it is ignored or could not be taken."""
        kind = found.st_mode & 0o170000
        source = level.source + b"/" + name if level.source != b"/" else b"/" + name
        path = level.path + b"/" + name if level.path else name
        if kind == stat.S_IFLNK and self._options.follow_links:
            led_to = self._followed(level, name)
            if led_to is not None:
                found = led_to
                kind = found.st_mode & 0o170000
                if kind == stat.S_IFREG:
                    source = os.path.realpath(source)
        if level.rules and level.rules.ignores(
            level.relative + b"/" + name if level.relative else name, is_folder=kind == stat.S_IFDIR
        ):
            return None
        if kind == stat.S_IFREG:
            # Bits that let everybody read spare a system call; what they promise wrongly fails in upload.
            if found.st_mode & READABLE_BY_ALL != READABLE_BY_ALL and not os.access(
                name, os.R_OK, dir_fd=level.handle, effective_ids=True
            ):
                self._refuse(source, "permission denied", skip=self._options.skip_unreadable)
                return None
            return file_source(path, source, found)
        if kind == stat.S_IFDIR:
            return directory_source(path, source, found)
        if kind == stat.S_IFLNK:
            return link_source(path, source, found, os.readlink(name, dir_fd=level.handle))
        self._refuse(source, _SPECIAL.get(kind, "special file"), skip=self._options.skip_special)
        return None

    def _followed(self, level: _Level, name: bytes) -> os.stat_result | None:
        """Return the stat of what the link *name* leads to; None if that is nothing, or a folder above it."""
        try:
            found = os.stat(name, dir_fd=level.handle)
        except OSError:
            return None
        return None if _identity(found) in level.chain else found

    def _refuse(self, source: bytes, reason: str, *, skip: bool) -> None:
        (self.skipped if skip else self.failures).add(source, reason)

    def skipped_text(self) -> str | None:
        """Return one line on what was left out; None if nothing was."""
        if not self.skipped.count:
            return None
        return f"{plural(self.skipped.count, 'file')} left out:{self.skipped.listing()}"


@dataclass(slots=True)
class _Level:
    """One open folder of a walk.

    *source*: its local path. *path*: in the dataset. *relative*: to the top of the walk. *chain*: identities of it
    and the folders above, when links are followed. *pending*: folders in it still to be walked, the next one last.
    """

    handle: int
    source: bytes
    path: bytes
    relative: bytes
    rules: IgnoreRules
    chain: tuple[tuple[int, int], ...]
    pending: list[bytes] = field(default_factory=list)

    def places(self, name: bytes) -> tuple[bytes, bytes, bytes]:
        """Return local path, path in the dataset and relative path of the child *name*."""
        return (
            self.source + b"/" + name if self.source != b"/" else b"/" + name,
            self.path + b"/" + name if self.path else name,
            self.relative + b"/" + name if self.relative else name,
        )

    def close(self) -> None:
        os.close(self.handle)


_SPECIAL = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _numbered(number: int, sources: Iterator[Source]) -> Iterator[tuple[int, Source]]:
    for source in sources:
        yield number, source


def _merged(streams: list[Iterator[tuple[int, Source]]]) -> Iterator[Source]:
    """Merge *streams*, each in catalog order, into one: one source a path, that of the highest number.

    A directory wins over a PARENT; what lies below a path that became a file or a link is left out.
    """
    covered: tuple[bytes, ...] = ()
    merged = heapq.merge(*streams, key=lambda item: key_of(item[1].path))
    for path, group in groupby(merged, key=lambda item: item[1].path):
        if covered and path.startswith(covered):
            continue
        rivals = sorted(group, key=lambda item: (item[1].kind is not Kind.PARENT, item[0]))
        winner = rivals[-1][1]
        if winner.kind is not Kind.DIRECTORY and any(rival.kind is Kind.DIRECTORY for _, rival in rivals):
            covered += (path + b"/",)
        yield winner
