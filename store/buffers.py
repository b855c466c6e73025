"""Buffers used again and again: fresh memory costs more, in page faults, than reading, hashing and copying into it.

Thread-safe.
"""

from __future__ import annotations

_LEAST_BYTES = 64 << 10


class Buffers:
    """A pool of buffers in sizes of powers of two; it keeps up to *most_bytes* of those that were given back."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept_bytes = 0
        self._free: dict[int, list[bytearray]] = {}

    def take(self, size: int) -> bytearray:
        """Return a buffer of at least *size* bytes with anything in it."""
        capacity = max(_LEAST_BYTES, 1 << (size - 1).bit_length())
        try:
            buffer = self._free[capacity].pop()
        except (KeyError, IndexError):
            return bytearray(capacity)
        self._kept_bytes -= capacity  # between threads the sum may drift a little; it is a limit for comfort
        return buffer

    def give(self, buffer: bytearray) -> None:
        """Take *buffer* back; nobody uses it any more."""
        if self._kept_bytes + len(buffer) <= self._most_bytes:
            self._kept_bytes += len(buffer)
            self._free.setdefault(len(buffer), []).append(buffer)
