"""How a daemon opens the version that it mounts: all that it needs for good, closed as one when the mount ends."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dvfs.cli.config import Config
from dvfs.cli.provenance import Notes
from dvfs.cli.session import note, opened_store
from dvfs.store.ids import VersionId

if TYPE_CHECKING:
    from dvfs.fs.source import OpenedVersion


def open_for_mount(config: Config, dataset: str, overlay: tuple[str | None, Path] | None = None) -> OpenedVersion:
    """Open the finalized version that *dataset* names, or the one that the edits of its overlay lie on.

    *overlay*: for a writable mount, the name of its overlay, None for the one that belongs to the dataset at the mount
    point, and that. Raises as `Store.resolve`, Corrupt when its root is damaged; as `base_for`.
    """
    from dvfs.fs.source import OpenedVersion

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
            on_mounted=partial(note, Notes(), config, store, record.id, "mounted"),
        )
