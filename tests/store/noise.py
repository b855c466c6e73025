"""Bytes that do not compress and are the same on every machine: SHAKE-128 of a seed."""

from __future__ import annotations

import hashlib


def noise(size: int, seed: int = 0) -> bytes:
    """Return *size* pseudo-random bytes that depend on *seed* alone."""
    return hashlib.shake_128(b"dvfs noise %d" % seed).digest(size)
