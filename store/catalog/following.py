"""Finding what a path leads to when symbolic links are followed, as a kernel does it. Thread-safe as the tree is."""

from __future__ import annotations

from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.key import parent_of
from dvfs.store.catalog.tree import Tree

MOST_LINKS = 40


def follow(tree: Tree, path: bytes) -> tuple[bytes, Entry] | None:
    """Return the path and the entry of what *path* leads to, which is no link.

    None when there is no such thing: no such name, links in a circle, links that lead out of the version.
    """
    if b"\0" in path:
        return None
    found = tree.find(path)
    if found is not None and not found[1].is_link:
        return path, found[1]
    todo = path.split(b"/")[::-1]
    here = b""
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not here:
                return None
            here = parent_of(here)
            continue
        below = here + b"/" + name if here else name
        found = tree.find(below)
        if found is None:
            return None
        if found[1].is_link:
            links += 1
            target = found[1].target
            if links > MOST_LINKS or target.startswith(b"/"):
                return None
            todo += target.split(b"/")[::-1]
        elif todo and not found[1].is_dir:
            return None
        else:
            here = below
    found = tree.find(here)
    return None if found is None else (here, found[1])
