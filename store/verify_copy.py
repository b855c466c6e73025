"""Verifying a local copy: that a folder holds the files and links of a version.

What else is in the folder, permissions and times do not count. Of directories only that they are there.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from dvfs.store.catalog.entry import Entry
from dvfs.store.cut import Cutting
from dvfs.store.errors import BadSource, Corrupt, InvalidInput
from dvfs.store.source import why
from dvfs.store.sync import digest_of
from dvfs.store.verify import WORKERS, Mismatch, Progress
from dvfs.store.version import Version

_BATCH = 64


def verify_copy(
    version: Version,
    folder: str | bytes | os.PathLike[str],
    cutting: Cutting,
    *,
    sizes_only: bool = False,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> Iterator[Mismatch]:
    """Yield every path of *version* that *folder* lacks or has otherwise, in catalog order.

    *cutting*: that of the version's store. *sizes_only*: no file is read. Raises InvalidInput where *folder* is none,
    and as `Fetcher.block` for pages of the catalog.
    """
    top = os.path.abspath(os.fsencode(folder))
    if not os.path.isdir(top):
        raise InvalidInput(f"no such folder: {os.fsdecode(folder)}")
    entries = version.entries()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="dvfs-verify") as pool:
        pending: deque[Future[list[Mismatch]]] = deque()
        try:
            while batch := list(islice(entries, _BATCH)):
                pending.append(pool.submit(_check, version, top, batch, cutting, sizes_only, progress))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _check(
    version: Version,
    top: bytes,
    batch: list[tuple[bytes, Entry]],
    cutting: Cutting,
    sizes_only: bool,
    progress: Progress | None,
) -> list[Mismatch]:
    found: list[Mismatch] = []
    for path, entry in batch:
        reason = _wrong(version, os.path.join(top, path), entry, cutting, sizes_only) if path else None
        if reason is not None:
            found.append(Mismatch(path, reason))
        if progress is not None and not entry.is_dir:
            progress.on_file(path, entry.size)
    return found


def _wrong(version: Version, local: bytes, entry: Entry, cutting: Cutting, sizes_only: bool) -> str | None:
    """Return what is wrong with *local*, None where it is as *entry* says."""
    try:
        status = os.lstat(local)
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(entry.mode):
            return f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'a special file')}"
        if entry.is_link:
            return None if os.readlink(local) == entry.target else "it points elsewhere"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as exc:
        return f"cannot read it: {why(exc)}"
    if entry.is_dir:
        return None
    if status.st_size != entry.size:
        return f"it has {status.st_size} bytes, not {entry.size}"
    if sizes_only:
        return None
    if entry.external is not None:
        return _differs_from_external(version, local, entry)
    try:
        return None if digest_of(local, cutting) == entry.digest else "its bytes do not have its digest"
    except BadSource as exc:
        return exc.message


def _differs_from_external(version: Version, local: bytes, entry: Entry) -> str | None:
    """Compare *local* with the bytes of an external file: its digest is not over them."""
    try:
        with open(local, "rb") as file:
            for chunk in version.chunks(entry):
                if file.read(len(chunk)) != chunk:
                    return "its bytes are not those of the external file"
    except Corrupt as exc:
        return f"it cannot be compared: {exc.message}"
    except OSError as exc:
        return f"cannot read it: {why(exc)}"
    return None


_KINDS = {stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link"}
