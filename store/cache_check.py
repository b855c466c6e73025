"""Checks all that the cache has: the bytes of each block against its digest. What is damaged is removed.

Blocks may come and go meanwhile. The index is left to the caller.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from dvfs.store.cache_files import BlockFiles
from dvfs.store.cache_listing import Listing

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check found: *bytes* of *blocks* sound files, the paths of *damaged* ones (removed), and the number
    of *strays*: temporary files that dead processes had left (removed)."""

    blocks: int
    bytes: int
    damaged: tuple[str, ...]
    strays: int


def check(
    files: BlockFiles, listing: Listing, strays: int, on_block: Callable[[int], None] | None = None
) -> VerifyReport:
    """Check each block of *listing*, remove the damaged ones, and report; *strays* is what was found before.

    *on_block* is called with the size in bytes of each block checked. Raises OSError when a folder cannot be listed.
    """
    blocks = size = 0
    damaged: list[str] = []
    for path in listing.blocks():
        try:
            digest = listing.digest_of(path)
            place = None if digest is None else files.place(digest)
            length = os.lstat(path).st_size if place is None else place.length
            sound = digest is not None and files.is_sound(digest)
        except FileNotFoundError:
            continue  # evicted meanwhile
        except OSError as exc:
            _log.warning("cache file %s cannot be read: %s", path, exc)
            sound = False
        if on_block is not None:
            on_block(length)
        if sound:
            blocks += 1
            size += length
            continue
        damaged.append(path)
        _log.warning("cache file %s is damaged, removed", path)
        if digest is not None:
            files.let_go(digest)
        remove(path)
    return VerifyReport(blocks, size, tuple(damaged), strays)


def remove(path: str) -> None:
    """Remove the file *path* if it is there; raises nothing, what cannot be removed is logged."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as exc:
        _log.warning("cache file %s cannot be removed: %s", path, exc)
