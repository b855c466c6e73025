"""Taking edits back: all since the last commit, or those at some paths.

What is taken back is planned on a snapshot, which may wait for the store, and then done in one go. All rows of a name
or an inode in layers above the one that was committed go, and what it was before comes back.

Some edits are one: a file that was moved is taken back at both ends; what comes back inside a directory that was
removed brings that directory; what takes the place of something that comes back goes. So no entry of the version is
lost, and none is in two places.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dvfs.fs.overlay.layers import state
from dvfs.fs.overlay.rows import Rows
from dvfs.fs.overlay.schema import FIRST_NEW_INODE, Node
from dvfs.fs.overlay.snapshot import Key, Snapshot
from dvfs.fs.view import ROOT_INODE
from dvfs.store.errors import Conflict, NotFound, WrongState

if TYPE_CHECKING:
    from dvfs.fs.overlay.editing import Editing

Statement = tuple[str, tuple[object, ...]]

_KEYS = {"inodes": ("ino",), "dentries": ("parent", "name"), "xattrs": ("ino", "name")}


class Forgotten(NamedTuple):
    """What was taken back, and what the kernel must not go on believing: *inodes*, and what *names* stand for.

    *files*: those of the inodes that are no directories.
    """

    inodes: tuple[int, ...]
    names: tuple[Key, ...]
    files: tuple[int, ...]

    def with_all(self, other: Forgotten) -> Forgotten:
        """Return what is in this one, or in *other*."""
        return Forgotten(
            tuple({*self.inodes, *other.inodes}),
            tuple({*self.names, *other.names}),
            tuple({*self.files, *other.files}),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What to take back. *paths*: that differ from what was committed, at either end, sorted.

    *keys*: names whose rows go back. *inodes*: that go back. *dropped*: that are there no more. *links*: how many links
    others have then, *bare*: of these the ones that may have no row, as the version has them. *names*: of all these, as
    they are then. Good as long as *serial*, the last change that was seen, and *committed* are.
    """

    serial: int
    committed: int
    paths: tuple[bytes, ...]
    keys: tuple[Key, ...]
    inodes: tuple[int, ...]
    dropped: tuple[int, ...]
    links: dict[int, int]
    bare: dict[int, Node]
    names: tuple[Key, ...]


def discard_all(editing: Editing) -> Forgotten:
    """Take back all edits since the last commit; a commit that was begun is forgotten. Raises as `Rows.rewrite`."""
    rows = editing.rows
    committed = state(rows).committed
    rows.save()
    forgotten = touched(rows, committed)
    rows.rewrite(all_statements(committed))
    remove_above(editing, committed)
    return forgotten


def discard(editing: Editing, paths: Iterable[bytes]) -> Forgotten:
    """Take back the edits at and below *paths* of an overlay that is not mounted. Raises as `plan` and `apply`."""
    editing.rows.checkpoint()
    about = editing.folder.about
    assert about is not None
    with closing(Snapshot(editing.folder.path, editing.view)) as snapshot:
        planned = plan(snapshot, paths, (about.uid, about.gid))
    return apply(editing, planned)


def plan(snapshot: Snapshot, paths: Iterable[bytes], owner: tuple[int, int]) -> Plan:
    """Return what is to be done to take back the edits at and below *paths*. *owner*: of the version's files.

    The snapshot must have all edits: a checkpoint must come before. Raises NotFound for a path without edits,
    WrongState while a commit has begun, and as the view of *snapshot*.
    """
    if snapshot.meta("frozen"):
        raise WrongState(
            "a commit was begun and is not done: its edits cannot be taken back one by one",
            hint="`dvfs commit` finishes it; `dvfs discard` without paths takes back all",
        )
    planner = _Planner(snapshot, owner)
    for path in paths:
        planner.take(path)
    return planner.plan()


def apply(editing: Editing, planned: Plan) -> Forgotten:
    """Do what was *planned*. Raises Conflict, and does nothing, when there are edits since; as `Rows.rewrite`."""
    rows = editing.rows
    if (rows.log.serial, state(rows).committed, state(rows).frozen) != (planned.serial, planned.committed, 0):
        raise Conflict("there are edits that were made meanwhile")
    rows.save()
    after = planned.committed
    undone = planned.inodes + planned.dropped
    held = "SELECT ino, layer FROM {} WHERE ino = ? AND layer > ? AND floor NOT NULL"
    tables = ("inodes", "old_inodes")
    doomed = [row for ino in undone for table in tables for row in rows.all(held.format(table), ino, after)]
    forgotten = _forgotten(rows, planned)
    rows.rewrite(list(_statements(rows, planned)))
    for ino, layer in doomed:
        editing.files.remove(ino, layer)
    editing.files.bury(rows.log.synced)
    return forgotten


def names_of(snapshot: Snapshot, inodes: Iterable[int]) -> Iterator[Key]:
    """Yield the names that *inodes* have now. Raises as the view of *snapshot*."""
    for ino in inodes:
        yield from snapshot.homes(ino, snapshot.top)


def touched(rows: Rows, after: int) -> Forgotten:
    """Return what layers above *after* say something of, and the directories of such names."""
    inodes = [
        ino
        for (ino,) in rows.all(
            "SELECT ino FROM inodes WHERE layer > ?1 UNION SELECT parent FROM dentries WHERE layer > ?1", after
        )
    ]
    names = rows.all("SELECT parent, name FROM dentries WHERE layer > ?", after)
    files = rows.all("SELECT ino FROM inodes WHERE layer > ? AND mode & 61440 <> 16384", after)
    return Forgotten(tuple(inodes), tuple(names), tuple(ino for (ino,) in files))


def all_statements(after: int) -> list[Statement]:
    """Return the statements that take back all that layers above *after* say."""
    statements: list[Statement] = []
    for table, key in _KEYS.items():
        newer = " AND ".join(f"n.{column} = o.{column}" for column in key)
        statements += [
            (f"DELETE FROM old_{table} WHERE layer > ?", (after,)),
            (f"DELETE FROM {table} WHERE layer > ?", (after,)),
            (
                f"INSERT OR IGNORE INTO {table} SELECT * FROM old_{table} o WHERE NOT EXISTS"
                f" (SELECT 1 FROM old_{table} n WHERE {newer} AND n.layer > o.layer)",
                (),
            ),
            (
                f"DELETE FROM old_{table} AS o WHERE EXISTS"
                f" (SELECT 1 FROM {table} n WHERE {newer} AND n.layer = o.layer)",
                (),
            ),
        ]
    return [*statements, set_meta("frozen", 0), set_meta("pending", "")]


def set_meta(key: str, value: object) -> Statement:
    """Return the statement that sets *key* in meta."""
    return "INSERT OR REPLACE INTO meta VALUES (?,?)", (key, value)


def remove_above(editing: Editing, after: int) -> None:
    """Remove the data files of layers above *after*, of which no row says anything any more. Raises OSError."""
    for ino, layer in list(editing.files.all()):
        if layer > after:
            editing.files.remove(ino, layer)
    editing.files.bury(editing.rows.log.synced)


def _forgotten(rows: Rows, planned: Plan) -> Forgotten:
    inodes = {*planned.inodes, *planned.dropped, *planned.links, *(parent for parent, _ in planned.keys)}
    mode = "SELECT 1 FROM inodes WHERE ino = ? AND mode & 61440 <> 16384"
    files = tuple(ino for ino in inodes if ino in planned.bare or rows.one(mode, ino) is not None)
    return Forgotten(tuple(inodes), tuple({*planned.keys, *planned.names}), files)


def _statements(rows: Rows, planned: Plan) -> Iterator[Statement]:
    after, top = planned.committed, rows.top
    for key in planned.keys:
        yield from _back("dentries", ("parent", "name"), key, after)
    for ino in planned.inodes:
        yield from _back("inodes", ("ino",), (ino,), after)
        for name in rows.all("SELECT name FROM xattrs WHERE ino = ?", ino):
            yield from _back("xattrs", ("ino", "name"), (ino, *name), after)
    for ino in planned.dropped:
        for table in ("inodes", "old_inodes", "xattrs", "old_xattrs"):
            yield f"DELETE FROM {table} WHERE ino = ?", (ino,)
    for ino, links in planned.links.items():
        other = "ino = ? AND nlink <> ?"
        yield f"INSERT OR IGNORE INTO old_inodes SELECT * FROM inodes WHERE {other} AND layer <> ?", (ino, links, top)
        yield (
            "UPDATE inodes SET nlink = ?2, layer = ?3, floor = CASE WHEN layer = ?3 THEN floor END"
            " WHERE ino = ?1 AND nlink <> ?2",
            (ino, links, top),
        )
        if ino in planned.bare:
            row = planned.bare[ino]._replace(layer=top, nlink=links)
            yield f"INSERT OR IGNORE INTO inodes VALUES ({','.join('?' * len(row))})", tuple(row)


def _back(table: str, columns: tuple[str, ...], key: tuple[object, ...], after: int) -> Iterator[Statement]:
    same = " AND ".join(f"{column} = ?" for column in columns)
    yield f"DELETE FROM old_{table} WHERE {same} AND layer > ?", (*key, after)
    yield f"DELETE FROM {table} WHERE {same} AND layer > ?", (*key, after)
    yield f"INSERT OR IGNORE INTO {table} SELECT * FROM old_{table} WHERE {same} ORDER BY layer DESC LIMIT 1", key
    yield (
        f"DELETE FROM old_{table} WHERE {same} AND layer = (SELECT layer FROM {table} WHERE {same})",
        (*key, *key),
    )


class _Planner:
    """Finds what must be taken back together. *keys*: names that go back, so far."""

    def __init__(self, snapshot: Snapshot, owner: tuple[int, int]) -> None:
        self._snapshot = snapshot
        self._owner = owner
        self._after, self._upto = snapshot.committed, snapshot.top
        self._touched: dict[Key, tuple[int, int]] = {}
        self._below: dict[int, list[Key]] = defaultdict(list)
        self._places: dict[int, set[bytes]] = {}
        self._homes: dict[int, tuple[frozenset[Key], frozenset[Key]]] = {}
        self.keys: set[Key] = set()
        self._todo: list[Key] = []
        self._inodes: set[int] = set()
        for key in snapshot.touched_keys(self._after, self._upto):
            self._touched[key] = snapshot.child(key, self._after), snapshot.child(key, self._upto)
            self._below[key[0]].append(key)
        for ino in snapshot.touched_inodes(self._after, self._upto):
            if self._existed(ino):
                self._places[ino] = {path for key in self._homes_of(ino)[0] for path in self._paths(key)}
                if ino == ROOT_INODE:
                    self._places[ino] = {b""}

    def take(self, path: bytes) -> None:
        """Have all at and below *path* go back. Raises NotFound when nothing there differs."""
        found = False
        for key, (was, now) in self._touched.items():
            if any(_is_within(place, path) for place in self._paths(key)):
                found |= was != now
                self._add([key])
        for ino, places in self._places.items():
            if any(_is_within(place, path) for place in places):
                found = found or self._differs(ino)
                self._inodes.add(ino)
        if not found:
            shown = path.decode(errors="backslashreplace")
            raise NotFound(f"{shown} has no edits" if path else "there are no edits", hint="`dvfs status` lists them")

    def plan(self) -> Plan:
        """Return what is to be done."""
        self._close()
        affected = {ino for key in self.keys for ino in self._touched[key] if ino}
        dropped = {ino for ino in affected if not self._existed(ino) and not self._final_homes(ino)}
        inodes = self._inodes.union(ino for ino in self._places if self._homes_of(ino)[0] & self.keys)
        links = dict(self._links((affected | inodes | {parent for parent, _ in self.keys}) - dropped, inodes))
        bare = {ino: self._bare(ino) for ino, count in links.items() if ino < FIRST_NEW_INODE and count != 1}
        paths = {path for key in self.keys for path in self._shown(key)}
        paths.update(place for ino in inodes if self._differs(ino) for place in self._shown_places(ino))
        return Plan(
            serial=self._snapshot.meta("serial") or 0,
            committed=self._after,
            paths=tuple(sorted(paths)),
            keys=tuple(sorted(self.keys)),
            inodes=tuple(sorted(inodes)),
            dropped=tuple(sorted(dropped)),
            links=links,
            bare=bare,
            names=tuple({key for ino in {*inodes, *links} for key in self._final_homes(ino)}),
        )

    # --- what goes back together

    def _add(self, keys: Iterable[Key]) -> bool:
        new = [key for key in keys if key in self._touched and key not in self.keys]
        self.keys.update(new)
        self._todo += new
        return bool(new)

    def _close(self) -> None:
        while self._todo or self._mend():
            key = self._todo.pop()
            was, now = self._touched[key]
            for ino in {was, now} - {0}:
                self._keep_whole(ino)
            if now and now != was and not self._existed(now):
                self._add(self._below[now])  # a new directory goes, with all that is in it

    def _keep_whole(self, ino: int) -> None:
        """Have *ino*, one of whose names goes back, moved back as a whole if it was moved."""
        before, since = self._homes_of(ino)
        left, came = before - since, since - before
        if left and came:
            self._add(left | came)

    def _mend(self) -> bool:
        """Have what comes back find its directory; return whether something had to be added."""
        sound = {ROOT_INODE}
        for parent, name in list(self.keys):
            if not self._touched[parent, name][0]:
                continue
            trail: dict[int, None] = {}
            while parent not in sound:
                homes = self._final_homes(parent)
                if parent in trail or not homes:
                    inside = trail if homes else [parent]  # it would be inside itself; or it is gone
                    if self._add(key for ino in inside for names in self._homes_of(ino) for key in names):
                        return True
                    break
                trail[parent] = None
                parent = next(iter(homes))[0]
            else:
                sound.update(trail)
        return False

    def _final_homes(self, ino: int) -> set[Key]:
        """Return the names that *ino* has when all `keys` went back."""
        before, since = self._homes_of(ino)
        return {key for key in since if key not in self.keys} | {
            key for key in before if key in self.keys or key not in self._touched
        }

    # --- what it then looks like

    def _links(self, affected: set[int], inodes: set[int]) -> Iterator[tuple[int, int]]:
        for ino in affected:
            is_back = ino in inodes
            node = self._snapshot.node(ino, self._after if is_back else self._upto)
            if node is None:
                continue
            if not stat.S_ISDIR(node.mode):
                yield ino, len(self._final_homes(ino))
            elif node.is_new and node.nlink:
                count = node.nlink
                for key in self._below[ino]:
                    was, now = self._touched[key]
                    if is_back and key not in self.keys:
                        count += self._is_directory(now, self._upto) - self._is_directory(was, self._after)
                    elif not is_back and key in self.keys:
                        count += self._is_directory(was, self._after) - self._is_directory(now, self._upto)
                yield ino, count

    def _bare(self, ino: int) -> Node:
        node = self._snapshot.node(ino, self._after)
        assert node is not None
        return node if node.uid != -1 else node._replace(uid=self._owner[0], gid=self._owner[1])

    def _is_directory(self, ino: int, layer: int) -> bool:
        node = self._snapshot.node(ino, layer) if ino else None
        return node is not None and stat.S_ISDIR(node.mode)

    # --- what was and what is

    def _existed(self, ino: int) -> bool:
        return ino < FIRST_NEW_INODE or self._snapshot.node(ino, self._after) is not None

    def _homes_of(self, ino: int) -> tuple[frozenset[Key], frozenset[Key]]:
        """Return the names that *ino* had when it was committed, and those that it has now."""
        found = self._homes.get(ino)
        if found is None:
            before = self._snapshot.homes(ino, self._after) if self._existed(ino) else []
            found = self._homes[ino] = frozenset(before), frozenset(self._snapshot.homes(ino, self._upto))
        return found

    def _paths(self, key: Key) -> list[bytes]:
        """Return the path that *key* had when it was committed, and the one that it has now."""
        paths = (self._snapshot.path_of(key, layer) for layer in (self._after, self._upto))
        return [path for path in paths if path is not None]

    def _shown(self, key: Key) -> Iterator[bytes]:
        was, now = self._touched[key]
        if was != now:
            for ino, layer in ((was, self._after), (now, self._upto)):
                path = self._snapshot.path_of(key, layer) if ino else None
                if path is not None:
                    yield path

    def _shown_places(self, ino: int) -> Iterator[bytes]:
        for key in self._homes_of(ino)[0]:
            path = self._snapshot.path_of(key, self._after)
            if path is not None:
                yield path

    def _differs(self, ino: int) -> bool:
        """Tell whether *ino*, which existed, is other than it was in more than the times of a directory."""
        snapshot = self._snapshot
        was, now = self._bare(ino), snapshot.node(ino, self._upto)
        if now is None or not now.nlink:
            return True
        if (was.mode, was.uid, was.gid, was.set_mtime_ns) != (now.mode, now.uid, now.gid, now.set_mtime_ns):
            return True
        if not stat.S_ISDIR(now.mode) and (was.size, was.mtime_ns) != (now.size, now.mtime_ns):
            return True
        if stat.S_ISREG(now.mode) and any(h.layer > self._after for h in snapshot.stack(now, self._upto).held):
            return True
        return bool(snapshot.all("SELECT 1 FROM xattrs WHERE ino = ? AND layer > ? LIMIT 1", ino, self._after))


def _is_within(path: bytes, place: bytes) -> bool:
    return not place or path == place or path.startswith(place + b"/")
