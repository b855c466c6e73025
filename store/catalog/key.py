"""Keys of the catalog: the order of paths in a version.

A path is bytes, components joined by `/`, b"" for the root directory. Its key is the parent's components joined by
NUL, NUL NUL, and the name, compared bytewise: a directory's children are one contiguous run, all that lies below it one
contiguous range, and a directory comes before what is in it. The key of the root is b"".
"""

from __future__ import annotations

from dvfs.store.errors import InvalidInput

NAME_MAX = 255
PATH_MAX_BYTES = 32 << 10
"""Longest path in bytes that a version takes (the kernel walks such a path in steps of 4 KiB)."""


def key_of(path: bytes) -> bytes:
    """Return the key of *path*."""
    if not path:
        return b""
    parent, _, name = path.rpartition(b"/")
    return parent.replace(b"/", b"\0") + b"\0\0" + name


def path_of(key: bytes) -> bytes:
    """Return the path whose key is *key*."""
    if not key:
        return b""
    parent, _, name = key.rpartition(b"\0\0")
    return join(parent, name)


def split(key: bytes) -> tuple[bytes, bytes]:
    """Return the parent (its components joined by NUL) and the name of *key*; both empty for the root."""
    parent, _, name = key.rpartition(b"\0\0")
    return parent, name


def join(parent: bytes, name: bytes) -> bytes:
    """Return the path of *name* in *parent*, whose components are joined by NUL."""
    if not parent:
        return name
    return parent.replace(b"\0", b"/") + b"/" + name


def children_bounds(path: bytes) -> tuple[bytes, bytes]:
    """Return the keys between which (first included, second not) the children of directory *path* lie."""
    parent = path.replace(b"/", b"\0")
    return parent + b"\0\0", parent + b"\0\1"


def subtree_bounds(path: bytes) -> tuple[bytes, bytes | None]:
    """Return the keys between which all that is below directory *path* lies; None stands for the end."""
    if not path:
        return b"\0", None
    parent = path.replace(b"/", b"\0")
    return parent + b"\0", parent + b"\1"


def parent_of(path: bytes) -> bytes:
    """Return the path of the directory that holds *path*; b"" for what lies in the root, and for the root."""
    return path.rpartition(b"/")[0]


def check_path(path: bytes) -> None:
    """Raise InvalidInput unless *path* can stand in a version."""
    if not path:
        return
    if len(path) > PATH_MAX_BYTES:
        raise InvalidInput(f"path of {len(path)} bytes is longer than {PATH_MAX_BYTES}: {path[:80]!r}…")
    for name in path.split(b"/"):
        if name in (b"", b".", b"..") or b"\0" in name:
            raise InvalidInput(f"not a path inside a dataset: {path!r}")
        if len(name) > NAME_MAX:
            raise InvalidInput(f"name longer than {NAME_MAX} bytes: {name[:80]!r}…")
