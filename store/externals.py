"""What external files are read from, and found in: one backend for each bucket, one for all of http, one for files.

Every answer is checked against the pin; where storage can do so, it checks first. Bytes of anything else than what was
added never come out of here.

Thread-safe; backends are made at the first need, so a process may fork before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from dvfs.store.backend import Backend, get_if
from dvfs.store.errors import BadSource, Conflict, Corrupt, InvalidInput, NotFound, Unavailable, Unsupported
from dvfs.store.external import PIN_MAX, SCHEMES, External, check_url
from dvfs.store.http import HttpBackend, HttpOptions
from dvfs.store.include import Matches
from dvfs.store.local_files import LocalFiles
from dvfs.store.retry import Retrying, RetryPolicy
from dvfs.store.url import open_backend

Found = tuple[bytes, External]
"""The path of an external file below the folder that was asked for, and what it is now."""

_HINT = "make a version with the link as it is now, or a copy of it"
_HTTP = ("http", "https")


class Externals:
    """Reads and finds external files.

    *open_bucket* returns the backend of `s3://bucket`, `gs://bucket` or `azure://container`, which retries. *policy*:
    how often the others are tried. *file_folders*: those of this machine that file:// may name, none by default.
    *http*: how servers are spoken to.
    """

    def __init__(
        self,
        open_bucket: Callable[[str], Backend] = open_backend,
        *,
        policy: RetryPolicy | None = None,
        file_folders: Sequence[Path] = (),
        http: HttpOptions | None = None,
    ) -> None:
        self._open_bucket = open_bucket
        self._policy = policy
        self._files = LocalFiles(file_folders)
        self._http = http
        self._lock = threading.Lock()
        self._places: dict[str, Backend] = {}

    def read(self, external: External, start: int, length: int) -> bytes:
        """Return *length* bytes of *external* from byte *start* on.

        Raises Corrupt where what is there now is not what was added, or nothing is; Unavailable, AccessDenied,
        InvalidInput.
        """
        backend, key = self._place(external)
        try:
            blob = get_if(backend, key, start, length, external.pin.decode())
        except Unsupported:
            self.check(external)
            raise
        except (Conflict, NotFound) as exc:
            self.check(external)
            raise Unavailable(f"{external.shown} changes while it is read: {exc.message}") from exc
        if len(blob.data) != length:
            self.check(external)
            raise Unavailable(f"{external.shown}: {len(blob.data)} bytes came, not {length}")
        return blob.data

    def check(self, external: External) -> None:
        """Ask whether *external* is there as it was added, reading none of it. Raises as `read`."""
        backend, key = self._place(external)
        pinned = _described(external.pin.decode(), external.size)
        try:
            now = backend.head(key)
        except NotFound as exc:
            raise Corrupt(f"{external.shown} is gone; it was added as {pinned}", hint=_HINT) from exc
        except Unsupported as exc:
            raise Corrupt(f"{external.shown} was added as {pinned}; now {exc.message}", hint=_HINT) from exc
        if (now.etag, now.size) != (external.pin.decode(), external.size):
            found = _described(now.etag, now.size)
            raise Corrupt(f"{external.shown} has changed: it was added as {pinned}, and is {found}", hint=_HINT)

    def find(self, url: str, *, recursive: bool = True, fits: Matches | None = None) -> Iterator[Found]:
        """Yield what is at *url*: the object itself, or all in the folder that it names, in order of URL.

        Reads no content. *recursive*: also what is in folders of the folder. *fits* tells of a path whether it is
        wanted. Raises InvalidInput for what is no URL, BadSource where nothing is, Unsupported where a folder cannot be
        listed or an object not pinned, Unavailable, AccessDenied.
        """
        scheme, rest = _split(url)
        if scheme in _HTTP:
            found = self._find_page(f"{scheme}://{rest}")
        elif scheme == "file":
            found = self._find_files(rest, recursive)
        else:
            found = self._find_objects(scheme, rest, recursive)
        return (item for item in found if fits is None or fits(item[0]))

    def close(self) -> None:
        """Close all connections; what is used afterwards is opened again."""
        with self._lock:
            places, self._places = self._places, {}
        for backend in places.values():
            backend.close()

    # --- finding

    def _find_page(self, url: str) -> Iterator[Found]:
        check_url(url.encode())
        name = unquote_to_bytes(url.partition("?")[0].partition("://")[2].rpartition("/")[2])
        if not name:
            raise Unsupported(
                f"{url} is a folder, and an http server cannot be asked what is in it", hint="name each file"
            )
        try:
            now = self._backend("http").head(url)
        except NotFound as exc:
            raise BadSource(exc.message) from exc
        yield name, _external(url, now.etag, now.size)

    def _find_files(self, rest: str, recursive: bool) -> Iterator[Found]:
        path = os.path.normpath(os.fsdecode(unquote_to_bytes(rest)))
        try:
            if not self._files.is_folder(path):
                now = self._files.head(path)
                yield os.fsencode(os.path.basename(path)), _external(_file_url(path), now.etag, now.size)
                return
            top = path.rstrip("/") + "/"
            for now in self._files.list(top):
                name = os.fsencode(now.key[len(top) :])
                if recursive or b"/" not in name:
                    yield name, _external(_file_url(now.key), now.etag, now.size)
        except NotFound as exc:
            raise BadSource(exc.message) from exc

    def _find_objects(self, scheme: str, rest: str, recursive: bool) -> Iterator[Found]:
        bucket, _, key = rest.partition("/")
        place = f"{scheme}://{bucket}"
        check_url(f"{place}/{key}".encode())
        backend = self._backend(place)
        if key and not key.endswith("/"):
            try:
                now = backend.head(key)
            except NotFound:
                key += "/"
            else:
                yield key.rpartition("/")[2].encode(), _external(f"{place}/{key}", now.etag, now.size)
                return
        is_empty = True
        try:
            for now in backend.list(key):
                name = now.key[len(key) :]
                if name.endswith("/") or not name:
                    continue  # what some programs leave to show that there is a folder
                is_empty = False
                if recursive or "/" not in name:
                    yield name.encode(), _external(f"{place}/{now.key}", now.etag, now.size)
        except NotFound as exc:
            raise BadSource(exc.message, hint=exc.hint) from exc
        if is_empty:
            raise BadSource(f"nothing is at {place}/{key}")

    # --- places

    def _place(self, external: External) -> tuple[Backend, str]:
        """Return the backend that has *external*, and its key there."""
        url = external.url.decode()
        scheme, _, rest = url.partition("://")
        if scheme in _HTTP:
            return self._backend("http"), url
        if scheme == "file":
            return self._files, os.fsdecode(unquote_to_bytes(rest))
        bucket, _, key = rest.partition("/")
        return self._backend(f"{scheme}://{bucket}"), key

    def _backend(self, place: str) -> Backend:
        with self._lock:
            found = self._places.get(place)
            if found is None:
                if place == "http":
                    found = Retrying(HttpBackend(self._http), policy=self._policy)
                else:
                    found = self._open_bucket(place)
                self._places[place] = found
            return found


def _split(url: str) -> tuple[str, str]:
    """Return scheme and rest of *url*, as they are kept. Raises InvalidInput."""
    scheme, colon, rest = url.partition("://")
    scheme = {"az": "azure"}.get(scheme.lower(), scheme.lower())
    if not colon or scheme not in SCHEMES:
        names = ", ".join(f"{name}://" for name in SCHEMES)
        raise InvalidInput(f"{url[:200]!r} is no URL of an external file", hint=f"supported: {names}")
    try:
        rest.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"{url[:200]!r} is no URL: it is not UTF-8") from exc
    if scheme == "file":
        rest = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
    if scheme in _HTTP and "/" not in rest:
        rest += "/"
    check_url(f"{scheme}://{rest}{'' if '/' in rest else '/'}".encode())
    return scheme, rest


def _external(url: str, etag: str, size: int) -> External:
    kept = url.encode()
    check_url(kept)
    if not etag or not etag.isascii() or not etag.isprintable() or len(etag) > PIN_MAX:
        raise Unsupported(f"{url}: the storage gives it no ETag, so that a change could not be seen")
    return External(kept, etag.encode(), size)


def _file_url(path: str) -> str:
    return "file://" + quote(os.fsencode(path))


def _described(etag: str, size: int) -> str:
    """Return for people what pins an object."""
    return etag if etag.endswith(" bytes") else f"etag {etag}, {size} bytes"
