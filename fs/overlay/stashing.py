"""Edits put aside, and taken up again: one stash for each overlay.

    stash/stash.json   which stash it is, and what it was made on
    stash/overlay.db   the rows of the layers above the one that was committed
    stash/data/        their data files: links to those of the overlay, before these go

The stash counts while the overlay's database names it: that is noted as the edits are taken back, and forgotten as they
come again, each in one transaction. So a kill leaves the edits either in the overlay or in the stash; the other copy is
litter, which `tidy` removes. Nobody is given the inode numbers of a stash: the overlay never counts back.

Belongs to the overlay's thread.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.discarding import Forgotten, Statement, all_statements, remove_above, set_meta, touched
from dvfs.fs.overlay.home import STASH
from dvfs.fs.overlay.layers import state
from dvfs.fs.overlay.rows import DATABASE, Rows
from dvfs.fs.overlay.schema import connect
from dvfs.store.database import database_errors
from dvfs.store.errors import Corrupt, NoSpace, Unavailable, WrongState

if TYPE_CHECKING:
    import sqlite3

    from dvfs.fs.overlay.editing import Editing

_NEW = "stash.new"
_ABOUT = "stash.json"
_META = "stash"
_TABLES = {"inodes": ("ino",), "dentries": ("parent", "name"), "xattrs": ("ino", "name")}


@dataclass(frozen=True, slots=True)
class Stash:
    """What was put aside: its *token*, and the layer that was *committed* then, as the version *child*."""

    token: str
    committed: int
    child: str


def stash(editing: Editing) -> Forgotten:
    """Put all edits since the last commit aside. Raises WrongState when there are none, or a stash; NoSpace, …"""
    rows, folder = editing.rows, editing.folder.path
    if current(rows, folder) is not None:
        raise WrongState(
            f"the overlay {folder.name} has a stash",
            hint="`dvfs stash pop` takes it up again, `dvfs stash drop` throws it away",
        )
    if state(rows).frozen:
        raise WrongState(
            "a commit was begun and is not done: its edits cannot be put aside", hint="`dvfs commit` finishes it"
        )
    if not editing.has_edits():
        raise WrongState(f"the overlay {folder.name} has no edits to put aside")
    tidy(rows, folder)
    found = Stash(secrets.token_hex(16), state(rows).committed, state(rows).child)
    with _disk_errors(folder):
        _put_aside(editing, found)
    forgotten = touched(rows, found.committed)
    rows.rewrite([*all_statements(found.committed), set_meta(_META, found.token)])
    remove_above(editing, found.committed)
    return forgotten


def pop(editing: Editing) -> Forgotten:
    """Take the stash up again. Raises WrongState when there is none, or edits, or a commit since; NoSpace, …"""
    rows, folder = editing.rows, editing.folder.path
    found = current(rows, folder)
    if found is None:
        raise WrongState(f"the overlay {folder.name} has no stash")
    if (state(rows).committed, state(rows).child) != (found.committed, found.child):
        raise WrongState(
            "the stash is of edits to another version: a commit was made since",
            hint="`dvfs stash drop` throws it away",
        )
    if state(rows).frozen or editing.has_edits():
        raise WrongState(
            "there are edits: the stash can be taken up only without any",
            hint="`dvfs commit` or `dvfs discard` comes first",
        )
    after = found.committed
    rows.save()
    before = touched(rows, after)
    remove_above(editing, after)
    try:
        with closing(connect(folder / STASH / DATABASE, read_only=True)) as kept, database_errors(folder / STASH):
            with _disk_errors(folder):
                _link_all(kept, DataFiles(folder / STASH / "data"), editing.files)
                sync_disk(folder)
            comes = chain(all_statements(after), _statements_of(kept), _as_committed(after))
            rows.rewrite([*comes, set_meta(_META, "")])
    except BaseException:
        remove_above(editing, after)
        raise
    tidy(rows, folder)
    return before.with_all(touched(rows, after))


def drop(editing: Editing) -> None:
    """Throw the stash away. Raises WrongState when there is none."""
    rows, folder = editing.rows, editing.folder.path
    if current(rows, folder) is None:
        raise WrongState(f"the overlay {folder.name} has no stash")
    rows.rewrite([set_meta(_META, "")])
    tidy(rows, folder)


def current(rows: Rows, folder: Path) -> Stash | None:
    """Return the stash in the overlay's *folder* that counts; None when there is none. Raises Corrupt."""
    token = rows.meta(_META)
    if not token:
        return None
    found = _about(folder / STASH)
    if found is None or found.token != token:
        raise Corrupt(f"the stash in {folder} is gone or another one")
    return found


def tidy(rows: Rows, folder: Path) -> None:
    """Remove what a kill left of a stash that does not count."""
    for name in (_NEW, STASH):
        path = folder / name
        if path.exists() and not (name == STASH and rows.meta(_META)):
            shutil.rmtree(path)


# --- putting aside


def _put_aside(editing: Editing, found: Stash) -> None:
    """Make the folder of the stash *found*, complete and kept by a power cut. Raises OSError, as `connect`."""
    rows, folder = editing.rows, editing.folder.path
    rows.save()
    rows.checkpoint()
    editing.files.bury(rows.log.synced)
    new = folder / _NEW
    new.mkdir(mode=0o700)
    with closing(connect(new / DATABASE)) as copy, database_errors(new / DATABASE):
        copy.execute("ATTACH ? AS live", (f"{(folder / DATABASE).absolute().as_uri()}?mode=ro",))
        copy.execute("BEGIN")
        for table in (prefix + name for name in _TABLES for prefix in ("", "old_")):
            copy.execute(f"INSERT INTO main.{table} SELECT * FROM live.{table} WHERE layer > ?", (found.committed,))
        copy.execute("COMMIT")
        _link_all(copy, editing.files, DataFiles(new / "data"))
    (new / _ABOUT).write_text(json.dumps(asdict(found), indent=1) + "\n")
    sync_disk(folder)
    new.rename(folder / STASH)
    sync_disk(folder)


def _link_all(copy: sqlite3.Connection, source: DataFiles, target: DataFiles) -> None:
    """Give the files that the rows of *copy* hold bytes in a second name: from *source* in *target*. Raises OSError."""
    held = "SELECT ino, layer FROM main.inodes WHERE floor NOT NULL UNION ALL"
    for ino, layer in copy.execute(f"{held} SELECT ino, layer FROM main.old_inodes WHERE floor NOT NULL"):
        to = target.path(ino, layer)
        os.makedirs(os.path.dirname(to), mode=0o700, exist_ok=True)
        for suffix in ("", ".cells"):
            try:
                os.link(source.path(ino, layer) + suffix, to + suffix)
            except FileNotFoundError:
                pass  # nothing was written yet, or all cells count


def _statements_of(copy: sqlite3.Connection) -> Iterator[Statement]:
    """Yield what puts the rows of *copy* over older ones."""
    for name, columns in _TABLES.items():
        same = " AND ".join(f"{column} = ?" for column in columns)
        for key in copy.execute(f"SELECT {', '.join(columns)} FROM {name}"):
            yield f"INSERT OR IGNORE INTO old_{name} SELECT * FROM {name} WHERE {same}", key
        for table in (name, f"old_{name}"):
            for row in copy.execute(f"SELECT * FROM {table}"):
                yield f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * len(row))})", row


def _as_committed(after: int) -> Iterator[Statement]:
    """Yield what has all rows of a file say what lies below all layers: it can be repointed while a stash is made."""
    below = "SELECT source FROM old_inodes o WHERE o.ino = {0}.ino AND o.layer <= ?1 ORDER BY o.layer DESC LIMIT 1"
    known = "SELECT 1 FROM old_inodes o WHERE o.ino = {0}.ino AND o.layer <= ?1"
    for table in ("inodes", "old_inodes"):
        update = f"UPDATE {table} SET source = ({below}) WHERE layer > ?1 AND EXISTS ({known})"
        yield update.format(table), (after,)


# --- inside


def _about(path: Path) -> Stash | None:
    try:
        return Stash(**json.loads((path / _ABOUT).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise Corrupt(f"{path / _ABOUT} cannot be read: {exc}") from exc


def sync_disk(folder: Path) -> None:
    """Have all that was written to the disk of *folder* kept by a power cut; quicker than file by file.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(handle):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(folder))
    finally:
        os.close(handle)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn OSError into NoSpace or Unavailable; what was begun of a stash goes."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space for {folder}") from exc
        raise Unavailable(f"{exc.filename or folder} cannot be written: {exc.strerror}") from exc
    finally:
        shutil.rmtree(folder / _NEW, ignore_errors=True)
