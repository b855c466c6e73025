"""How many bytes the cache may take: the budget, kept in the cache folder, and what it leaves of the disk.

Stateless functions over files; any thread and any process may call them. Evicts nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

RESERVE_BYTES = 10 << 30
RESERVE_SHARE = 20
"""One part in so many of the disk is left free where that is less than `RESERVE_BYTES`."""

_NAME = "budget"


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Size of a file system and what an unprivileged process may still take of it, in bytes."""

    total_bytes: int
    free_bytes: int


def disk_space(path: Path) -> DiskSpace:
    """Return the space of the file system that holds *path*. Raises OSError."""
    found = os.statvfs(path)
    return DiskSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def default_reserve(space: DiskSpace) -> int:
    """Return the bytes of the disk that the cache never takes: 10 GiB, or 5% of a smaller disk."""
    return min(RESERVE_BYTES, space.total_bytes // RESERVE_SHARE)


def default_budget(space: DiskSpace, reserve_bytes: int) -> int:
    """Return the budget of a new cache: half of the free space, less where the reserve would not remain."""
    return max(0, min(space.free_bytes // 2, space.free_bytes - reserve_bytes))


def stored_budget(root: Path, reserve_bytes: int) -> int:
    """Return the budget that the cache at *root* was given at its first use, which may be now.

    Of several first users one wins. Where it cannot be written it holds for this process only. Raises OSError
    when not even the size of the disk can be found out.
    """
    path = root / _NAME
    found = _read(path)
    if found is not None:
        return found
    budget = default_budget(disk_space(root), reserve_bytes)
    temporary = root / f"{_NAME}.{secrets.token_hex(8)}"
    try:
        temporary.write_text(f"{budget}\n", encoding="ascii")
        try:
            if path.exists():  # unreadable: written by nobody that we know
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        _log.info("cache %s: the budget of %d bytes is not kept: %s", root, budget, exc)
    won = _read(path)
    return budget if won is None else won


def _read(path: Path) -> int | None:
    try:
        return max(0, int(path.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None
