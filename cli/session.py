"""The store that a command works on, opened from the configuration, with the dataset in use.

Everything heavy is imported here, when a command really needs the store. A session belongs to one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from dvfs.cli.config import Config, Value
from dvfs.cli.options import invocation
from dvfs.cli.output import log_to_stderr
from dvfs.cli.provenance import Notes
from dvfs.cli.state import InUse

if TYPE_CHECKING:
    from dvfs.store.backend import Backend
    from dvfs.store.cache import Cache
    from dvfs.store.store import Store


def configuration(options: Mapping[str, Value | None] | None = None) -> Config:
    """Return the configuration of this run; *options* are values that options of the command gave, by setting."""
    return Config(os.environ, {"store": invocation().store} | dict(options or {}))


@dataclass(frozen=True, slots=True)
class Session:
    """An open *store*, its dataset *in_use*, the *config* they came from, and *notes* of what this run does."""

    config: Config
    store: Store
    in_use: InUse
    notes: Notes = field(default_factory=Notes)

    def note(self, version: str, did: str) -> None:
        """Note that this run *did* something with *version*; it is waited for, a moment, when the store is closed."""
        note(self.notes, self.config, self.store, version, did)

    def named(self, dataset: str | None) -> str:
        """Return *dataset*, or the one in use when None. Raises UsageError when neither is there."""
        chosen = dataset or self.in_use.get()
        if chosen is None:
            raise click.UsageError("no dataset is named, and none is in use; name one, or choose it with `dvfs use`")
        return chosen


@contextmanager
def opened() -> Iterator[Session]:
    """Open the store, and close it at the end. No request is made yet."""
    log_to_stderr()
    config = configuration()
    with opened_store(config) as store:
        session = Session(config, store, InUse(config.state_dir, store.backend.url))
        yield session
        session.notes.wait()


def note(notes: Notes, config: Config, store: Store, version: str, did: str) -> None:
    """Note in *store* that this run *did* something with *version*, unless *config* says that runs are not noted."""
    if config.has_provenance:
        notes.note(store.backend, version, did, config.folder)


@contextmanager
def opened_store(config: Config) -> Iterator[Store]:
    """Open the store and the cache that *config* names, and close them at the end. Raises InvalidInput."""
    from dvfs.store.externals import Externals
    from dvfs.store.store import Store
    from dvfs.store.url import open_backend

    config.check()

    def opened(url: str) -> Backend:
        return open_backend(url, config.backend_options(), policy=config.retry_policy())

    backend = opened(config.store_url)
    with opened_cache(config) as cache:
        externals = Externals(opened, policy=config.retry_policy(), file_folders=config.file_folders)
        store = Store(backend, state_dir=config.state_dir, cache=cache, open_storage=opened, externals=externals)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def opened_cache(config: Config) -> Iterator[Cache]:
    """Open the local cache that *config* names, and close it at the end."""
    from dvfs.store.cache import Cache

    cache = Cache(config.cache_dir, budget_bytes=config.cache_bytes)
    try:
        yield cache
    finally:
        cache.close()
