"""The layers of a live overlay: freezing them for a commit, and taking a commit as done.

    layers up to `committed`     said by the version that was committed last, too
    up to `frozen`               of a commit that was begun, under an id that is fixed then
    the layers above             written since

Belongs to the overlay's thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dvfs.fs.overlay.overlay import Overlay
from dvfs.fs.overlay.rows import Rows


class State(NamedTuple):
    """How far an overlay is committed.

    *base*: id of the version that was mounted. *committed*: the layer that was committed last, 0 for none, as the
    version *child*. *frozen*: the layer up to which a commit was begun, 0 for none, that makes the version *pending*.
    """

    base: str
    committed: int
    child: str
    frozen: int
    pending: str


def state(rows: Rows) -> State:
    """Return how far the overlay is committed."""
    return State(
        rows.meta("base") or "",
        rows.meta("committed") or 0,
        rows.meta("child") or "",
        rows.meta("frozen") or 0,
        rows.meta("pending") or "",
    )


def freeze(rows: Rows, pending: str) -> State:
    """End the layer that is written; what it and those below hold is what the version *pending* is made of.

    One that was begun before and has not landed goes on under its own id, with all that was written since.
    """
    frozen = rows.begin_layer()
    rows.set_meta(frozen=frozen, pending=state(rows).pending or pending)
    rows.checkpoint()
    return state(rows)


def abandon(rows: Rows) -> State:
    """Take the commit that was begun as one that made no version: there was nothing to commit."""
    rows.set_meta(frozen=0, pending="")
    rows.checkpoint()
    return state(rows)


def complete(rows: Rows, version: str) -> State:
    """Take the commit that was begun as landed, as *version*. Does nothing when somebody else did so before."""
    before = state(rows)
    if before.pending != version:
        return before
    rows.set_meta(committed=before.frozen, child=before.pending, frozen=0, pending="")
    rows.checkpoint()
    return state(rows)


def repoint(overlay: Overlay, upto: int, landed: Iterable[tuple[int, bytes]]) -> None:
    """Have files read from the version that was committed what the layers up to *upto* hold of them, and drop that.

    *landed*: inodes and their `source`. Only after `complete`; a part of all files may be given, and the same again.
    """
    rows = overlay.rows
    rows.save()
    doomed: list[tuple[int, int]] = []
    for ino, source in landed:
        held = "SELECT layer FROM {} WHERE ino = ? AND layer <= ? AND floor NOT NULL"
        for table in ("inodes", "old_inodes"):
            doomed += [(ino, layer) for (layer,) in rows.all(held.format(table), ino, upto)]
        rows.execute(
            [
                ("UPDATE inodes SET source = ? WHERE ino = ?", (source, ino)),
                ("UPDATE old_inodes SET source = ? WHERE ino = ?", (source, ino)),
                ("UPDATE inodes SET floor = NULL WHERE ino = ? AND layer <= ?", (ino, upto)),
                ("UPDATE old_inodes SET floor = NULL WHERE ino = ? AND layer <= ?", (ino, upto)),
            ]
        )
    rows.checkpoint()
    for ino, layer in doomed:
        overlay.files.remove(ino, layer)


def prune(rows: Rows) -> None:
    """Forget the rows of old layers that neither a commit nor an undo can need any more.

    Those of layers that still hold bytes of a file stay: what is above lies on them.
    """
    committed = state(rows).committed
    for table, key in (("inodes", ("ino",)), ("dentries", ("parent", "name")), ("xattrs", ("ino", "name"))):
        same = " AND ".join(f"n.{column} = o.{column}" for column in key)
        holds_none = " AND floor IS NULL" if table == "inodes" else ""
        newer = (
            f"EXISTS (SELECT 1 FROM {table} n WHERE {same} AND n.layer <= ?1) OR EXISTS"
            f" (SELECT 1 FROM old_{table} n WHERE {same} AND n.layer <= ?1 AND n.layer > o.layer)"
        )
        rows.execute([(f"DELETE FROM old_{table} AS o WHERE layer <= ?1{holds_none} AND ({newer})", (committed,))])
    rows.forget_memory()
    rows.checkpoint()
