"""What the methods of a `Dataset` start from: its record, its store in this process, and what is around the program."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, ClassVar

from dvfs.store.errors import InvalidInput
from dvfs.store.opened import StoreSettings
from dvfs.store.record import Record
from dvfs.store.records import check_live
from dvfs.store.surroundings import Surroundings

if TYPE_CHECKING:
    from dvfs.store.draft import Draft
    from dvfs.store.store import Store


class Handle:
    """A version in a store. Thread-safe; may be carried over a fork, and pickled to another process.

    It holds no file, thread or connection itself: the store is opened in each process at the first need.
    """

    surroundings: ClassVar[Surroundings]

    def __init__(self, settings: StoreSettings, record: Record) -> None:
        self._settings = settings
        self._record = record

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._record.title} id={self._record.id}>"

    @property
    def id(self) -> str:
        """The id of this version, 32 hexadecimal digits; it never changes."""
        return self._record.id

    @property
    def _store(self) -> Store:
        return self.surroundings.stores.open(self._settings)

    @property
    def _lock(self) -> RLock:
        """The lock of this version in this process: its methods that change it take turns."""
        return self.surroundings.stores.lock(self._record.id)

    def _load(self) -> Record:
        """Return the record as it is now. Raises NotFound when the version is deleted."""
        record = self._store.records.read(self._record.id)
        check_live(record)
        self._record = record
        return record

    def _note(self, did: str) -> None:
        self.surroundings.note(self._settings, self._record.id, did)

    def _draft(self) -> Draft:
        """Return the open version, for changing. Raises WrongState when it is finished."""
        return self._store.draft(self._record.id)

    @classmethod
    def _storage(cls, url: str | None) -> str | None:
        """Return the canonical URL of the storage *url*, a path or URL. Raises InvalidInput."""
        if url is None:
            return None
        if not url:
            raise InvalidInput("the URL of the storage is empty")
        return cls.surroundings.settings(url).url
