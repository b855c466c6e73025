"""Cutting: where a large file falls into blocks, and how small files share one.

Cutting belongs to the format: two writers that cut differently lose deduplication, nothing else. Large
files are cut by FastCDC (2020, gear hash) with the parameters of `Cutting`; tests/format/fastcdc.json holds
vectors, and tests/store/test_cut.py a reference implementation that the library is compared with.

Threads: `Cutting` is immutable; a `Cutter` or a running `cut` belongs to one thread. Searching releases the
interpreter lock. This module neither hashes nor compresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from pyfastcdc import FastCDC, NormalizedChunking

from dvfs.store.block import MAX_BLOCK_BYTES
from dvfs.store.errors import InvalidInput

KIB = 1 << 10
MIB = 1 << 20

_READ_BYTES = 4 * MIB

ReadInto = Callable[[memoryview], int]
"""Fills the start of the buffer, returns the number of bytes; 0 is the end."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """The cutting parameters of a store; all but *normalization* in bytes.

    Files of up to *small_file_bytes* are laid, several to a block, in blocks of up to *block_bytes*. Larger
    ones are cut into blocks of *min_bytes* to *max_bytes* (the last may be shorter), somewhat longer than
    *avg_bytes* in the mean; *normalization* says how strongly lengths are drawn to it.
    Raises InvalidInput when the values do not fit together.
    """

    small_file_bytes: int = 1 * MIB
    block_bytes: int = 1 * MIB
    min_bytes: int = 128 * KIB
    avg_bytes: int = 768 * KIB
    max_bytes: int = 3 * MIB
    normalization: int = 1

    def __post_init__(self) -> None:
        sound = (
            0 <= self.small_file_bytes <= self.block_bytes <= MAX_BLOCK_BYTES
            and 64 <= self.min_bytes <= self.avg_bytes <= self.max_bytes <= MAX_BLOCK_BYTES
            and self.min_bytes <= MIB
            and self.avg_bytes >= 256
            and self.max_bytes >= KIB
            and 0 <= self.normalization <= 3
        )
        if not sound:
            raise InvalidInput(f"these cutting parameters do not fit together: {self}")


class Cutter:
    """Finds the cuts of one stream at a time."""

    def __init__(self, cutting: Cutting) -> None:
        self._fastcdc = FastCDC(
            cutting.avg_bytes,
            min_size=cutting.min_bytes,
            max_size=cutting.max_bytes,
            normalized_chunking=cast("NormalizedChunking", cutting.normalization),
        )

    def first(self, data: memoryview) -> int:
        """Return the length in bytes of the first block of *data*.

        *data* holds at least `max_bytes` bytes, or all bytes up to the end of the file, and at least one.
        """
        return int(next(self._fastcdc.cut_buf(data)).length)

    def lengths(self, data: memoryview) -> list[int]:
        """Return the lengths in bytes of the blocks of *data*, which reaches to the end of the file."""
        return [int(chunk.length) for chunk in self._fastcdc.cut_buf(data)] if len(data) else []


def cut(readinto: ReadInto, cutting: Cutting) -> Iterator[bytes]:
    """Yield the raw bytes of the blocks of the stream behind *readinto*, in order; else as `cut_views`."""
    return map(bytes, cut_views(readinto, cutting))


def cut_views(readinto: ReadInto, cutting: Cutting) -> Iterator[memoryview]:
    """Yield the raw bytes of the blocks of the stream behind *readinto*, in order; nothing for an empty one.

    What is yielded holds good until the next is asked for. Whatever *readinto* raises passes through. At most
    `max_bytes` + 4 MiB of the stream are in memory.
    """
    cutter = Cutter(cutting)
    most = cutting.max_bytes
    with memoryview(bytearray(most + _READ_BYTES)) as window:
        start = end = 0
        at_end = False
        while True:
            if not at_end and end - start < most:
                window[: end - start] = window[start:end]
                start, end = 0, end - start
                while end < len(window):
                    count = readinto(window[end:])
                    if count == 0:
                        at_end = True
                        break
                    end += count
            if start == end:
                return
            length = cutter.first(window[start:end])
            yield window[start : start + length]
            start += length
