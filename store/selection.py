"""Which paths of a dataset a pattern of `remove` names.

A pattern without wildcards is a path; a directory stands for all below it. One with wildcards (`*`, `?`, `[…]`, as
fnmatch knows them) is matched against the whole path, where `*` matches `/` too, and, when recursive, against the
name of everything below the directory that the pattern starts with. Not recursive, `*` stays within a component.
These are the rules of ClearML Data, but that a pattern can name a directory, with or without a slash at its end.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable

from dvfs.store.errors import InvalidInput

_MAGIC = re.compile(rb"[*?[]")

Matches = Callable[[bytes], bool]


def is_literal(pattern: bytes) -> bool:
    """Tell whether *pattern* has no wildcards."""
    return _MAGIC.search(pattern) is None


def cleaned(pattern: str | bytes) -> bytes:
    """Return *pattern* without slashes at its ends. Raises InvalidInput for one that names nothing."""
    found = os.fsencode(pattern).strip(b"/").removeprefix(b"./")
    if not found:
        raise InvalidInput(f"{os.fsdecode(pattern)!r} names no path of a dataset", hint="`*` names all that is in it")
    return found


def matcher(pattern: bytes, *, recursive: bool) -> Matches:
    """Return what tells whether a path is named by *pattern*, which has wildcards."""
    if not recursive:
        parts = [_compiled(part) for part in pattern.split(b"/")]

        def by_component(path: bytes) -> bool:
            names = path.split(b"/")
            return len(names) == len(parts) and all(part(name) for part, name in zip(parts, names, strict=True))

        return by_component
    whole = _compiled(pattern)
    folder, _, name_pattern = pattern.rpartition(b"/")
    name = _compiled(name_pattern)
    below = _compiled(folder + b"/*") if folder else None

    def anywhere(path: bytes) -> bool:
        if whole(path):
            return True
        return bool(name(path.rpartition(b"/")[2]) and (below is None or below(path)))

    return anywhere


def _compiled(pattern: bytes) -> Callable[[bytes], object]:
    match = re.compile(fnmatch.translate(_text(pattern))).match
    return lambda path: match(_text(path))


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
