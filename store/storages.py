"""Storages: the places besides the store itself in which packs of its versions lie, and their tags.

A store allots the tags: `storages/<tag>` holds a URL and is written once, so that one tag means one URL in all records
of the store, and a reference may be carried from one version to another as it is, whatever versions are merged. A
record maps the tags that it and what it builds on refer to: who reads needs nothing but the record.

Thread-safe. Backends are opened when they are first needed, once for each URL, and closed together.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from itertools import chain

from dvfs.store.backend import Backend
from dvfs.store.errors import AlreadyExists, Corrupt, InvalidInput, Unavailable, Unsupported, UnsupportedFormat
from dvfs.store.ids import new_write_id
from dvfs.store.record import MAX_STORAGE, SELF, Record
from dvfs.store.url import parse_url

FORMAT = 1

OpenStorage = Callable[[str], Backend]
"""Returns the backend of a canonical URL; makes no request. Raises InvalidInput."""


def no_other(url: str) -> Backend:
    """Raise Unsupported: what opens a store that never has data elsewhere."""
    raise Unsupported(f"the storage {url} cannot be opened here")


class Storages:
    """The storages of the store behind *backend*; others are opened by *open_storage*."""

    def __init__(self, backend: Backend, open_storage: OpenStorage = no_other) -> None:
        self._backend = backend
        self._open = open_storage
        self._lock = threading.Lock()
        self._opened: dict[str, Backend] = {}
        self._tags: dict[str, int] = {}

    def tag(self, url: str) -> tuple[int, str]:
        """Return the tag of the storage *url* and what a record says of it; a new storage gets a tag.

        The store itself has 0. Raises InvalidInput for what is no URL of a storage, and as the backend.
        """
        canonical = str(parse_url(url))
        try:
            canonical.encode()
        except UnicodeEncodeError as exc:
            raise InvalidInput("the URL of the storage is not UTF-8") from exc
        if canonical == self._backend.url:
            return 0, SELF
        self._backend_of(canonical)
        tag = self._tags.get(canonical)
        if tag is None:
            tag = self._tags[canonical] = self._allot(canonical)
        return tag, canonical

    def behind(self, record: Record) -> Callable[[int], Backend]:
        """Return what finds the backend of each storage tag of *record*. It raises Corrupt, Unavailable."""

        def find(tag: int) -> Backend:
            url = record.storages.get(tag)
            if url == SELF:
                return self._backend
            if url is None:
                raise Corrupt(f"the record of {record.id} names no storage {tag}")
            try:
                return self._backend_of(url)
            except InvalidInput as exc:  # of this machine, say, not of the version
                raise Unavailable(
                    f"dataset {record.title} ({record.id}) has data in {url}, which cannot be opened: {exc.message}",
                    hint=exc.hint,
                ) from exc

        return find

    def close(self) -> None:
        """Close the backends that were opened."""
        with self._lock:
            opened, self._opened = self._opened, {}
        for backend in opened.values():
            backend.close()

    def _backend_of(self, url: str) -> Backend:
        found = self._opened.get(url)
        if found is None:
            if "://" not in url:  # a path would be taken from wherever the program runs
                raise InvalidInput(f"{url} is no URL")
            with self._lock:
                found = self._opened.get(url)
                if found is None:
                    found = self._opened[url] = self._open(url)
        return found

    def _allot(self, url: str) -> int:
        first = first_tag(url)
        for tag in chain(range(first, MAX_STORAGE + 1), range(1, first)):
            key = f"storages/{tag}"
            body = {"format": FORMAT, "url": url, "write_id": new_write_id()}
            try:
                self._backend.put_if_absent(key, json.dumps(body, ensure_ascii=False, indent=1).encode())
            except AlreadyExists:
                if self._url_at(key) != url:
                    continue
            return tag
        raise InvalidInput(f"the store at {self._backend.url} has no tag left for the storage {url}")

    def _url_at(self, key: str) -> str:
        try:
            body = json.loads(self._backend.get(key).data)
            number, url = body["format"], body["url"]
        except (ValueError, TypeError, KeyError) as exc:
            raise Corrupt(f"{key} of the store at {self._backend.url} is not what it should be: {exc}") from exc
        if number != FORMAT:
            raise UnsupportedFormat(f"{key} is of format {number!r}; this dvfs knows format {FORMAT}")
        return str(url)


def first_tag(url: str) -> int:
    """Return the tag that *url* has unless another one has it: few requests find it, whatever tags there are."""
    number = int.from_bytes(hashlib.sha256(url.encode()).digest()[:8], "little")
    return 1 + number % MAX_STORAGE


def together(records: Iterable[Record]) -> dict[int, str]:
    """Return the storages of all *records*, those of what is made of them. Raises Corrupt where two disagree."""
    storages = {0: SELF}
    for record in records:
        for tag, url in record.storages.items():
            if storages.setdefault(tag, url) != url:
                raise Corrupt(
                    f"the record of {record.title} ({record.id}) says that storage {tag} is {url}, another one "
                    f"{storages[tag]}"
                )
    return storages
