"""The order in which files were read for the first time: what a trace keeps. Belongs to the event loop."""

from __future__ import annotations

from array import array


class FirstReads:
    """The first reads of a version of *entries* entries, as `ranks`. Takes a bit of memory for each entry."""

    def __init__(self, entries: int) -> None:
        self.ranks = array("Q")
        self._seen = bytearray((entries + 7) // 8)

    def note(self, rank: int) -> None:
        """Take note that the file *rank* is read."""
        byte, bit = rank >> 3, 1 << (rank & 7)
        if not self._seen[byte] & bit:
            self._seen[byte] |= bit
            self.ranks.append(rank)
