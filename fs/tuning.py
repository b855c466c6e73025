"""Kernel settings of one mount that make reading faster, where this process may write them (root). Best effort."""

from __future__ import annotations

import logging
from pathlib import Path

_log = logging.getLogger(__name__)
_SYS = Path("/sys")

READ_AHEAD_KB = 1024
MAX_BACKGROUND = 64


def tune(
    device: str,
    *,
    read_ahead_kb: int = READ_AHEAD_KB,
    max_background: int = MAX_BACKGROUND,
    writable: bool = False,
    sys: Path = _SYS,
) -> None:
    """Set how far the kernel reads ahead on the mount *device* (`major:minor`), and how many such requests it sends.

    A *writable* one may hold back as much of what is written as a disk may; by default FUSE gets 1% of it.
    Only after the session has begun: its answer to INIT sets both. Raises nothing.
    """
    _write(sys / "class/bdi" / device / "read_ahead_kb", read_ahead_kb)
    if writable:
        _write(sys / "class/bdi" / device / "strict_limit", 0)
        _write(sys / "class/bdi" / device / "max_ratio", 100)
    connection = sys / "fs/fuse/connections" / device.rpartition(":")[2]
    _write(connection / "max_background", max_background)
    _write(connection / "congestion_threshold", max_background * 3 // 4)


def _write(path: Path, value: int) -> None:
    try:
        path.write_text(str(value))
    except OSError as exc:
        _log.info("%s stays as it is: %s", path, exc.strerror)
