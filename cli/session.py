"""The store that a command works on, opened from the configuration, with the dataset in use.

Everything heavy is imported here, when a command really needs the store. A session belongs to one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from dvfs.cli.config import Config, Value
from dvfs.cli.options import invocation
from dvfs.cli.output import log_to_stderr
from dvfs.cli.state import InUse

if TYPE_CHECKING:
    from dvfs.store.cache import Cache
    from dvfs.store.store import Store


def configuration(options: Mapping[str, Value | None] | None = None) -> Config:
    """Return the configuration of this run; *options* are values that options of the command gave, by setting."""
    return Config(os.environ, {"store": invocation().store} | dict(options or {}))


@dataclass(frozen=True, slots=True)
class Session:
    """An open *store*, its dataset *in_use*, and the *config* they came from."""

    config: Config
    store: Store
    in_use: InUse

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
        yield Session(config, store, InUse(config.state_dir, store.backend.url))


@contextmanager
def opened_store(config: Config) -> Iterator[Store]:
    """Open the store and the cache that *config* names, and close them at the end."""
    from dvfs.store.store import Store
    from dvfs.store.url import open_backend

    backend = open_backend(config.store_url, config.s3_options(), policy=config.retry_policy())
    with opened_cache(config) as cache:
        store = Store(backend, state_dir=config.state_dir, cache=cache)
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
