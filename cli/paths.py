"""Local paths as they were typed: `~` and wildcards that the shell left alone are expanded here."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from dvfs.store.errors import InvalidInput


def expanded(words: Iterable[str]) -> list[str]:
    """Return the paths that *words* name, in their order.

    A word that names something is that; else its wildcards (`*`, `?`, `[…]`, `**`) are matched, hidden names
    left out as by a shell. Raises InvalidInput for a word that nothing fits.
    """
    paths: list[str] = []
    for word in words:
        path = os.path.expanduser(word)
        found = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        if not found:
            raise InvalidInput(f"{word}: no such file or directory")
        paths += found
    return paths
