"""How long things took: counted in buckets that double, so that a million are as small as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

BUCKETS = 36
"""Bucket 0 holds what took less than 1 µs, bucket n what took from 2^(n-1) to 2^n µs, the last all that took longer."""


def bound_seconds(index: int) -> float:
    """Return what all in bucket *index* are below."""
    return float(1 << index) / 1e6


@dataclass(frozen=True, slots=True)
class Latencies:
    """*count* times of *seconds* together, the longest *max_seconds*; *buckets*: how many in each."""

    count: int = 0
    seconds: float = 0.0
    max_seconds: float = 0.0
    buckets: Sequence[int] = (0,) * BUCKETS

    def quantile(self, part: float) -> float:
        """Return what about *part* (0 to 1) of them took at most, in seconds; 0 when there are none.

        Within a bucket they are taken as evenly spread: it may be wrong by half of the answer, and mostly is by less.
        """
        wanted, seen = part * self.count, 0
        for index, number in enumerate(self.buckets):
            if number and seen + number >= wanted:
                low = bound_seconds(index - 1) if index else 0.0
                high = min(bound_seconds(index), max(self.max_seconds, low))
                return low + (high - low) * (wanted - seen) / number
            seen += number
        return self.max_seconds

    def __add__(self, other: Latencies) -> Latencies:
        """Return these and *other* ones together."""
        buckets = tuple(map(add, self.buckets, other.buckets))
        longest = max(self.max_seconds, other.max_seconds)
        return Latencies(self.count + other.count, self.seconds + other.seconds, longest, buckets)

    def __sub__(self, earlier: Latencies) -> Latencies:
        """Return those since *earlier*; the longest is as exact as its bucket."""
        buckets = [now - then for now, then in zip(self.buckets, earlier.buckets, strict=True)]
        used = [index for index, number in enumerate(buckets) if number]
        longest = min(bound_seconds(used[-1]), self.max_seconds) if used else 0.0
        return Latencies(self.count - earlier.count, self.seconds - earlier.seconds, longest, tuple(buckets))


class Histogram:
    """Collects `Latencies`. Not thread-safe: whoever has it guards it."""

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        self._count = 0
        self._seconds = 0.0
        self._max = 0.0

    def add(self, seconds: float) -> None:
        """Count one that took *seconds*."""
        self._buckets[min(int(seconds * 1e6).bit_length(), BUCKETS - 1)] += 1
        self._count += 1
        self._seconds += seconds
        self._max = max(self._max, seconds)

    def latencies(self) -> Latencies:
        """Return what was counted until now."""
        return Latencies(self._count, self._seconds, self._max, tuple(self._buckets))
