"""Blocks in memory: what was fetched and could not be stored in the cache, so that reading goes on without a disk.

Thread-safe; its lock is never held across I/O.
"""

from __future__ import annotations

import threading
from collections import OrderedDict


class MemoryBlocks:
    """Raw blocks of at most *max_bytes* together, least recently used out first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> bytes | None:
        """Return the block *digest*; None when it is not here."""
        if not self._blocks:
            return None
        with self._lock:
            data = self._blocks.get(digest)
            if data is not None:
                self._blocks.move_to_end(digest)
            return data

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep *data*, unless it is longer than all that may be kept."""
        if len(data) > self._max_bytes:
            return
        with self._lock:
            before = self._blocks.pop(digest, None)
            if before is not None:
                self._bytes -= len(before)
            self._blocks[digest] = data
            self._bytes += len(data)
            while self._bytes > self._max_bytes:
                _, dropped = self._blocks.popitem(last=False)
                self._bytes -= len(dropped)
