"""The protocol that each kind of storage fulfils: a flat map from key to bytes with conditional writes.

Keys are relative to the store's URL, components joined by `/`, of letters, digits and `%_.-~`.
Implementations and their wrappers are thread-safe. All raise only errors of `dvfs.store.errors`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dvfs.store.digest import Buffer
from dvfs.store.errors import Conflict, InvalidInput

_AT_ONCE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A listed object: its *key*, its *etag* (equal bytes written by one write have one etag), its *size* in bytes."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes read from an object, with the *etag* of the object they came from."""

    data: bytes
    etag: str


class Backend(Protocol):
    """A prefix of some storage."""

    @property
    def url(self) -> str:
        """Where this is, without credentials."""
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        """Return up to *length* bytes of the object from byte *start* on (all from there when None).

        Fewer come back only where the object ends; a body cut short on the way is Unavailable.
        Raises NotFound, Unavailable, AccessDenied.
        """
        ...

    def put_if_absent(self, key: str, data: Buffer) -> str:
        """Write a new object whole or not at all, durably; return its etag.

        Raises AlreadyExists, Unavailable (then it may or may not have been written), AccessDenied, NoSpace.
        """
        ...

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        """Overwrite the object if its etag still is *etag*; return the new etag.

        Raises Conflict (changed, or gone), Unavailable (then it may or may not have been written), AccessDenied.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with *prefix*, in order of key. Raises Unavailable, AccessDenied."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """Return what `list` would say of one object. Raises NotFound, Unavailable, AccessDenied."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is no error. Raises Unavailable, AccessDenied."""
        ...

    def close(self) -> None:
        """Let go of connections and descriptors; the backend is not used after it."""
        ...


def check_range(key: str, start: int, length: int | None) -> None:
    """Raise InvalidInput unless `get` can take this range."""
    if start < 0 or (length is not None and length < 0):
        raise InvalidInput(f"cannot read {length} bytes at {start} of {key}: negative")


@runtime_checkable
class ConditionalReads(Protocol):
    """What a backend can do besides: have the storage refuse to send bytes of another object than the one meant."""

    def get_if(self, key: str, start: int, length: int, etag: str) -> Blob:
        """Do as `get`, if the etag of the object is *etag*. Raises Conflict when it is another, and as `get`."""
        ...


def get_if(backend: Backend, key: str, start: int, length: int, etag: str) -> Blob:
    """Return bytes of the object *key* whose etag is *etag*, also where *backend* cannot have that checked.

    Raises Conflict when it is another, saying which if that is known, and as `Backend.get`.
    """
    if isinstance(backend, ConditionalReads):
        blob = backend.get_if(key, start, length, etag)
    else:
        blob = backend.get(key, start, length)
    if blob.etag != etag:
        raise Conflict(f"its etag is {blob.etag}")
    return blob


@runtime_checkable
class StreamedReads(Protocol):
    """What a backend can do besides: hand on the beginning of a range while the rest of it is on its way."""

    def stream(self, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        """Yield the bytes of the object from byte *start* on, in one request, in pieces of *sizes* bytes each.

        A piece is shorter, and the last one, only where the object ends; a body cut short on the way is Unavailable.
        Raises as `Backend.get`, at any piece.
        """
        ...


def stream(backend: Backend, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
    """Yield pieces of the object *key* as `StreamedReads.stream`; where *backend* cannot, after as many requests as
    keep the memory they take small.
    """
    if isinstance(backend, StreamedReads):
        yield from backend.stream(key, start, sizes)
        return
    done = 0
    while done < len(sizes):
        some = 1
        while done + some < len(sizes) and sum(sizes[done : done + some + 1]) <= _AT_ONCE_BYTES:
            some += 1
        data = backend.get(key, start + sum(sizes[:done]), sum(sizes[done : done + some])).data
        yield from cut(data, sizes[done : done + some])
        done += some


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Yield *data* in pieces of *sizes* bytes, as far as it goes."""
    at = 0
    for size in sizes:
        piece = data[at : at + size]
        if piece:
            yield piece
        at += size
