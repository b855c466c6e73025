"""What people ask of edits: which paths they changed, and how each file differs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvfs.fs.overlay.changes import Status
from dvfs.fs.overlay.committing import Frozen, settle
from dvfs.fs.overlay.desk import Desk
from dvfs.store.errors import Unavailable

if TYPE_CHECKING:
    from dvfs.store.catalog.entry import Entry
    from dvfs.store.store import Store
    from dvfs.store.version import Version

_MOST_TEXT_BYTES = 1 << 20


def status(desk: Desk, store: Store, owner: tuple[int, int]) -> tuple[str, Status]:
    """Return the version that the edits of *desk* are made to, as people name it, and what they change.

    *owner*: uid and gid of files that lose no owner in a version. Raises as the store where pages must be read.
    """
    with _opened(desk, store) as edits:
        return edits.parent().record.title, edits.changes.status(owner)


@dataclass(frozen=True, slots=True)
class Difference:
    """A path that was edited. *kind*: added, modified, removed or renamed (from *old_path*); sizes in bytes.

    A size is None where there is no file. *texts* returns the two contents, None for one that is no text or too long.
    """

    kind: str
    path: bytes
    old_path: bytes | None
    old_bytes: int | None
    new_bytes: int | None
    texts: Callable[[], tuple[str | None, str | None]]

    def lines(self) -> Iterator[str]:
        """Yield the lines of a unified diff; none where there is no text to compare, or nothing in it differs."""
        if (self.old_bytes, self.new_bytes) == (None, None):
            return
        old, new = self.texts()
        if old is None or new is None:
            return
        before = "/dev/null" if self.old_bytes is None else "a/" + _named(self.old_path or self.path)
        after = "/dev/null" if self.new_bytes is None else "b/" + _named(self.path)
        yield from difflib.unified_diff(old.splitlines(), new.splitlines(), before, after, lineterm="")


def differences(desk: Desk, store: Store, paths: tuple[bytes, ...] = ()) -> Iterator[Difference]:
    """Yield how the files at and below *paths*, all when there are none, differ, by path. Raises as `status`."""
    with _opened(desk, store) as edits:
        parent = edits.parent()
        found = edits.changes.status((-1, -1))
        listed: list[tuple[bytes, str, bytes | None]] = [(path, "added", None) for path in found.added]
        listed += [(path, "modified", None) for path in found.modified]
        listed += [(path, "removed", None) for path in found.removed]
        listed += [(new, "renamed", old) for old, new in found.renamed]
        for path, kind, old_path in sorted(listed):
            if not paths or any(_is_within(path, place) or _is_within(old_path or path, place) for place in paths):
                yield _difference(edits, parent, kind, path, old_path)


def _difference(edits: Frozen, parent: Version, kind: str, path: bytes, old_path: bytes | None) -> Difference:
    before: Entry | None = None
    if kind != "added":
        found = parent.tree.find((old_path or path).rstrip(b"/"))
        before = found[1] if found is not None and not found[1].is_dir else None
    now = None if kind == "removed" or path.endswith(b"/") else edits.file_at(path)

    def texts() -> tuple[str | None, str | None]:
        old = "" if before is None else _text(before.size, lambda: _bytes_of(parent, before))
        new = "" if now is None else _text(now.size, now.read)
        return old, new

    sizes = (None if before is None else before.size, None if now is None else now.size)
    return Difference(kind, path, old_path, *sizes, texts)


def _bytes_of(version: Version, entry: Entry) -> bytes:
    return entry.target if entry.is_link else version.read(entry)


def _text(size: int, read: Callable[[], bytes]) -> str | None:
    """Return what *read* returns as text; None where it is none, or longer than people would read."""
    if size > _MOST_TEXT_BYTES:
        return None
    data = read()
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _is_within(path: bytes, place: bytes) -> bool:
    return not place or path.rstrip(b"/") == place or path.startswith(place + b"/")


def _named(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def _opened(desk: Desk, store: Store) -> closing[Frozen]:
    with suppress(Unavailable):  # then what was begun counts as not committed
        settle(desk, store)
    return closing(Frozen(desk, store, desk.state()._replace(frozen=0)))
