"""What edits come to: paths that layers changed against an older one, for people and for a commit.

Both follow from the rows that were touched; what was not is never looked at, but for what lies in a directory that was
moved or removed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from dvfs.fs.overlay.schema import FIRST_NEW_INODE, Committed, Node, encode_source
from dvfs.fs.overlay.snapshot import Key, Snapshot, is_special
from dvfs.store.catalog.entry import Entry, directory, link
from dvfs.store.catalog.tree import Tree


@dataclass(slots=True)
class Status:
    """Paths that differ, each list sorted; those of directories end with `/`. *renamed*: from, to.

    *removed* and *renamed* name a directory, not what is in it. *special*: of a kind that no version keeps. *lost*:
    paths of which a version does not keep something, and what that is.
    """

    added: list[bytes] = field(default_factory=list)
    modified: list[bytes] = field(default_factory=list)
    removed: list[bytes] = field(default_factory=list)
    renamed: list[tuple[bytes, bytes]] = field(default_factory=list)
    special: list[bytes] = field(default_factory=list)
    lost: list[tuple[bytes, str]] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing differs that a version would keep."""
        return not (self.added or self.modified or self.removed or self.renamed)


class Changes:
    """The changes of *snapshot* in the layers above *after* up to *upto*."""

    def __init__(self, snapshot: Snapshot, after: int, upto: int) -> None:
        self.snapshot = snapshot
        self.after = after
        self.upto = upto

    def status(self, owner: tuple[int, int]) -> Status:
        """Return what differs. *owner*: uid and gid of files that lose no owner in a version."""
        found = Status()
        snapshot = self.snapshot
        for key in snapshot.touched_keys(self.after, self.upto):
            self._judge(key, found)
        modified = set(found.modified)
        for ino in snapshot.touched_inodes(self.after, self.upto):
            now = snapshot.node(ino, self.upto)
            if now is None or now.nlink == 0 or is_special(now.mode):
                continue
            paths = self.paths(ino)
            found.lost += [(_shown(path, now), what) for path in paths for what in self._losses(now, owner)]
            if self.is_modified(now):
                modified.update(_shown(path, now) for path in paths)
        found.modified = sorted(modified.difference(found.added))
        for paths in (found.added, found.removed, found.special):
            paths.sort()
        found.renamed.sort()
        found.lost.sort()
        return found

    def _judge(self, key: Key, found: Status) -> None:
        """Say in *found* what became of *key*."""
        snapshot = self.snapshot
        was, now = snapshot.child(key, self.after), snapshot.child(key, self.upto)
        if was == now:
            return
        old_path = snapshot.path_of(key, self.after) if was else None
        new_path = snapshot.path_of(key, self.upto) if now else None
        old = snapshot.node(was, self.after) if old_path is not None else None
        new = snapshot.node(now, self.upto) if new_path is not None else None
        is_replaced = False
        if new is not None and new_path is not None:
            if is_special(new.mode):
                found.special.append(new_path)
            elif (origin := self._moved_from(now)) is not None:
                found.renamed.append((_shown(origin, new), _shown(new_path, new)))
            else:
                is_replaced = (
                    old is not None
                    and old_path == new_path
                    and not stat.S_ISDIR(old.mode)
                    and not stat.S_ISDIR(new.mode)
                )
                (found.modified if is_replaced else found.added).append(_shown(new_path, new))
        if old is None or old_path is None or is_replaced:
            return
        stays = any(home not in snapshot.homes(was, self.after) for home in self._living_homes(was))
        covered = old_path == new_path and new is not None and not stat.S_ISDIR(old.mode)
        if not stays and not covered and snapshot.path(key[0], self.upto) is not None:
            found.removed.append(_shown(old_path, old))

    def _moved_from(self, ino: int) -> bytes | None:
        """Return a path that *ino* had and has no more; None when it had none, or has all that it had."""
        snapshot = self.snapshot
        for home in snapshot.homes(ino, self.after):
            path = snapshot.path_of(home, self.after)
            if path is not None and snapshot.child(home, self.upto) != ino:
                return path
        return None

    def _living_homes(self, ino: int) -> list[Key]:
        snapshot = self.snapshot
        return [home for home in snapshot.homes(ino, self.upto) if snapshot.path_of(home, self.upto) is not None]

    def _losses(self, node: Node, owner: tuple[int, int]) -> Iterator[str]:
        """Yield what a version does not keep of *node*."""
        if (node.uid, node.gid) not in (owner, (-1, -1)):
            yield f"owner {node.uid}:{node.gid}"
        if node.nlink > 1 and not stat.S_ISDIR(node.mode):
            yield "hard link"
        if self.snapshot.all("SELECT 1 FROM xattrs WHERE ino = ? AND value NOT NULL LIMIT 1", node.ino):
            yield "extended attributes"

    # --- for a commit

    def paths(self, ino: int) -> list[bytes]:
        """Return all paths of *ino*."""
        if ino == 1:
            return [b""]
        homes = self.snapshot.homes(ino, self.upto)
        return [path for home in homes if (path := self.snapshot.path_of(home, self.upto)) is not None]

    def existed(self, ino: int) -> bool:
        """Tell whether *ino* was there before these changes."""
        return ino < FIRST_NEW_INODE or self.snapshot.node(ino, self.after) is not None

    def is_modified(self, now: Node) -> bool:
        """Tell whether *now* differs in content or permissions from what it was before; not if it was not there."""
        if not self.existed(now.ino):
            return False
        was = self.snapshot.node(now.ino, self.after)
        if was is None or was.mode != now.mode:
            return True
        if not stat.S_ISREG(now.mode):
            return False
        return was.size != now.size or any(held.layer > self.after for held in self.snapshot.stack(now, self.upto).held)

    def has_other_time(self, now: Node) -> bool:
        """Tell whether *now* has another mtime, as a version keeps it, than it had before."""
        was = self.snapshot.node(now.ino, self.after)
        return was is None or self.kept_mtime_ns(was) != self.kept_mtime_ns(now)

    def kept_mtime_ns(self, node: Node) -> int:
        """Return the mtime that a version keeps of *node*: of a directory the one that was set."""
        if not stat.S_ISDIR(node.mode):
            return node.mtime_ns
        if node.set_mtime_ns is not None:
            return node.set_mtime_ns
        return node.mtime_ns if node.is_new else self.snapshot.view.getattr(node.ino).mtime_ns

    def removals(self, tree: Tree) -> Iterator[bytes]:
        """Yield the paths of *tree*, the version before these changes, that may be there no more."""
        snapshot = self.snapshot
        for key in snapshot.touched_keys(self.after, self.upto):
            was, now = snapshot.child(key, self.after), snapshot.child(key, self.upto)
            if not was or was == now:
                continue
            path = snapshot.path_of(key, self.after)
            found = tree.locate(path) if path is not None else None
            if path is None or found is None:
                continue
            yield path
            if stat.S_ISDIR(found[1].modes[found[2]]):
                for _, below, _ in tree.scan(*tree.subtree(path)):
                    yield below

    def puts(self) -> Iterator[tuple[bytes, Node]]:
        """Yield path and node of all that is new, elsewhere or other than before; some more than once."""
        snapshot = self.snapshot
        for key in snapshot.touched_keys(self.after, self.upto):
            was, now = snapshot.child(key, self.after), snapshot.child(key, self.upto)
            path = snapshot.path_of(key, self.upto) if now and was != now else None
            if path is not None:
                yield from self._subtree(path, now, whole=self.existed(now))
        for ino in snapshot.touched_inodes(self.after, self.upto):
            node = snapshot.node(ino, self.upto) if self.existed(ino) else None
            if node is not None and node.nlink and (self.is_modified(node) or self.has_other_time(node)):
                for path in self.paths(ino):
                    yield path, node

    def _subtree(self, path: bytes, ino: int, *, whole: bool) -> Iterator[tuple[bytes, Node]]:
        """Yield *path* and, when *whole*, all below it: of a new directory all that is in it was touched itself."""
        todo = [(path, ino)]
        while todo:
            path, ino = todo.pop()
            node = self.snapshot.node(ino, self.upto)
            if node is None:
                continue
            yield path, node
            if whole and stat.S_ISDIR(node.mode):
                todo += [(path + b"/" + name, child) for name, child in self.snapshot.children(ino, self.upto)]

    def entry(self, node: Node) -> Entry:
        """Return the entry of *node*, without the digest and content of a file."""
        mtime_ns = self.kept_mtime_ns(node)
        if stat.S_ISDIR(node.mode):
            return directory(node.mode, mtime_ns)
        if stat.S_ISLNK(node.mode):
            return link(node.target if node.is_new else self.snapshot.view.readlink(node.ino), mtime_ns)
        return Entry(node.mode, node.size, mtime_ns)

    def landed(self, tree: Tree) -> Iterator[tuple[int, bytes]]:
        """Yield inode and new `source` of the files whose bytes *tree*, the version made of these changes, has now."""
        snapshot = self.snapshot
        for ino in snapshot.touched_inodes(self.after, self.upto):
            node = snapshot.node(ino, self.upto)
            if node is None or not node.nlink or not stat.S_ISREG(node.mode):
                continue
            for path in self.paths(ino)[:1] if snapshot.stack(node, self.upto).held else []:
                found = tree.find(path)
                if found is not None and found[1].is_file and found[1].size == node.size:
                    entry = found[1]
                    yield ino, encode_source(Committed(entry.size, entry.digest, entry.content))


def _shown(path: bytes, node: Node) -> bytes:
    return path + b"/" if stat.S_ISDIR(node.mode) else path
