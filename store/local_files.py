"""Files of this machine that external files name by file://, read as a backend reads.

Only files in *folders* are read: a version may have been made by somebody else, and its links say what is read here,
with the rights of who reads. A key is an absolute path. What is called etag here is the mtime, inode and length of a
file. A read counts only if these are, after it, what they were meant to be.

Thread-safe. Nothing is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from dvfs.store.backend import Blob, ObjectInfo
from dvfs.store.digest import Buffer
from dvfs.store.errors import AccessDenied, NotFound, ReadOnly, Unavailable, Unsupported
from dvfs.store.source import why

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class LocalFiles:
    """The reading half of the `Backend` protocol over the files in *folders*, absolute paths."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [os.path.realpath(folder) for folder in folders]

    @property
    def url(self) -> str:
        return "file://"

    def head(self, key: str) -> ObjectInfo:
        with self._opened(key) as handle:
            return _info(key, os.fstat(handle))

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        with self._opened(key) as handle:
            size = os.fstat(handle).st_size - start if length is None else length
            parts = []
            while size > 0 and (part := os.pread(handle, size, start)):
                parts.append(part)
                start += len(part)
                size -= len(part)
            return Blob(b"".join(parts), _info(key, os.fstat(handle)).etag)

    def put_if_absent(self, key: str, data: Buffer) -> str:
        self._refuse(key)

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        self._refuse(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the regular files below the folder *prefix*, a path with a slash at its end, in order of path.

        Symbolic links in it are not followed, and left out.
        """
        found: list[ObjectInfo] = []
        todo = [prefix]
        while todo:
            folder = todo.pop()
            with _errors(folder):
                self._check(os.path.realpath(folder), folder)
                for item in os.scandir(folder):
                    if item.is_dir(follow_symlinks=False):
                        todo.append(item.path + "/")
                    elif item.is_file(follow_symlinks=False):
                        found.append(_info(item.path, item.stat(follow_symlinks=False)))
        yield from sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        self._refuse(key)

    def close(self) -> None:
        """Nothing is open."""

    def is_folder(self, key: str) -> bool:
        """Tell whether *key* is a folder that may be read."""
        with _errors(key):
            self._check(os.path.realpath(key), key)
            return os.path.isdir(key)

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        with _errors(key):
            self._check(os.path.realpath(key), key)
            handle = os.open(key, _FLAGS)
            try:
                # Links on the way may have changed since: what counts is where the open file is.
                self._check(os.readlink(f"/proc/self/fd/{handle}"), key)
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise Unsupported(f"{key} is no regular file")
                yield handle
            finally:
                os.close(handle)

    def _check(self, real: str, key: str) -> None:
        if not any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in self._folders):
            raise AccessDenied(
                f"{key}: files of this machine are read only from folders that the setting file_links names",
                hint=f"`dvfs config file_links {os.path.dirname(key.rstrip('/')) or '/'}` allows that folder, in "
                "versions of others too",
            )

    def _refuse(self, key: str) -> NoReturn:
        raise ReadOnly(f"{key} can only be read")


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, f"mtime {found.st_mtime_ns}, inode {found.st_ino}, {found.st_size} bytes", found.st_size)


@contextmanager
def _errors(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFound(f"{key} is not there") from exc
    except PermissionError as exc:
        raise AccessDenied(f"cannot read {key}: {why(exc)}") from exc
    except OSError as exc:
        raise Unavailable(f"cannot read {key}: {why(exc)}") from exc
