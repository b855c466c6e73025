"""Stores as a Python program has them: opened at the first need, once in each process, closed at its end.

Thread-safe. A process may fork at any time, also while other threads are at work here: the child opens stores of its
own, and what it inherited is neither used nor closed in it.
"""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvfs.store.backend import Backend
    from dvfs.store.cache import Cache
    from dvfs.store.retry import RetryPolicy
    from dvfs.store.store import Store
    from dvfs.store.url import BackendOptions


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Which store, and what this machine keeps for it. Plain values: it can be sent to another process.

    *url*: canonical, see `url`. *state_dir*: staging and known records. *cache_dir*, *cache_bytes*: the cache and its
    budget, None for that of the cache. *options*, *retry*: how the store is spoken to. *file_folders*: those of this
    machine from which external files are read.
    """

    url: str
    state_dir: Path
    cache_dir: Path
    cache_bytes: int | None = None
    options: BackendOptions | None = None
    retry: RetryPolicy | None = None
    file_folders: tuple[Path, ...] = ()


@dataclass(slots=True)
class _Process:
    """What one process has opened, and its locks."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    opened: dict[StoreSettings, tuple[Store, Cache]] = field(default_factory=dict)
    locks: dict[str, threading.RLock] = field(default_factory=dict)


class Stores:
    """The stores that a program uses, one for each `StoreSettings`."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}

    def open(self, settings: StoreSettings) -> Store:
        """Return the store that *settings* name, opened in this process. Makes no request."""
        here = self._here()
        with here.lock:
            found = here.opened.get(settings)
            if found is None:
                found = here.opened[settings] = _opened(settings)
            return found[0]

    def lock(self, name: str) -> threading.RLock:
        """Return the lock called *name* of this process."""
        return self._here().locks.setdefault(name, threading.RLock())

    def close(self) -> None:
        """Close what this process has opened; what is used afterwards is opened again."""
        here = self._here()
        with here.lock:
            opened, here.opened = here.opened, {}
        for store, cache in opened.values():
            store.close()
            cache.close()

    def _here(self) -> _Process:
        # Not under a lock, which a fork could copy while it is held; each of the two steps is one for all threads.
        number = os.getpid()
        found = self._processes.get(number)
        if found is None:
            found = self._processes.setdefault(number, _Process())
            atexit.unregister(self.close)
            atexit.register(self.close)
        return found


def _opened(settings: StoreSettings) -> tuple[Store, Cache]:
    from dvfs.store.cache import Cache
    from dvfs.store.externals import Externals
    from dvfs.store.store import Store
    from dvfs.store.url import open_backend

    def opened(url: str) -> Backend:
        return open_backend(url, settings.options, policy=settings.retry)

    backend = opened(settings.url)
    cache = Cache(settings.cache_dir, budget_bytes=settings.cache_bytes)
    externals = Externals(opened, policy=settings.retry, file_folders=settings.file_folders)
    store = Store(backend, state_dir=settings.state_dir, cache=cache, open_storage=opened, externals=externals)
    return store, cache
