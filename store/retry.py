"""Trying again: a wrapper of the backend protocol.

What ends in Unavailable is repeated, with exponential backoff and full jitter, a bounded number of times and
not past a deadline. AccessDenied, though a kind of Unavailable, is not repeated.

The rule of doubt: a conditional write that ended in Unavailable may have been done. When its repeat then says
AlreadyExists or Conflict, the object is read back: holding our bytes (callers make them unique, by a write-id
or a pack id) it was our own lost attempt, and that is success; holding others it is the conflict. When it
cannot be read back the answer stays Unavailable: doubt never becomes success or conflict.

Thread-safe. Does not limit the rate of what succeeds, and does not log.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from dvfs.store.backend import Backend, Blob, ObjectInfo, get_if, stream
from dvfs.store.clock import Clock, SystemClock
from dvfs.store.digest import Buffer
from dvfs.store.errors import AccessDenied, Conflict, NotFound, Throttled, Unavailable

WHOLE_BYTES = 1 << 20
"""Bodies up to this size are compared whole when read back, longer ones by size and end."""

END_BYTES = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long: *attempts* in all (1 = no repeat), none started later than *deadline_seconds*
    after the first; the n-th pause is random between 0 and min(*cap_seconds*, *base_seconds* · 2^(n-1)).
    """

    attempts: int = 8
    deadline_seconds: float = 60.0
    base_seconds: float = 0.1
    cap_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Repeats:
    """How many attempts failed and were followed by another; *throttled*: of those, how many the store asked for."""

    retries: int = 0
    throttled: int = 0

    def __add__(self, others: Repeats) -> Repeats:
        return Repeats(self.retries + others.retries, self.throttled + others.throttled)


@runtime_checkable
class _Repeating(Protocol):
    @property
    def repeats(self) -> Repeats: ...


def repeats_of(backend: Backend) -> Repeats:
    """Return what *backend* tried again until now; none of one that never does."""
    return backend.repeats if isinstance(backend, _Repeating) else Repeats()


class Retrying:
    """*inner*, tried again while it is Unavailable. *jitter* returns a random number in [0, 1)."""

    def __init__(
        self,
        inner: Backend,
        clock: Clock | None = None,
        policy: RetryPolicy | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._inner = inner
        self._clock: Clock = clock or SystemClock()
        self._policy = policy or RetryPolicy()
        self._jitter = jitter
        self._lock = threading.Lock()
        self._repeats = Repeats()

    @property
    def repeats(self) -> Repeats:
        """What was tried again until now."""
        return self._repeats

    @property
    def url(self) -> str:
        return self._inner.url

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        return self._repeat(lambda: self._inner.get(key, start, length))

    def get_if(self, key: str, start: int, length: int, etag: str) -> Blob:
        return self._repeat(lambda: get_if(self._inner, key, start, length, etag))

    def stream(self, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        """See `StreamedReads.stream`; one that breaks off is begun anew after the last piece yielded."""
        source: Generator[bytes, None, None] | None = None
        sizes = [size for size in sizes if size]  # no piece is yielded for others
        done = 0

        def next_piece() -> bytes | None:
            nonlocal source
            if source is None:
                source = stream(self._inner, key, start + sum(sizes[:done]), sizes[done:])
            try:
                return next(source, None)
            except Unavailable:
                source = None
                raise

        try:
            while (piece := self._repeat(next_piece)) is not None:
                done += 1
                yield piece
        finally:
            if source is not None:
                source.close()

    def put_if_absent(self, key: str, data: Buffer) -> str:
        return self._write(key, data, lambda: self._inner.put_if_absent(key, data))

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        return self._write(key, data, lambda: self._inner.replace_if(key, data, etag))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Backend.list`; a listing that breaks off is begun anew, and goes on after the last key yielded."""
        source: Iterator[ObjectInfo] | None = None
        last = ""

        def next_item() -> ObjectInfo | None:
            nonlocal source
            if source is None:
                source = self._inner.list(prefix)
            try:
                while (item := next(source, None)) is not None:
                    if item.key > last:
                        return item
            except Unavailable:
                source = None
                raise
            return None

        while (item := self._repeat(next_item)) is not None:
            last = item.key
            yield item

    def head(self, key: str) -> ObjectInfo:
        return self._repeat(lambda: self._inner.head(key))

    def delete(self, key: str) -> None:
        self._repeat(lambda: self._inner.delete(key))

    def close(self) -> None:
        self._inner.close()

    def _repeat(self, attempt: Callable[[], T]) -> T:
        began = self._clock.monotonic()
        tries = 0
        while True:
            try:
                return attempt()
            except AccessDenied:
                raise
            except Unavailable as exc:
                tries += 1
                ceiling = min(self._policy.cap_seconds, self._policy.base_seconds * 2 ** min(tries - 1, 32))
                pause = self._jitter() * ceiling
                spent = self._clock.monotonic() - began
                if tries >= self._policy.attempts or spent + pause > self._policy.deadline_seconds:
                    if tries == 1:
                        raise
                    message = f"{exc.message} (gave up after {tries} attempts in {spent:.1f} s)"
                    raise type(exc)(message, hint=exc.hint) from exc
                with self._lock:
                    self._repeats += Repeats(1, int(isinstance(exc, Throttled)))
                self._clock.sleep(pause)

    def _write(self, key: str, data: Buffer, write: Callable[[], str]) -> str:
        in_doubt = False

        def attempt() -> str:
            nonlocal in_doubt
            try:
                return write()
            except AccessDenied:
                raise
            except Unavailable:
                in_doubt = True
                raise
            except Conflict:
                if not in_doubt:
                    raise
                etag = self._read_back(key, data)
                if etag is None:
                    raise
                return etag

        return self._repeat(attempt)

    def _read_back(self, key: str, data: Buffer) -> str | None:
        """Return the etag of the object if it holds *data*, None if it holds something else.

        Raises Unavailable when that cannot be found out.
        """
        view = memoryview(data).cast("B")
        try:
            if len(view) <= WHOLE_BYTES:
                blob = self._inner.get(key)
                return blob.etag if blob.data == view else None
            info = self._inner.head(key)
            if info.size != len(view):
                return None
            blob = self._inner.get(key, len(view) - END_BYTES, END_BYTES)
            return blob.etag if blob.data == view[-END_BYTES:] else None
        except NotFound as exc:
            raise Unavailable(f"cannot tell whether {key} was written: it is gone again") from exc
