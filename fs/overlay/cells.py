"""Which cells of a file a layer holds: a bit for each 4 KiB, in memory and in a file beside the data.

Not thread-safe; one writer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

CELL_BYTES = 4096
_FULL = b"\xff"


class Cells:
    """The cells that the open file *handle* notes; all bits are read at once, and written where they change."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._bits = bytearray(os.pread(handle, os.fstat(handle).st_size, 0))

    def has(self, cell: int) -> bool:
        """Tell whether the layer holds *cell*."""
        byte = cell >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (cell & 7) & 1)

    def add(self, first: int, last: int) -> None:
        """Note the cells from *first* to *last*, that included; their bytes are there already. Raises OSError."""
        begin, end = first >> 3, last >> 3
        bits = self._bits
        if len(bits) <= end:
            bits.extend(bytes(end + 1 - len(bits)))
        before = bytes(bits[begin : end + 1])
        if begin == end:
            bits[begin] |= (0xFF << (first & 7)) & (0xFF >> (7 - (last & 7)))
        else:
            bits[begin] |= (0xFF << (first & 7)) & 0xFF
            bits[begin + 1 : end] = _FULL * (end - begin - 1)
            bits[end] |= 0xFF >> (7 - (last & 7))
        now = bytes(bits[begin : end + 1])
        if now != before:
            try:
                os.pwrite(self._handle, now, begin)
            except BaseException:
                bits[begin : end + 1] = before
                raise

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
        """Yield runs (start, stop) of the cells from *first* to *last*, that included, and whether they are held."""
        bits, size = self._bits, len(self._bits)
        cell = first
        while cell <= last:
            held = self.has(cell)
            skipped = _FULL[0] if held else 0
            stop = cell + 1
            while stop <= last:
                byte = stop >> 3
                if byte >= size:
                    if held:
                        break
                    stop = last + 1
                elif stop & 7 == 0 and bits[byte] == skipped:
                    stop += 8
                elif self.has(stop) == held:
                    stop += 1
                else:
                    break
            stop = min(stop, last + 1)
            yield cell, stop, held
            cell = stop
