"""An overlay opened for use: made sound after a kill, put away when it is done."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.home import STASH, About, Folder
from dvfs.fs.overlay.landed import take_landed
from dvfs.fs.overlay.layers import prune, state
from dvfs.fs.overlay.overlay import AHEAD_NS, Overlay, Owner
from dvfs.fs.overlay.rows import Rows
from dvfs.fs.overlay.schema import EDITED, Node
from dvfs.fs.overlay.stashing import tidy
from dvfs.fs.overlay.writing import Writing
from dvfs.fs.source import Source
from dvfs.fs.view import View
from dvfs.store.clock import Clock, SystemClock
from dvfs.store.errors import WrongState


class FileClock(SystemClock):
    """The clock that the kernel takes the times of files from: a little behind, so another one would run ahead of it.

    What was written after a file was made must not be older than it.
    """

    _REALTIME_COARSE = 5

    def now_ns(self) -> int:
        return time.clock_gettime_ns(self._REALTIME_COARSE)


def base_for(folder: Folder, wanted: str) -> str:
    """Return the id of the version to open for the overlay in *folder* when the version *wanted* is to be mounted.

    That is *wanted* for one without edits, and what it lies on for one with edits of *wanted*, or of which *wanted* was
    committed. Raises WrongState when its edits are of another version.
    """
    about = folder.about
    if about is None:
        folder.empty()
        return wanted
    rows = Rows(folder.path)
    try:
        found = state(rows)
        has_some = rows.has_rows_above(found.committed) and rows.meta(EDITED) != 0
    finally:
        rows.close()
    if not (has_some or found.frozen or (folder.path / STASH).exists()):
        if found.committed or wanted != about.base:
            folder.empty()
        return wanted
    if wanted in (about.base, found.child, found.pending):
        return about.base
    name = folder.path.name
    raise WrongState(
        f"the overlay {name} has edits of another version: {about.title} ({about.base})",
        hint=f"`dvfs commit --overlay {name}` or `dvfs discard --overlay {name}`, or choose another `--overlay NAME`",
    )


@dataclass(slots=True)
class Editing:
    """An overlay in use. *view*: the version it lies on; it may wait for the store."""

    folder: Folder
    rows: Rows
    files: DataFiles
    overlay: Overlay
    writing: Writing
    view: View

    def has_edits(self) -> bool:
        """Tell whether anything differs from the version that was mounted or committed last."""
        rows, committed = self.rows, state(self.rows).committed
        if not rows.has_rows_above(committed):
            return False
        if rows.has_rows_above(committed, but_directories=True):
            return True
        return any(self._is_edited(Node._make(row)) for row in rows.above("inodes", committed))

    def close(self) -> bool:
        """Put it away; one that differs in nothing from its version is removed. Return whether it has edits."""
        rows = self.rows
        rows.checkpoint()
        self.files.bury(rows.log.synced)
        _drop_nameless(rows, self.files)
        found = state(rows)
        keeps = self.has_edits() or (self.folder.path / STASH).exists() or bool(found.frozen)
        has_times = not found.committed and rows.has_rows_above(0)
        rows.set_meta(clean=1, **{EDITED: int(keeps)})
        rows.close()
        if not (keeps or has_times):
            self.folder.empty()
        self.folder.close()
        return keeps

    def _is_edited(self, directory: Node) -> bool:
        """Tell whether more than the times of an existing *directory* was changed, that nobody set."""
        old = self.rows.one(
            "SELECT * FROM old_inodes WHERE ino = ? AND layer <= ? ORDER BY layer DESC LIMIT 1",
            directory.ino,
            state(self.rows).committed,
        )
        owner = self.folder.about
        assert owner is not None
        if old is not None:
            before = Node._make(old)
        elif directory.is_new:
            return True
        else:
            _, mode, size, mtime_ns = self.view.getattr(directory.ino)
            before = Node(directory.ino, 0, mode, owner.uid, owner.gid, size, mtime_ns, mtime_ns, mtime_ns, 1)
        return (directory.mode, directory.uid, directory.gid, directory.set_mtime_ns) != (
            before.mode,
            before.uid,
            before.gid,
            before.set_mtime_ns,
        )


def open_editing(
    folder: Folder, about: About, source: Source, nowait: View, waiting: View, *, clock: Clock | None = None
) -> Editing:
    """Open the overlay in *folder* over the version of *source* that `base_for` chose; its views: *nowait*, *waiting*.

    Raises as `Rows`, and OSError.
    """
    clock = clock or FileClock()
    rows = Rows(folder.path)
    folder.note(about)  # now, as there may be no space but what was reserved
    files = DataFiles(folder.path / "data")
    was_clean = rows.meta("clean") == 1 and not rows.replayed
    rows.set_meta(clean=0, base=about.base, **{EDITED: 1})
    rows.checkpoint()
    if not was_clean:
        _recover_sizes(rows, files)
    _drop_nameless(rows, files)
    overlay = Overlay(rows, files, nowait, Owner(about.uid, about.gid), clock)
    for _ in take_landed(folder.path, overlay):
        pass
    prune(rows)
    files.bury(rows.log.synced)
    tidy(rows, folder.path)
    if not was_clean:
        _remove_orphans(rows, files)
    return Editing(folder, rows, files, overlay, Writing(overlay, source, clock), waiting)


def _recover_sizes(rows: Rows, files: DataFiles) -> None:
    """Take size and mtime of a file that was written before a kill from its data file: writing touches no row."""
    for row in rows.all("SELECT * FROM inodes WHERE layer = ? AND floor NOT NULL", rows.top):
        node = Node._make(row)
        try:
            found = os.stat(files.path(node.ino, node.layer))
        except FileNotFoundError:
            continue
        now = found.st_mtime_ns
        is_later = found.st_size and now > node.ctime_ns + AHEAD_NS  # reading may have made an empty one
        if found.st_size > node.size or is_later:
            rows.note(node._replace(size=max(found.st_size, node.size), mtime_ns=now, ctime_ns=now))
    rows.save()


def _drop_nameless(rows: Rows, files: DataFiles) -> None:
    """Forget files that are open without a name, and their bytes, unless an older layer that is needed names them."""
    named = "EXISTS (SELECT 1 FROM old_inodes o WHERE o.ino = n.ino)"
    found = rows.all(f"SELECT ino FROM inodes n WHERE nlink = 0 AND (layer <= ? OR NOT {named})", state(rows).committed)
    doomed: list[tuple[int, int]] = []
    for (ino,) in found:
        for table in ("inodes", "old_inodes"):
            doomed += rows.all(f"SELECT ino, layer FROM {table} WHERE ino = ? AND floor NOT NULL", ino)
        tables = ("inodes", "old_inodes", "xattrs", "old_xattrs")
        rows.execute([(f"DELETE FROM {table} WHERE ino = ?", (ino,)) for table in tables])
    if found:
        rows.forget_memory()
        rows.checkpoint()
    for key in doomed:
        files.remove(*key)


def _remove_orphans(rows: Rows, files: DataFiles) -> None:
    """Remove data files that no row knows: of files that were removed just before a kill."""
    for ino, layer in list(files.all()):
        known = rows.one("SELECT 1 FROM inodes WHERE ino = ? AND layer = ? AND floor NOT NULL", ino, layer) or rows.one(
            "SELECT 1 FROM old_inodes WHERE ino = ? AND layer = ? AND floor NOT NULL", ino, layer
        )
        if known is None:
            files.remove(ino, layer)
