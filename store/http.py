"""Objects of http and https servers, read as a backend reads: the only module that speaks HTTP by itself.

A key is a whole URL. What is called etag here says all that pins an object: its strong ETag, or where the server has
none its Last-Modified, and its length. A weak ETag says nothing of bytes and is passed over.

Thread-safe. Nothing can be written or listed. Redirects are followed, to http and https alone, five at most. Requests
go to the servers themselves: proxies are not asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from dvfs.store.backend import Blob, ObjectInfo
from dvfs.store.digest import Buffer
from dvfs.store.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    NotFound,
    ReadOnly,
    Throttled,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_REDIRECTS = 5
_STRONG = re.compile(r'"[\x21\x23-\x7e]*"')
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MODIFIED = "modified "
_CHUNK_BYTES = 1 << 16
_MOST_SKIPPED_BYTES = 64 << 20
"""A server that sends no ranges is asked for a whole object up to this length, for each range of it."""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to speak to servers: timeouts in seconds, for the connection and between two bytes; *connections* kept."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    connections: int = 32


class HttpBackend:
    """The reading half of the `Backend` protocol, and `ConditionalReads`, of all http and https URLs."""

    def __init__(self, options: HttpOptions | None = None) -> None:
        self._options = options or HttpOptions()
        self._pool: PoolManager | None = None

    @property
    def url(self) -> str:
        return "http"

    def head(self, key: str) -> ObjectInfo:
        """See `Backend.head`. Raises Unsupported where the server says too little to pin the object."""
        with self._asked("HEAD", key, {}) as answer:
            _check(answer, key)
            length = answer.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise Unsupported(f"{key}: the server does not say how long it is")
            return ObjectInfo(key, _etag(answer, key, int(length)), int(length))

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        """See `Backend.get`."""
        return self._get(key, start, length, {})

    def get_if(self, key: str, start: int, length: int, etag: str) -> Blob:
        """See `ConditionalReads.get_if`."""
        validator = etag.rpartition(", ")[0]
        if validator.startswith(_MODIFIED):
            return self._get(key, start, length, {"If-Unmodified-Since": validator.removeprefix(_MODIFIED)})
        return self._get(key, start, length, {"If-Match": validator})

    def put_if_absent(self, key: str, data: Buffer) -> str:
        self._refuse(key)

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        self._refuse(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        raise Unsupported(f"{prefix}: an http server cannot be asked what is in a folder", hint="name each file")

    def delete(self, key: str) -> None:
        self._refuse(key)

    def close(self) -> None:
        """Close the connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.clear()

    def _get(self, key: str, start: int, length: int | None, condition: dict[str, str]) -> Blob:
        stop = None if length is None else start + length
        headers = condition | {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        with self._asked("GET", key, headers) as answer:
            if answer.status in (412, 416):
                raise Conflict(f"{key} was changed by somebody else")
            _check(answer, key)
            if answer.status == 206:
                found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != start:
                    raise Unavailable(f"{key}: another range came than was asked for")
                etag, size = _etag(answer, key, int(found[3])), int(found[2]) + 1 - start
                data = _read(answer, key, size if length is None else min(size, length))
                return Blob(data, etag)
            return self._from_whole(answer, key, start, stop)

    def _from_whole(self, answer: BaseHTTPResponse, key: str, start: int, stop: int | None) -> Blob:
        """Return a range of the whole object, which a server that knows no ranges sends."""
        text = answer.headers.get("Content-Length", "")
        if not text.isdecimal():
            raise Unsupported(f"{key}: the server does not say how long it is")
        size = int(text)
        etag = _etag(answer, key, size)
        stop = size if stop is None else min(stop, size)
        if stop > _MOST_SKIPPED_BYTES:
            raise Unsupported(
                f"{key}: the server sends no ranges of it, and it has {size} bytes", hint="add a copy of it as a file"
            )
        return Blob(_read(answer, key, stop)[start:], etag)

    @contextmanager
    def _asked(self, method: str, key: str, headers: dict[str, str]) -> Iterator[BaseHTTPResponse]:
        """Yield the answer, whose body is not read yet. Raises Unavailable for what goes wrong until it is."""
        from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError
        from urllib3.util import Retry

        told = {"Accept-Encoding": "identity", "User-Agent": "dvfs"} | headers
        retries = Retry(
            total=None, connect=0, read=0, status=0, other=0, redirect=_REDIRECTS, respect_retry_after_header=False
        )
        try:
            answer = self._manager().request(
                method, key, headers=told, preload_content=False, decode_content=False, retries=retries
            )
            try:
                yield answer
            finally:
                _leave(answer)
        except LocationParseError as exc:
            raise InvalidInput(f"{key} is no URL: {exc}") from exc
        except MaxRetryError as exc:
            raise Unavailable(f"cannot read {key}: {exc.reason or exc}") from exc
        except (HTTPError, OSError) as exc:
            raise Unavailable(f"cannot read {key}: {exc}") from exc

    def _manager(self) -> PoolManager:
        import urllib3

        if self._pool is None:
            timeout = urllib3.Timeout(connect=self._options.connect_timeout, read=self._options.read_timeout)
            self._pool = urllib3.PoolManager(maxsize=self._options.connections, timeout=timeout)
        return self._pool

    def _refuse(self, key: str) -> NoReturn:
        raise ReadOnly(f"{key} can only be read")


def _check(answer: BaseHTTPResponse, key: str) -> None:
    """Raise what a status that brings no bytes means."""
    status = answer.status
    if status in (200, 206):
        return
    text = f"cannot read {key}: the server says {status} {answer.reason or ''}".rstrip()
    if status in (404, 410):
        raise NotFound(text)
    if status in (401, 403, 407):
        raise AccessDenied(text)
    if status == 429:
        raise Throttled(text)
    if status in (408, 425) or status >= 500:
        raise Unavailable(text)
    raise AccessDenied(
        text, hint="the server does not answer the way that reading a link needs: HEAD, and GET of ranges"
    )


def _etag(answer: BaseHTTPResponse, key: str, size: int) -> str:
    """Return what pins the object of *size* bytes that *answer* is about. Raises Unsupported where nothing does."""
    etag = answer.headers.get("ETag", "")
    if _STRONG.fullmatch(etag):
        return f"{etag}, {size} bytes"
    modified = answer.headers.get("Last-Modified", "")
    if re.fullmatch(r"[A-Za-z0-9,: -]{10,64}", modified):
        return f"{_MODIFIED}{modified}, {size} bytes"
    raise Unsupported(
        f"{key}: the server gives it neither a strong ETag nor a Last-Modified, so that a change could not be seen",
        hint="add a copy of it as a file",
    )


def _leave(answer: BaseHTTPResponse) -> None:
    """Make the connection free for the next request; one that much is still to come on is closed."""
    if answer.length_remaining is None or answer.length_remaining > _CHUNK_BYTES:
        answer.close()
    else:
        answer.drain_conn()
    answer.release_conn()


def _read(answer: BaseHTTPResponse, key: str, length: int) -> bytes:
    """Return *length* bytes of the body. Raises Unavailable when it is shorter."""
    parts = []
    missing = length
    while missing:
        part = answer.read(min(missing, _CHUNK_BYTES))
        if not part:
            raise Unavailable(f"{key}: the answer ends {missing} bytes too early")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
