"""The tables of a staging database, and its errors as those of dvfs.

    staged   what each path gets: kind and size in bytes of its `Source`, the rest of it as `body`;
             serial    the change that wrote the row
    packed   digest and extents of files whose bytes are all in packs that the store has;
             serial    the change that wrote the row
             of        the serial of the row in staged that was packed: another one there makes this row void
    sent     blocks of cut files in packs that the store has, also of files not yet finished
    counter  the number of the last change

All keys are those of the catalog, so every table lies in catalog order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dvfs.store.database import database_errors
from dvfs.store.errors import UnsupportedFormat

if TYPE_CHECKING:
    import sqlite3

SCHEMA_VERSION = 1
DAMAGE_HINT = "discard this open version and add its files again"

_TABLES = f"""
    CREATE TABLE staged (
        key BLOB PRIMARY KEY, kind INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL,
        serial INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE packed (
        key BLOB PRIMARY KEY, digest BLOB NOT NULL, extents BLOB NOT NULL, serial INTEGER NOT NULL,
        of INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sent (digest BLOB PRIMARY KEY, block BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE counter (serial INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    PRAGMA user_version = {SCHEMA_VERSION};
"""


def incoming_table(name: str) -> str:
    """Return the statement that makes a temporary table for rows on their way into staged, in order of arrival."""
    return f"CREATE TEMP TABLE {name} (key BLOB, kind INTEGER, size INTEGER, body BLOB)"


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open the staging database at *path*, making it where it is not; wait up to *timeout* seconds for locks.

    Raises NoSpace, Corrupt, UnsupportedFormat, Unavailable.
    """
    from dvfs.store import connections  # only commands that stage need sqlite3

    with database_errors(path, DAMAGE_HINT):
        connection = connections.connect(path, timeout=timeout, isolation_level=None)
        try:
            connection.execute("PRAGMA page_size = 16384")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cache_size = -16384")
            connection.execute("BEGIN IMMEDIATE")
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found == 0:
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
            connection.execute("COMMIT")
            if found not in (0, SCHEMA_VERSION):
                raise UnsupportedFormat(f"{path} was written by another dvfs: its format is {found}")
        except BaseException:
            connection.close()
            raise
    return connection
