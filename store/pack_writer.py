"""Writing packs: blocks into a pack in memory, full packs to the store by threads, files marked once they are there.

A file counts as packed only when every pack that holds a byte of it was put; a pack whose put failed marks nothing.

Threads: a `PackWriter` belongs to one thread, in which all callbacks but *put* are made. It holds one pack in the
making and up to *puts* on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.digest import Buffer
from dvfs.store.ids import PackId, pack_key
from dvfs.store.pack import PackBuilder
from dvfs.store.staging import PackedFile

Put = Callable[[str, Buffer], object]
"""Stores a pack under its key; called in threads; returns when it is durably there."""

Mark = Callable[[Sequence[PackedFile], Sequence[BlockRef]], object]
"""Is told of files whose packs the store has all, and of the blocks of cut files in a pack that it has."""


@dataclass(slots=True)
class _Pack:
    """A pack that the store does not have yet.

    *files*: wait for it alone. *shared*: wait for it, and maybe for others. *blocks*: its blocks of cut files.
    """

    builder: PackBuilder
    files: list[PackedFile] = field(default_factory=list)
    shared: list[PackedFile] = field(default_factory=list)
    blocks: list[BlockRef] = field(default_factory=list)


class PackWriter:
    """Packs of about *pack_bytes*, with ids from *new_pack*, handed to *put*; *mark* is told what is there.

    *storage*: the tag of the storage that *put* puts them into. A pack ends also when *files_per_pack* wait for it.

    Crash points: `pack:before-put` and `pack:after-put` (in a thread), `pack:before-mark`, `pack:after-mark`.
    """

    def __init__(
        self,
        *,
        new_pack: Callable[[], PackId],
        put: Put,
        mark: Mark,
        pack_bytes: int,
        puts: int,
        files_per_pack: int,
        storage: int = 0,
        crash: CrashPoint = no_crash,
    ) -> None:
        self._new_pack = new_pack
        self._put = put
        self._mark = mark
        self._pack_bytes = pack_bytes
        self._puts = puts
        self._files_per_pack = files_per_pack
        self._storage = storage
        self._crash = crash
        self._threads = ThreadPoolExecutor(puts, thread_name_prefix="dvfs-put")
        self._free: list[bytearray] = []
        self._current: _Pack | None = None
        self._missing: dict[PackId, _Pack] = {}
        self._on_their_way: dict[Future[int], _Pack] = {}
        self._ready: list[PackedFile] = []
        self.stored_bytes = 0
        self.packs = 0

    def append(self, stored: Buffer, raw: int, codec: int, digest: bytes, *, of_cut_file: bool) -> BlockRef:
        """Add a block; return where it is going to be. May wait for a put. Raises what a put raised."""
        pack = self._current
        if pack is not None and not (pack.builder.stored_bytes < self._pack_bytes and pack.builder.fits(len(stored))):
            self._send()
            pack = None
        if pack is None:
            # Fresh memory costs more than copying into it: packs take turns in the same buffers.
            buffer = self._free.pop() if self._free else bytearray(self._pack_bytes + MAX_BLOCK_BYTES)
            pack = _Pack(PackBuilder(self._new_pack(), buffer, storage=self._storage))
            self._missing[pack.builder.pack] = pack
            self._current = pack
        block = pack.builder.append(stored, raw, codec, digest)
        if of_cut_file:
            pack.blocks.append(block)
        return block

    def add_file(self, file: PackedFile) -> None:
        """Mark *file* once the store has all its packs."""
        extents = file.extents
        missing = None
        for extent in extents:  # any missing pack will do: when that is there, the others are looked at again
            missing = self._missing.get(extent.block.pack, missing)
        if missing is None:
            self._ready.append(file)
        elif len(extents) == 1:
            missing.files.append(file)
        else:
            missing.shared.append(file)

    def send_if_full(self) -> None:
        """Send the pack if it is full; called between files, or between blocks of a cut one."""
        pack = self._current
        if pack is not None and (
            pack.builder.stored_bytes >= self._pack_bytes or len(pack.files) + len(pack.shared) >= self._files_per_pack
        ):
            self._send()
        if len(self._ready) >= self._files_per_pack:
            self._tell([])
        self._reap(block=False)

    def finish(self) -> None:
        """Send the last pack and wait until all are there and marked. Raises what a put raised."""
        if self._current is not None:
            self._send()
        while self._on_their_way:
            self._reap(block=True)
        self._tell([])

    def stop(self) -> None:
        """Wait for the packs on their way, mark what is there, and let go of the threads.

        After an error or an interruption: what an unfinished pack holds is not sent; other failed puts say nothing.
        """
        try:
            while self._on_their_way:
                done, _ = wait(self._on_their_way, return_when="FIRST_COMPLETED")
                for future in done:
                    pack = self._on_their_way.pop(future)
                    if future.exception() is None:
                        self._landed(pack, future.result())
            self._tell([])
        finally:
            self._threads.shutdown(wait=True)

    def _send(self) -> None:
        """Put the current pack, as soon as fewer than *puts* are on their way."""
        pack = self._current
        assert pack is not None
        while len(self._on_their_way) >= self._puts:
            self._reap(block=True)
        self._current = None
        future = self._threads.submit(self._put_pack, pack.builder.pack, pack.builder.finish_in_place())
        self._on_their_way[future] = pack

    def _put_pack(self, pack: PackId, data: memoryview) -> int:
        self._crash("pack:before-put")
        with data:
            self._put(pack_key(pack), data)
            self._crash("pack:after-put")
            return len(data)

    def _reap(self, *, block: bool) -> None:
        """Take note of puts that ended, waiting for one if *block*. Raises what a put raised."""
        if block:
            wait(self._on_their_way, return_when="FIRST_COMPLETED")
        for future in [future for future in self._on_their_way if future.done()]:
            pack = self._on_their_way.pop(future)
            self._landed(pack, future.result())

    def _landed(self, pack: _Pack, size: int) -> None:
        """The store has *pack*, of *size* bytes: mark what waited for nothing else."""
        self.stored_bytes += size
        self.packs += 1
        del self._missing[pack.builder.pack]
        self._free.append(pack.builder.buffer)
        self._ready += pack.files
        for file in pack.shared:
            self.add_file(file)
        self._tell(pack.blocks)

    def _tell(self, blocks: Sequence[BlockRef]) -> None:
        if self._ready or blocks:
            self._crash("pack:before-mark")
            ready, self._ready = self._ready, []
            self._mark(ready, blocks)
            self._crash("pack:after-mark")
