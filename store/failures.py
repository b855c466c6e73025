"""Failures of single paths in a long run: collected by name, told at the end.

A `Failures` belongs to one thread.
"""

from __future__ import annotations

import os

from dvfs.store.errors import DvfsError

NAMED = 20
"""So many are kept by name; the others are only counted."""


class Failures:
    """Paths for which something did not work: how many, and which ones and why, up to `NAMED` of them."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[tuple[bytes, str]] = []

    def add(self, path: bytes, reason: str) -> None:
        """Note that *path* failed, *reason* saying why in a few words."""
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append((path, reason))

    def raise_as(self, error: type[DvfsError], what: str, *, hint: str | None = None) -> None:
        """Raise *error* with the count, *what* (as in `3 files *what*`) and the names; nothing if none failed."""
        if self.count:
            raise error(f"{plural(self.count, 'file')} {what}{self.listing()}", hint=hint)

    def listing(self) -> str:
        """Return the names and reasons, a line each, each line with its newline before it."""
        lines = [f"\n  {printable(path)}: {reason}" for path, reason in self.named]
        if self.count > len(self.named):
            lines.append(f"\n  and {self.count - len(self.named)} more")
        return "".join(lines)


def printable(path: bytes) -> str:
    """Return *path* as text for a message; bytes that are no UTF-8, and control characters, are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char == "\n":
        return "\\n"
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def plural(count: int, noun: str) -> str:
    """Return *count* and *noun* in the number that fits."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
