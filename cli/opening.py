"""How a daemon opens the version that it mounts: all that it needs for good, closed as one when the mount ends."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from dvfs.cli.config import Config
from dvfs.cli.session import opened_store

if TYPE_CHECKING:
    from dvfs.fs.source import OpenedVersion


def open_for_mount(config: Config, dataset: str) -> OpenedVersion:
    """Open the finalized version that *dataset* names. Raises as `Store.resolve`, Corrupt when its root is damaged."""
    from dvfs.fs.source import OpenedVersion

    with ExitStack() as stack:
        store = stack.enter_context(opened_store(config))
        version = store.version(dataset)
        stack.callback(version.close)
        version.check()
        record = version.record
        return OpenedVersion(
            source=version,
            id=record.id,
            name=f"{record.project}/{record.name}",
            version=record.version,
            digest=record.digest,
            budget_bytes=lambda: version.cache.info().budget_bytes,
            close=stack.pop_all().close,
            tail=version.root.tail,
        )
