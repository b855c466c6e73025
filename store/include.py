"""Which files of a folder the wildcards of `add` take, by the rules of ClearML Data (those of `Path.rglob`).

A wildcard is matched from the right: `*.jpg` takes such files at any depth, `left/*.jpg` those directly in folders
`left` at any depth. `*` stays within a component, `**` stands for any number of them. Not recursive, a wildcard is
matched against the whole path below the folder.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Sequence

from dvfs.store.errors import InvalidInput

Matches = Callable[[bytes], bool]


def wildcards(patterns: Sequence[str], *, recursive: bool) -> Matches:
    """Return what tells whether a file, by its path below the folder, is taken by one of *patterns*.

    Raises InvalidInput for a pattern that can match nothing.
    """
    matches = [_compiled(pattern, recursive) for pattern in patterns]
    return lambda path: any(match(path) for match in matches)


def _compiled(pattern: str, recursive: bool) -> Matches:
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if pattern.startswith(("/", "~")) or ".." in names or not names:
        raise InvalidInput(
            f"the wildcard {pattern!r} names nothing in a folder", hint="wildcards are relative to the folders given"
        )
    if recursive:
        names.insert(0, "**")
    parts = [None if name == "**" else re.compile(fnmatch.translate(name)).match for name in names]
    return lambda path: _fits(os.fsdecode(path).split("/"), parts)


def _fits(names: list[str], parts: Sequence[Callable[[str], object] | None]) -> bool:
    """Tell whether the components *names* match *parts*, of which None stands for any number of components."""
    if not parts:
        return not names
    if parts[0] is None:
        return any(_fits(names[start:], parts[1:]) for start in range(len(names) + 1))
    return bool(names) and bool(parts[0](names[0])) and _fits(names[1:], parts[1:])
