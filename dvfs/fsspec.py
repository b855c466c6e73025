"""`dvfs://…` for all that reads through fsspec: pandas, pyarrow, Dask, Hugging Face datasets. Read-only, without FUSE.

    dvfs://project/name@version/path/in/version      a slash in the project or in the version is written %2F
    dvfs://project/name/path/in/version              the highest finished version
    dvfs://<id>/path/in/version                      the whole id, 32 hexadecimal digits
    dvfs://tag:TAG/path/in/version

A name is resolved once by each filesystem object, and stays what it was also where that is pickled to. Bytes are
fetched by ranges, verified, and kept in the cache that mounts use too. Thread-safe; may be carried over a fork.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from errno import EISDIR, ENOENT, EROFS
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from fsspec.spec import AbstractFileSystem

from dvfs.fs.errno import errno_of
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.following import follow
from dvfs.store.errors import DvfsError, NotFound
from dvfs.store.ids import is_version_id
from dvfs.store.open_versions import OpenVersion, OpenVersions
from dvfs.store.record import Record
from dvfs.store.stream import BUFFER_BYTES, MOST_AHEAD_BYTES, Stream
from dvfs.store.version import Version
from dvfs.surroundings import THIS_PROGRAM

Info = dict[str, Any]

_VERSIONS = OpenVersions(THIS_PROGRAM.stores)
_FORMS = "dvfs://project/name@version/path, dvfs://project/name/path, dvfs://ID/path or dvfs://tag:TAG/path"


class _Place(NamedTuple):
    """What is at a path: its *record* and opened *version*; the *path* there and its *entry*, links followed."""

    record: Record
    opened: OpenVersion
    path: bytes
    entry: Entry

    @property
    def version(self) -> Version:
        return self.opened.version


class DvfsFile(io.BufferedReader):
    """An open file. *path*, *size*, *fs*: as other files of fsspec have them. May be pickled; it is opened again."""

    def __init__(self, fs: DvfsFileSystem, path: str, stream: Stream, buffer_bytes: int) -> None:
        super().__init__(stream, buffer_bytes)
        self.fs = fs
        self.path = path
        self.size = stream.size
        self.blocksize = buffer_bytes

    @property
    def mode(self) -> str:
        return "rb"

    @property
    def name(self) -> str:
        return self.path

    def info(self) -> Info:
        """Return what `DvfsFileSystem.info` says of it."""
        found: Info = self.fs.info(self.path)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.fs, self.path, self.blocksize, self.tell())


class DvfsFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """The versions of *store*, a path or URL; by default that of the settings (environment, configuration file)."""

    protocol = "dvfs"
    root_marker = ""

    def __init__(self, store: str | None = None, **storage_options: Any) -> None:
        super().__init__(**storage_options)
        with _os_errors():
            self._settings = THIS_PROGRAM.settings(store)
        self._resolved: dict[str, Record] = {}

    @property
    def store_url(self) -> str:
        """The store, canonical."""
        return self._settings.url

    @property
    def fsid(self) -> str:
        return f"dvfs:{self.store_url}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.storage_args, self.storage_options, self.store_url, dict(self._resolved))

    # -- what is there

    def version_of(self, path: str) -> str:
        """Return the id of the version that *path* is in."""
        path = self._strip_protocol(path)
        with _os_errors(path):
            return self._record(_split(path)[0]).id

    def info(self, path: str, **kwargs: Any) -> Info:
        """Return name, size, type, mode, mtime and, of a file, digest (also as ETag) of *path*; links are followed."""
        path = self._strip_protocol(path)
        with _os_errors(path):
            place = self._at(path)
            return _info(path, place.version, place.path, place.entry)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Info] | list[str]:
        """Return what is in the directory *path*, or the file itself: names, or with *detail* dicts as of `info`."""
        path = self._strip_protocol(path)
        with _os_errors(path):
            place = self._at(path)
            if not place.entry.is_dir:
                found = [_info(path, place.version, place.path, place.entry)]
            else:
                first, count = place.version.tree.children(place.path)
                found = list(_infos(path, place, first, first + count))
        return found if detail else [info["name"] for info in found]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> list[str] | dict[str, Info]:
        """Return the files below *path* (and the directories, with *withdirs*), sorted; by name if *detail*.

        All of a subtree is one run of the catalog: no directory is listed by itself. Links to directories are listed as
        they are, and not entered.
        """
        if maxdepth is not None:
            limited: list[str] | dict[str, Info] = super().find(path, maxdepth, withdirs, detail, **kwargs)
            return limited
        path = self._strip_protocol(path)
        found: dict[str, Info] = {}
        with _os_errors(path):
            try:
                place = self._at(path)
            except FileNotFoundError:
                return {} if detail else []
            if place.entry.is_dir:
                infos = _infos(path, place, *place.version.tree.subtree(place.path))
                found = {info["name"]: info for info in infos if withdirs or info["type"] != "directory"}
            if withdirs or not place.entry.is_dir:
                found[path] = _info(path, place.version, place.path, place.entry)
        names = sorted(found)
        return {name: found[name] for name in names} if detail else names

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: str | Callable[[OSError], None] = "omit",
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """Walk the tree below *path*. What is not there is left out; a store that does not answer is an error."""
        on_error = _raise_unless_missing if on_error == "omit" else on_error
        yield from super().walk(path, maxdepth, topdown, on_error, **kwargs)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Tell whether *path* is there. Raises OSError where that cannot be told."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """Tell whether *path* is a directory, or a link to one; else as `exists`."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Tell whether *path* is a file, or a link to one; else as `exists`."""
        return self._type(path) == "file"

    def modified(self, path: str) -> datetime:
        """Return when *path* was changed, as the version says."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    # -- bytes

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes of *path* from *start* to before *end*; negative ones count from its end."""
        path = self._strip_protocol(path)
        with _os_errors(path):
            place = self._file(path)
            first, last = _range(start, end, place.entry.size)
            if last > first:
                _want(place, first, last)
            return place.version.read(place.entry, first, max(0, last - first))

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Sequence[int | None] | int | None,
        ends: Sequence[int | None] | int | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Return the bytes of each range, fetched together; an error in its place unless *on_error* is raise."""
        first = list(starts) if isinstance(starts, Sequence) else [starts] * len(paths)
        last = list(ends) if isinstance(ends, Sequence) else [ends] * len(paths)
        if len(first) != len(paths) or len(last) != len(paths):
            raise ValueError("as many starts and ends as paths are needed")
        for path, start, end in zip(paths, first, last, strict=True):
            try:
                with _os_errors(path):
                    place = self._file(self._strip_protocol(path))
                    _want(place, *_range(start, end, place.entry.size))
            except OSError:
                continue  # told in its turn
        found: list[bytes | Exception] = []
        for path, start, end in zip(paths, first, last, strict=True):
            try:
                found.append(self.cat_file(path, start, end))
            except Exception as exc:
                if on_error == "raise":
                    raise
                found.append(exc)
        return found

    def _open(self, path: str, mode: str = "rb", block_size: int | str | None = None, **kwargs: Any) -> DvfsFile:
        path = self._strip_protocol(path)
        if mode not in ("rb", "r"):
            self._refuse(path)
        with _os_errors(path):
            place = self._file(path)
        buffer_bytes = block_size if isinstance(block_size, int) and block_size > 0 else BUFFER_BYTES
        stream = Stream(
            place.entry,
            partial(self._opened, place.record),
            partial(_os_error, path=path),
            buffer_bytes=buffer_bytes,
        )
        return DvfsFile(self, path, stream, buffer_bytes)

    # -- nothing is changed

    def _refuse(self, path: object = None, *args: Any, **kwargs: Any) -> Any:
        """Raise OSError: versions never change."""
        raise OSError(EROFS, "versions of datasets never change; `dvfs` and dvfs.Dataset make new ones", str(path))

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = mv = _refuse
    put_file = pipe_file = touch = write_bytes = write_text = _refuse

    # -- inside

    def _record(self, spec: str) -> Record:
        found = self._resolved.get(spec)
        if found is None:
            try:
                found = THIS_PROGRAM.stores.open(self._settings).resolve(spec, "finished")
            except NotFound as exc:
                raise FileNotFoundError(ENOENT, f"{exc.message} in {self.store_url} ({_FORMS})") from exc
            found = self._resolved.setdefault(spec, found)  # of two threads one wins
        return found

    def _opened(self, record: Record) -> OpenVersion:
        opened = _VERSIONS.open(self._settings, record)
        THIS_PROGRAM.note(self._settings, record.id, "fsspec")
        return opened

    def _at(self, path: str) -> _Place:
        """Return what is at *path*. Raises FileNotFoundError, and as the store."""
        spec, inside = _split(path)
        record = self._record(spec)
        opened = self._opened(record)
        found = follow(opened.version.tree, inside)
        if found is None:
            raise FileNotFoundError(ENOENT, f"dataset {record.title} has no such file", path)
        return _Place(record, opened, *found)

    def _file(self, path: str) -> _Place:
        place = self._at(path)
        if not place.entry.is_file:
            raise IsADirectoryError(EISDIR, "it is a directory", path)
        return place

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None


def _split(path: str) -> tuple[str, bytes]:
    """Return the dataset that *path* names, as the store resolves it, and the path in it. Raises FileNotFoundError."""
    first, _, rest = path.partition("/")
    if is_version_id(first) or first.startswith("tag:"):
        return unquote(first), os.fsencode(rest)
    name, _, inside = rest.partition("/")
    if not first or not name:
        raise FileNotFoundError(ENOENT, f"it names no dataset: {_FORMS}", path)
    return f"{unquote(first)}/{unquote(name)}", os.fsencode(inside)


def _infos(base: str, place: _Place, start: int, stop: int) -> Iterator[Info]:
    """Yield what `info` says of the entries from rank *start* to before *stop*, as below *base*, which is *place*."""
    skip = len(place.path) + 1 if place.path else 0
    for _, path, entry in place.version.tree.scan(start, stop):
        yield _info(f"{base}/{os.fsdecode(path[skip:])}", place.version, path, entry)


def _info(name: str, version: Version, path: bytes, entry: Entry) -> Info:
    """Return what fsspec is told of *entry* at *path*, which is called *name*."""
    led_to: Entry | None = entry
    if entry.is_link:
        found = follow(version.tree, path)
        # A listing must not lead into circles: a link to a directory is none.
        led_to = found[1] if found is not None and found[1].is_file else None
    shown = led_to or entry
    info: Info = {
        "name": name,
        "size": shown.size if shown.is_file else 0,
        "type": "file" if shown.is_file else "directory" if shown.is_dir else "link",
        "mode": shown.mode,
        "mtime": shown.mtime_ns / 1e9,
        "islink": entry.is_link,
    }
    if shown.is_file:
        info["digest"] = info["ETag"] = shown.digest.hex()
    if entry.is_link:
        info["destination"] = os.fsdecode(entry.target)
    return info


def _want(place: _Place, start: int, stop: int) -> None:
    """Have what is read of a file fetched at the same time, where that is several blocks."""
    stop = min(stop, start + MOST_AHEAD_BYTES)
    load = place.version.pages.load_blocks
    blocks = [extent.block for extent in blocktree.iter_extents(place.entry.content, start, stop - start, load)]
    if not all(map(place.version.fetcher.cached, blocks)):
        place.version.fetcher.want(blocks)


def _range(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    first = 0 if start is None else start if start >= 0 else max(0, size + start)
    last = size if end is None else end if end >= 0 else size + end
    return first, min(last, size)


@contextmanager
def _os_errors(path: str | None = None) -> Iterator[None]:
    """Raise errors of the store as OSError with their message, *path* in it."""
    try:
        yield
    except DvfsError as exc:
        raise _os_error(exc, path) from exc


def _os_error(error: DvfsError, path: str | None = None) -> OSError:
    text = error.message if error.hint is None else f"{error.message} ({error.hint})"
    return OSError(errno_of(error), text) if path is None else OSError(errno_of(error), text, path)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _reopened(fs: DvfsFileSystem, path: str, block_size: int, position: int) -> DvfsFile:
    file = fs._open(path, block_size=block_size)
    file.seek(position)
    return file


def _rebuilt(
    kind: type[DvfsFileSystem],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    store_url: str,
    resolved: dict[str, Record],
) -> DvfsFileSystem:
    """Return the file system that was pickled: of the same store, with names that stand for the same versions."""
    fs = kind(*arguments, **options)
    if fs.store_url != store_url:  # another machine has another store by default
        arguments, options = (), {**options, "store": store_url}
        fs = kind(**options)
    if any(fs._resolved.get(spec, record).id != record.id for spec, record in resolved.items()):
        fs = kind(*arguments, **options, skip_instance_cache=True)
    fs._resolved.update(resolved)
    return fs
