"""Bytes of files in a live overlay: read, written, truncated, synced.

A write into a file of the version stores the cells that it touches, and no more; a cell that it touches in part is
filled first from what lies below. Bytes are written before the cells that make them count.

Belongs to the overlay's thread, but for what is said to be for threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from dvfs.fs.errno import Refused
from dvfs.fs.overlay.cells import CELL_BYTES
from dvfs.fs.overlay.contents import Contents, Held, Stack
from dvfs.fs.overlay.data import DataFile
from dvfs.fs.overlay.overlay import Overlay
from dvfs.fs.overlay.rows import Change
from dvfs.fs.overlay.schema import Committed, Node, decode_source
from dvfs.fs.source import Source
from dvfs.store.clock import Clock


class Writing:
    """The bytes of the files of *overlay*, whose version is *source*."""

    def __init__(self, overlay: Overlay, source: Source, clock: Clock) -> None:
        self._overlay = overlay
        self._rows = overlay.rows
        self._files = overlay.files
        self._clock = clock
        self.contents = Contents(overlay.files, source)

    def is_of_version(self, ino: int) -> bool:
        """Tell whether all bytes of file *ino* are those of the version that was mounted."""
        node = self._rows.node(ino)
        return node is None or (not node.is_new and node.floor is None and node.source is None and not self._lower(ino))

    def stack(self, ino: int) -> Stack:
        """Return what file *ino* is made of. Raises Refused: EISDIR, EINVAL; NotCached."""
        node = self._file(ino)
        held = () if node.floor is None else (Held(node.layer, node.floor),)
        return Stack(ino, node.size, held + self._lower(ino), self._below(node))

    def readinto(self, ino: int, start: int, buffer: memoryview) -> int:
        """Fill *buffer* with bytes of file *ino* from *start* on; return how many. Raises NotCached, and as `stack`."""
        node = self._rows.node(ino)
        if node is not None and node.floor == 0:
            length = min(len(buffer), node.size - start)
            if length <= 0:
                return 0
            done = os.preadv(self._files.get(ino, node.layer).handle, [buffer[:length]], start)
            if done < length:
                buffer[done:length] = bytes(length - done)
            return length
        return self.contents.readinto(self.stack(ino), start, buffer, wait=False)

    def prepare_write(self, ino: int, start: int, length: int) -> list[tuple[Stack, int]]:
        """Make file *ino* ready for a write of *length* bytes at *start* (length over 0).

        Returns the cells that must be filled first, as where each starts in what it is filled from. Raises NoSpace,
        Refused, NotCached, OSError.
        """
        node = self._in_top(self._file(ino))
        floor = node.floor
        assert floor is not None
        stop = start + length
        if floor == 0 or start >= floor:
            return []
        cells = self._files.get(ino, node.layer).cells
        first, last = start // CELL_BYTES, (stop - 1) // CELL_BYTES
        partly = {first} if start % CELL_BYTES else set()
        if stop % CELL_BYTES and stop < floor:
            partly.add(last)
        missing = [cell for cell in sorted(partly) if not cells.has(cell) and cell * CELL_BYTES < floor]
        if not missing:
            return []
        stack = Stack(ino, floor, self._lower(ino), self._below(node))
        return [(stack, cell * CELL_BYTES) for cell in missing]

    def write_at_once(self, ino: int, start: int, data: bytes, *, set_times: bool) -> bool:
        """Write *data* at *start* of file *ino* if that needs no preparing; return whether all of it is written.

        Where it is not, nothing counts. Raises OSError of the cells alone.
        """
        node = self._rows.node(ino)
        if node is None or node.floor is None or node.layer != self._rows.top:
            return False
        stop = start + len(data)
        if start < node.floor and (start % CELL_BYTES or (stop % CELL_BYTES and stop < node.floor)):
            return False
        try:
            done = os.pwrite(self._files.get(ino, node.layer).handle, data, start)
        except OSError:
            return False  # it is tried again with room made for it, or fails there
        if done < len(data):
            return False
        self.wrote(ino, start, done, set_times=set_times)
        return True

    def fill(self, stack: Stack, start: int, *, wait: bool) -> None:
        """Fill the cell at *start* of a file from what lies below; for threads, too. Raises NotCached unless *wait*."""
        node = self._rows.node(stack.ino)
        assert node is not None
        buffer = memoryview(bytearray(CELL_BYTES))
        size = self.contents.readinto(stack, start, buffer, wait=wait)
        file = self._files.get(stack.ino, node.layer)
        os.pwrite(file.handle, buffer[:size], start)

    def target(self, ino: int) -> DataFile:
        """Return the file that a write goes to that was prepared; `wrote` follows it."""
        node = self._rows.node(ino)
        assert node is not None
        return self._files.get(ino, node.layer)

    def wrote(self, ino: int, start: int, length: int, *, set_times: bool) -> None:
        """Have *length* bytes at *start* count, which are in the target now.

        *set_times*: the kernel does not keep them itself. Raises OSError.
        """
        node = self._rows.node(ino)
        assert node is not None
        assert node.floor is not None
        stop = start + length
        if start < node.floor:
            last = (stop - 1) // CELL_BYTES
            self._files.get(ino, node.layer).cells.add(start // CELL_BYTES, last)
        if set_times:
            now = self._clock.now_ns()
            self._rows.note(node._replace(size=max(node.size, stop), mtime_ns=now, ctime_ns=now))
        elif stop > node.size:
            self._rows.note(node._replace(size=stop))

    def failed(self, ino: int, start: int, length: int) -> None:
        """Have nothing of *length* bytes at *start* behind the end of file *ino*, of which some were written perhaps.

        They would show when the file grows. Other writes to the file may be on their way.
        """
        node = self._rows.node(ino)
        assert node is not None
        handle = self._files.get(ino, node.layer).handle
        start, stop = max(start, node.size), min(start + length, os.fstat(handle).st_size)
        if start < stop:
            write_all(handle, start, bytes(stop - start))

    def truncate(self, change: Change, node: Node, size: int) -> Node:
        """Give *node* another *size*, as part of *change*; return it. Raises Refused, NotCached, OSError.

        What is cut off is gone from the data file before *change* is made: if that fails, zeros may be left there.
        """
        if stat.S_ISDIR(node.mode):
            raise Refused(errno.EISDIR)
        if not stat.S_ISREG(node.mode):
            raise Refused(errno.EINVAL)
        if size > node.size:
            return change.put(node._replace(size=size), floor=self._floor(node))
        if size == node.size:
            return node
        floor = min(self._floor(node), size)
        holds = node.floor is not None and node.layer == self._rows.top
        node = change.put(node._replace(size=size), floor=floor)
        if holds:
            file = self._files.get(node.ino, node.layer)
            if os.fstat(file.handle).st_size > size:
                os.ftruncate(file.handle, size)
        return node

    def sync(self, ino: int) -> Callable[[], None]:
        """Return what, run in a thread, has file *ino* kept by a power cut."""
        self._rows.save([ino])
        node = self._rows.node(ino)
        log = self._rows.log
        if node is None:
            return log.sync
        layers = [layer for layer, _ in self._lower(ino)] + ([] if node.floor is None else [node.layer])
        files = [self._files.get(ino, layer) for layer in layers]

        def sync() -> None:
            for file in files:
                file.sync()
            log.sync()

        return sync

    # --- inside

    def _file(self, ino: int) -> Node:
        node = self._overlay.node(ino)
        if not stat.S_ISREG(node.mode):
            raise Refused(errno.EISDIR if stat.S_ISDIR(node.mode) else errno.EINVAL)
        return node

    def _floor(self, node: Node) -> int:
        """Return the floor of the top layer of *node*: up to where older bytes show through."""
        if node.layer == self._rows.top and node.floor is not None:
            return node.floor
        if node.is_new and node.source is None and node.floor is None and not self._lower(node.ino):
            return 0  # nothing lies below
        return node.size

    def _in_top(self, node: Node) -> Node:
        """Return *node* with the top layer ready to hold bytes of it."""
        if node.layer == self._rows.top and node.floor is not None:
            return node
        self._below(node)  # which may raise NotCached
        change = Change(self._rows)
        node = change.put(node, floor=self._floor(node))
        self._rows.write(change)
        return node

    def _lower(self, ino: int) -> tuple[Held, ...]:
        """Return what older layers than that of the row hold of *ino*."""
        return tuple(Held(layer, floor) for layer, floor in self._rows.lower(ino)) if self._rows.top > 1 else ()

    def _below(self, node: Node) -> Committed | None:
        """Return what the version, or one that was committed since, has of *node*."""
        if node.source is not None:
            return decode_source(node.source)
        if node.is_new:
            return None
        entry = self._overlay.view.entry(node.ino)
        return Committed(entry.size, entry.digest, entry.content)


def write_all(handle: int, start: int, data: bytes) -> None:
    """Write all of *data* at *start*. For threads. Raises OSError."""
    done = os.pwrite(handle, data, start)
    while done < len(data):
        done += os.pwrite(handle, memoryview(data)[done:], start + done)
