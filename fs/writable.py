"""What a writable mount has besides a read-only one: its overlay, and the operations on it."""

from __future__ import annotations

import os

from dvfs.fs.options import MountOptions
from dvfs.fs.overlay.editing import Editing, open_editing
from dvfs.fs.overlay.home import About
from dvfs.fs.source import OpenedVersion
from dvfs.fs.view import View


def open_overlay(options: MountOptions, opened: OpenedVersion, nowait: View, waiting: View) -> Editing:
    """Open the overlay of *opened*, whose views are given, for a mount as *options* say. Raises as `open_editing`."""
    assert opened.folder is not None
    about = About(
        store=opened.store,
        base=opened.id,
        dataset=opened.name,
        version=opened.version,
        directory=os.fspath(options.directory),
        uid=options.owner,
        gid=options.group,
    )
    return open_editing(opened.folder, about, opened.source, nowait, waiting)
