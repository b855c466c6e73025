"""Errors of SQLite as those of dvfs, for every database whose loss matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dvfs.store.errors import Corrupt, DvfsError, NoSpace, Unavailable

if TYPE_CHECKING:
    import sqlite3


@contextmanager
def database_errors(path: Path, damage_hint: str | None = None) -> Iterator[None]:
    """Turn errors of SQLite on the database at *path* into NoSpace, Corrupt (with *damage_hint*), Unavailable."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as exc:
        raise _translated(exc, path, damage_hint) from exc


def _translated(exc: sqlite3.Error, path: Path, damage_hint: str | None) -> DvfsError:
    name = getattr(exc, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL"):
        return NoSpace(f"no space for {path}: {exc}")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Corrupt(f"{path} is damaged: {exc}", hint=damage_hint)
    if name.startswith("SQLITE_BUSY"):
        return Unavailable(f"{path} is held by another process", hint="try again when it is done")
    return Unavailable(f"cannot use {path}: {exc} ({name or 'no code'})")
