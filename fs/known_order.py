"""Files that will be read in an order that is known, and how much of them is wanted ahead of their reader.

Pure bookkeeping, no I/O. The event loop tells what is read; one other thread wants what comes next, and waits here
while enough is on its way.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque

SLACK_FILES = 8192
"""Files are read out of order by so many: each worker of a loader has batches of its own under way."""

STRANGE_READS = 64
"""So many reads in a row of files that are not wanted yet, and the reader is looked for further on."""


class KnownOrder:
    """The files of *ranks*, in the order they will be read; at most *window_bytes* are wanted and not read.

    A file may come several times. Readers that leave files out, or begin further on, are followed. Thread-safe.
    """

    def __init__(
        self,
        ranks: array[int],
        *,
        window_bytes: int,
        slack_files: int = SLACK_FILES,
        strange_reads: int = STRANGE_READS,
    ) -> None:
        self._ranks = ranks
        self._window_bytes = window_bytes
        self._slack = slack_files
        self._most_strange = strange_reads
        self._state = threading.Condition()
        self._next = 0
        self._wanted: dict[int, tuple[int, int]] = {}  # rank -> its place in the order, bytes
        self._places: deque[tuple[int, int]] = deque()  # place and rank of those, some of them read already
        self._ahead_bytes = 0
        self._early: dict[int, bool] = {}  # files that were read before they were wanted
        self._strange = 0
        self._is_lost = False
        self._is_over = False

    @property
    def is_read(self) -> bool:
        """Whether it says nothing more of what comes: all was read, or its reader reads something else."""
        return self._next >= len(self._ranks) and (self._is_lost or not self._wanted)

    def coming(self, most: int) -> list[int]:
        """Return the ranks of the next files, at most so many: those that `want` goes through."""
        with self._state:
            return [] if self._is_over else list(self._ranks[self._next : self._next + most])

    def has_room(self) -> bool:
        """Tell whether more files may be wanted."""
        return self._ahead_bytes < self._window_bytes

    def wait_for_room(self) -> bool:
        """Wait until more files may be wanted; return False when the order is over."""
        with self._state:
            self._state.wait_for(lambda: self._is_over or self.has_room())
            return not self._is_over

    def want(self, rank: int, size: int) -> bool:
        """Go on behind the next file, which is *rank*; return whether it is wanted: its *size* bytes then count.

        Where the order went on behind another file meanwhile, nothing happens.
        """
        with self._state:
            if self._is_over or self._next >= len(self._ranks) or self._ranks[self._next] != rank:
                return False
            place = self._next
            self._next += 1
            if rank in self._wanted or self._early.pop(rank, False):
                return False
            self._wanted[rank] = (place, size)
            self._places.append((place, rank))
            self._ahead_bytes += size
            return True

    def note_read(self, rank: int, *, is_begin: bool = True) -> None:
        """Take note that the file *rank* is read, from its begin or on. Never waits for long."""
        with self._state:
            found = self._wanted.pop(rank, None)
            if found is not None:
                self._strange = 0
                self._is_lost = False
                self._ahead_bytes -= found[1]
                self._forget_before(found[0] - self._slack)
            elif is_begin:
                self._early[rank] = True
                if len(self._early) > self._slack:
                    del self._early[next(iter(self._early))]
                self._strange += 1
                if self._strange < self._most_strange or not self._jump(rank):
                    return
            if self.has_room():
                self._state.notify_all()

    def end(self) -> None:
        """Want no more."""
        with self._state:
            self._is_over = True
            self._state.notify_all()

    def _forget_before(self, place: int) -> None:
        """Forget files before *place*, which their reader left out."""
        while self._places and (self._places[0][0] < place or self._places[0][1] not in self._wanted):
            left = self._wanted.pop(self._places.popleft()[1], None)
            if left is not None:
                self._ahead_bytes -= left[1]

    def _jump(self, rank: int) -> bool:
        """Go on behind the file *rank*, if it comes further on; return whether it does."""
        self._strange = 0
        try:
            place = self._ranks.index(rank, self._next)
        except ValueError:
            self._most_strange *= 2  # it takes a look at all that is left
            self._is_lost = True
            return False
        self._next = place + 1
        self._wanted.clear()
        self._places.clear()
        self._ahead_bytes = 0
        return True
