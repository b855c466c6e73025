"""How a daemon opens the version that it mounts: all that it needs for good, closed as one when the mount ends."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dvfs.cli.config import Config
from dvfs.cli.provenance import Notes
from dvfs.cli.session import note, opened_store
from dvfs.store.ids import VersionId

if TYPE_CHECKING:
    from dvfs.fs.source import OpenedVersion
    from dvfs.store.backend import Backend
    from dvfs.store.version import Version


@dataclass(frozen=True, slots=True)
class Traced:
    """*record*: the name under which the order of first reads is kept, None for not at all. *replay*: which traces are
    replayed, None for all that there are."""

    record: str | None = None
    replay: tuple[str, ...] | None = None


def open_for_mount(
    config: Config, dataset: str, overlay: tuple[str | None, Path] | None = None, traced: Traced | None = None
) -> OpenedVersion:
    """Open the finalized version that *dataset* names, or the one that the edits of its overlay lie on.

    *overlay*: for a writable mount, the name of its overlay, None for the one that belongs to the dataset at the mount
    point, and that. *traced*: traces; None for none. Raises as `Store.resolve`, Corrupt when its root is damaged; as
    `base_for`; NotFound, Conflict for traces that are not, or are there.
    """
    from dvfs.fs.source import OpenedVersion
    from dvfs.store.traces import check_free

    with ExitStack() as stack:
        store = stack.enter_context(opened_store(config))
        record = store.resolve(dataset, "finished")
        folder = None
        if overlay is not None:
            from dvfs.fs.overlay.editing import base_for
            from dvfs.fs.overlay.home import Overlays, default_name

            name, directory = overlay
            title = f"{record.project}/{record.name}"
            folder = Overlays(config.state_dir).take(name or default_name(store.backend.url, title, directory))
            stack.callback(folder.close)
            record = store.records.read(VersionId(base_for(folder, record.id)))
        if traced is not None and traced.record is not None:
            check_free(store.backend, record.id, traced.record)
        version = store.version(record)
        stack.callback(version.close)
        version.check()
        return OpenedVersion(
            source=version,
            id=record.id,
            name=f"{record.project}/{record.name}",
            version=record.version,
            digest=record.digest,
            budget_bytes=lambda: version.cache.info().budget_bytes,
            close=stack.pop_all().close,
            tail=version.root.tail,
            folder=folder,
            store=store.backend.url,
            replayed=None if traced is None else _replayed(store.backend, version, traced.replay),
            keep_trace=None
            if traced is None or traced.record is None
            else partial(_keep, store.backend, version, traced.record),
            on_mounted=partial(note, Notes(), config, store, record.id, "mounted"),
        )


def _replayed(backend: Backend, version: Version, names: tuple[str, ...] | None) -> Callable[[], array[int]]:
    """Return what brings the ranks of the traces *names*: those that were asked for are read at once."""
    from dvfs.store.traces import first_reads

    bring = partial(first_reads, backend, version.record.id, version.root.page, names)
    if names is None:
        return bring
    ranks = bring()
    return lambda: ranks


def _keep(backend: Backend, version: Version, name: str, ranks: array[int]) -> None:
    from dvfs.store.traces import Trace, write

    write(backend, version.record.id, name, Trace(version.root.page.content, time.time_ns(), ranks))
