"""Versions as a Python program reads them: each opened once in a process, however many threads and files ask.

Thread-safe. A process may fork at any time: the child opens versions of its own, and what it inherited is neither used
nor closed in it. A version closes when nobody holds its `OpenVersion` any more; the last few are held here.
"""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field

from dvfs.store.opened import Stores, StoreSettings
from dvfs.store.record import Record
from dvfs.store.version import Version

_KEPT = 8
_LOCK = "open versions"

_Key = tuple[StoreSettings, str]


class OpenVersion:
    """Keeps *version* open for as long as it lives."""

    __slots__ = ("__weakref__", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        weakref.finalize(self, _close, version, os.getpid()).atexit = False


@dataclass(slots=True)
class _Process:
    """What one process has opened. *kept*: the last ones that were asked for, the newest at its end."""

    all: weakref.WeakValueDictionary[_Key, OpenVersion] = field(default_factory=weakref.WeakValueDictionary)
    kept: OrderedDict[_Key, OpenVersion] = field(default_factory=OrderedDict)


class OpenVersions:
    """The versions of *stores* that a program reads."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._processes: dict[int, _Process] = {}

    def open(self, settings: StoreSettings, record: Record) -> OpenVersion:
        """Return the version of *record* in the store of *settings*. Makes no request.

        Raises WrongState when it has no files yet.
        """
        key = (settings, record.id)
        with self._stores.lock(_LOCK):
            here = self._processes.setdefault(os.getpid(), _Process())
            found = here.all.get(key)
            if found is None:
                found = OpenVersion(self._stores.open(settings).version(record))
                here.all[key] = found
            here.kept[key] = found
            here.kept.move_to_end(key)
            dropped = [here.kept.popitem(last=False)[1] for _ in range(len(here.kept) - _KEPT)]
        del dropped  # closes outside of the lock
        return found

    def forget(self) -> None:
        """Hold none any more in this process: each closes when nobody else does."""
        with self._stores.lock(_LOCK):
            dropped = self._processes.pop(os.getpid(), None)
        del dropped  # closes outside of the lock


def _close(version: Version, process: int) -> None:
    """Close *version* in the process that opened it, and wait for nobody: whoever reads holds it."""
    if os.getpid() == process:
        version.fetcher.close(0)
