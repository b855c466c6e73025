"""Ignore rules while walking a folder: patterns given by the caller, and the `.dvfsignore` files found on the way.

Rules are gitignore's (by pathspec). A file's rules hold for its folder and below; those of a deeper folder go
before those of a higher one, the caller's before all. What is below an ignored folder is not looked at.
`IgnoreRules` is immutable.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from dvfs.store.errors import InvalidInput

IGNORE_FILE = b".dvfsignore"

_MAX_RULES_BYTES = 16 << 20


class Patterns:
    """Compiled gitignore patterns."""

    def __init__(self, lines: Iterable[str], origin: str) -> None:
        """Compile *lines*; *origin* says in errors where they stand. Raises InvalidInput."""
        from pathspec import GitIgnoreSpec  # heavy; most walks have no rules

        try:
            self._spec = GitIgnoreSpec.from_lines(lines)
        except ValueError as exc:
            raise InvalidInput(f"bad pattern in {origin}: {exc}") from exc

    def verdict(self, path: str) -> bool | None:
        """Tell whether *path* (a folder's ends with `/`) is ignored; None where no pattern speaks of it."""
        return self._spec.check_file(path).include


class IgnoreRules:
    """What is ignored in one folder of a walk."""

    __slots__ = ("_given", "_levels")

    def __init__(self, given: Patterns | None, levels: tuple[tuple[int, Patterns], ...] = ()) -> None:
        self._given = given
        self._levels = levels

    @classmethod
    def of(cls, patterns: Sequence[str]) -> IgnoreRules:
        """Return the rules at the top of a walk: those that the caller gave. Raises InvalidInput."""
        return cls(Patterns(patterns, "the patterns to exclude") if patterns else None)

    def __bool__(self) -> bool:
        """Tell whether there are any rules."""
        return self._given is not None or bool(self._levels)

    def below(self, folder: bytes, patterns: Patterns) -> IgnoreRules:
        """Return the rules in *folder* (relative to the top of the walk), which has *patterns* of its own."""
        text = os.fsdecode(folder)
        level = (len(text) + 1 if text else 0, patterns)
        return IgnoreRules(self._given, (level, *self._levels))

    def ignores(self, path: bytes, *, is_folder: bool) -> bool:
        """Tell whether *path*, relative to the top of the walk, is ignored."""
        text = os.fsdecode(path) + "/" if is_folder else os.fsdecode(path)
        if self._given is not None and (verdict := self._given.verdict(text)) is not None:
            return verdict
        for start, patterns in self._levels:
            if (verdict := patterns.verdict(text[start:])) is not None:
                return verdict
        return False


def read_ignore_file(directory: int, shown: str) -> Patterns | None:
    """Return the patterns of the ignore file in the open *directory*; None where there is none.

    *shown* names the directory in errors. Raises InvalidInput when it cannot be read or holds a bad pattern.
    """
    try:
        handle = os.open(IGNORE_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InvalidInput(f"cannot read {IGNORE_FILE.decode()} in {shown}: {exc.strerror}") from exc
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        with open(handle, "rb", closefd=False) as file:
            text = file.read(_MAX_RULES_BYTES).decode("utf-8", "surrogateescape")
    finally:
        os.close(handle)
    return Patterns(text.splitlines(), f"{shown}/{IGNORE_FILE.decode()}")
