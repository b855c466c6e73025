"""Counting: a wrapper of the backend protocol that says what was asked of a store.

Laid inside `Retrying` it counts attempts, which is what a store sees. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from dvfs.store.backend import Backend, Blob, ObjectInfo, get_if, stream
from dvfs.store.digest import Buffer
from dvfs.store.errors import DvfsError

LIST_PAGE = 1000
"""Keys that one request lists."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Calls by operation, failed ones included; *bytes_in* read from and *bytes_out* written to the store.

    *list* counts requests of up to `LIST_PAGE` keys each, *listed* the keys. *errors* counts calls that failed.
    """

    get: int = 0
    put_if_absent: int = 0
    replace_if: int = 0
    list: int = 0
    head: int = 0
    delete: int = 0
    listed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    errors: int = 0

    @property
    def requests(self) -> int:
        """All requests."""
        return self.get + self.put_if_absent + self.replace_if + self.list + self.head + self.delete

    def __sub__(self, earlier: Counts) -> Counts:
        """Return what was counted since *earlier*."""
        return Counts(**{name: getattr(self, name) - getattr(earlier, name) for name in Counts.__slots__})


class Metered:
    """*inner*, counted. `counts` is a snapshot."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._counts = Counts()

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def counts(self) -> Counts:
        """What was counted until now."""
        return self._counts

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        return self._get(lambda: self._inner.get(key, start, length))

    def get_if(self, key: str, start: int, length: int, etag: str) -> Blob:
        return self._get(lambda: get_if(self._inner, key, start, length, etag))

    def stream(self, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        self._add(Counts(get=1))
        try:
            for piece in stream(self._inner, key, start, sizes):
                self._add(Counts(bytes_in=len(piece)))
                yield piece
        except DvfsError:
            self._add(Counts(errors=1))
            raise

    def _get(self, read: Callable[[], Blob]) -> Blob:
        try:
            blob = read()
        except DvfsError:
            self._add(Counts(get=1, errors=1))
            raise
        self._add(Counts(get=1, bytes_in=len(blob.data)))
        return blob

    def put_if_absent(self, key: str, data: Buffer) -> str:
        sent = memoryview(data).nbytes
        try:
            etag = self._inner.put_if_absent(key, data)
        except DvfsError:
            self._add(Counts(put_if_absent=1, errors=1))
            raise
        self._add(Counts(put_if_absent=1, bytes_out=sent))
        return etag

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        sent = memoryview(data).nbytes
        try:
            new = self._inner.replace_if(key, data, etag)
        except DvfsError:
            self._add(Counts(replace_if=1, errors=1))
            raise
        self._add(Counts(replace_if=1, bytes_out=sent))
        return new

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._add(Counts(list=1))
        seen = 0
        try:
            for item in self._inner.list(prefix):
                if seen and seen % LIST_PAGE == 0:
                    self._add(Counts(list=1))
                seen += 1
                yield item
        except DvfsError:
            self._add(Counts(errors=1))
            raise
        finally:
            self._add(Counts(listed=seen))

    def head(self, key: str) -> ObjectInfo:
        try:
            info = self._inner.head(key)
        except DvfsError:
            self._add(Counts(head=1, errors=1))
            raise
        self._add(Counts(head=1))
        return info

    def delete(self, key: str) -> None:
        try:
            self._inner.delete(key)
        except DvfsError:
            self._add(Counts(delete=1, errors=1))
            raise
        self._add(Counts(delete=1))

    def close(self) -> None:
        self._inner.close()

    def _add(self, more: Counts) -> None:
        with self._lock:
            old = self._counts
            self._counts = replace(old, **{name: getattr(old, name) + getattr(more, name) for name in Counts.__slots__})
