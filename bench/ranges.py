"""Objects read by ranges, with 16 threads and in memory alone: what the wire and a client give at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

THREADS = 16
PART_BYTES = 8 * 1024 * 1024


def ranged(get: Callable[[str, int, int], int], sizes: Sequence[tuple[str, int]], least: int) -> dict[str, object]:
    """Have *get* bring ranges (key, start, stop) of the objects in *sizes* until there are *least* bytes; it counts."""
    parts: list[tuple[str, int, int]] = []
    planned = 0
    for key, size in sizes:
        for start in range(0, size, PART_BYTES):
            if planned < least:
                parts.append((key, start, min(start + PART_BYTES, size)))
                planned += PART_BYTES
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(lambda part: get(*part), parts))
    return {"seconds": time.monotonic() - began, "files": len(parts), "bytes": total}
