"""Packing: staged files are read once, cut or laid together, deduplicated, compressed and sent as packs.

    rows ──> groups of small files ──┐              in order              packs
         ──> middling files         ─┼─> threads ──────────────> dedup ─────────> threads ──> store ──> mark
         ──> blocks of large files  ─┘  read, hash, compress                        put

The calling thread makes groups, cuts large files, deduplicates in catalog order and fills packs: what comes out
does not depend on the number of threads. Memory is bounded: `ahead_bytes` of blocks, and a few packs.

Threads: `pack_files` calls back (reuse, *mark*, *progress*) in its caller's thread; *put* in others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from dvfs.store.block import BlockRef, Extent
from dvfs.store.buffers import Buffers
from dvfs.store.codec import Compression
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.cut import Cutting
from dvfs.store.digest import file_digest
from dvfs.store.errors import BadSource, SourceChanged
from dvfs.store.failures import Failures
from dvfs.store.ids import PackId
from dvfs.store.pack_writer import Mark, PackWriter, Put
from dvfs.store.read_ahead import CutFile, End, Group, Item, Middling, OldBlock, Piece, ReadAhead, Row
from dvfs.store.reading import CHANGED, Files, Refused, Sealed, SmallFile, SmallFiles, seal
from dvfs.store.reuse import Inventory, Previous, Reuse
from dvfs.store.staging import PackedFile, Staged

__all__ = ["PackingOptions", "PackingResult", "Previous", "Progress", "Reuse", "pack_files"]

_MAX_SENDING_BYTES = 128 << 20
"""With longer packs fewer are sent at once."""


_FILES_PER_BLOCK = 4096


class Progress(Protocol):
    """Is told how packing goes on, in the caller's thread."""

    def on_bytes(self, size: int) -> None:
        """*size* more bytes of a file that is not done were read."""
        ...

    def on_file(self, path: bytes, size: int) -> None:
        """The file *path* is read, its last *size* bytes were not told before."""
        ...


@dataclass(frozen=True, slots=True)
class PackingOptions:
    """How to pack.

    *pack_bytes*: a pack is sent when it has so many. *workers*: threads that read, hash and compress. *refresh*: take
    changed files as they are now. *puts*: packs on their way at once. *ahead_bytes*: raw bytes read and not packed.
    *whole_bytes*: files up to this size are read whole by one thread; larger ones are cut as they are read.
    *files_per_pack*: a pack is sent when so many files wait for it, however short it is: they wait in memory.
    """

    cutting: Cutting = field(default_factory=Cutting)
    compression: Compression = field(default_factory=Compression)
    pack_bytes: int = 32 << 20
    workers: int = 2
    refresh: bool = False
    puts: int = 3
    ahead_bytes: int = 32 << 20
    whole_bytes: int = 8 << 20
    files_per_pack: int = 16_384


@dataclass(slots=True)
class PackingResult:
    """What was packed: *files*, their *bytes*, and the *stored_bytes* of the *packs* that were sent for them.

    *failures*: files that could not be packed; *changed*: whether some of them are not what was staged.
    """

    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    packs: int = 0
    failures: Failures = field(default_factory=Failures)
    changed: bool = False

    def raise_failures(self) -> None:
        """Raise SourceChanged or BadSource naming the files that could not be packed, if there are any."""
        if self.changed:
            hint = "--refresh takes changed files as they are now; or add them again"
            self.failures.raise_as(SourceChanged, "could not be uploaded:", hint=hint)
        self.failures.raise_as(BadSource, "could not be uploaded:", hint="add them again, or remove them")


def pack_files(
    rows: Iterable[Staged],
    *,
    new_pack: Callable[[], PackId],
    put: Put,
    mark: Mark,
    storage: int = 0,
    options: PackingOptions | None = None,
    reuse: Reuse | None = None,
    files: Files | None = None,
    progress: Progress | None = None,
    crash: CrashPoint = no_crash,
) -> PackingResult:
    """Pack the staged files *rows*, in catalog order; return what was done, failures of single files included.

    Each pack gets an id from *new_pack* and is given to *put*, several at a time, which puts it into the storage of the
    tag *storage*; then *mark* is told the files that are wholly in packs. After an error, of *put* above all, or an
    interruption, packs on their way are waited for and marked, and the error is raised: calling again with the rows
    that are not marked goes on there. Raises what *put*, *mark*, *reuse* and iterating *rows* raise. *files*: where
    bytes come from, the local disk when None. *crash*: see `PackWriter`.
    """
    options = options or PackingOptions()
    writer = PackWriter(
        new_pack=new_pack,
        put=put,
        mark=mark,
        pack_bytes=options.pack_bytes,
        files_per_pack=options.files_per_pack,
        storage=storage,
        puts=max(1, min(options.puts, _MAX_SENDING_BYTES // options.pack_bytes)),
        crash=crash,
    )
    packing = _Packing(options, Inventory(reuse or Reuse()), writer, files, progress)
    try:
        packing.run(rows)
    finally:
        packing.close()
        writer.stop()
    packing.result.stored_bytes = writer.stored_bytes
    packing.result.packs = writer.packs
    return packing.result


class _Packing:
    """One run of `pack_files`: takes items as they are done, in order, and places their blocks."""

    def __init__(
        self,
        options: PackingOptions,
        inventory: Inventory,
        writer: PackWriter,
        files: Files | None,
        progress: Progress | None,
    ) -> None:
        self.result = PackingResult()
        self._options = options
        self._inventory = inventory
        self._writer = writer
        self._progress = progress
        self._most_ahead = max(options.ahead_bytes, 2 * options.workers * options.cutting.block_bytes)
        self._buffers = Buffers(2 * self._most_ahead)
        self._ahead = ReadAhead(
            buffers=self._buffers,
            cutting=options.cutting,
            compression=options.compression,
            workers=options.workers,
            refresh=options.refresh,
            whole_bytes=options.whole_bytes,
            files_per_block=min(_FILES_PER_BLOCK, options.files_per_pack),
            has_block=inventory.has_block,
            before_cut=inventory.add_base,
            files=files,
        )
        self._extents: list[Extent] = []
        self._told = 0

    def close(self) -> None:
        """Let go of the threads."""
        self._ahead.close()

    def run(self, rows: Iterable[Staged]) -> None:
        """Pack *rows*, and wait until all is sent and marked."""
        begun: deque[Item] = deque()
        weight = 0
        for item in self._ahead.items(rows):
            begun.append(item)
            weight += item.weight
            while begun and (weight > self._most_ahead or _is_done(begun[0])):
                weight -= begun[0].weight
                self._place(begun.popleft())
        while begun:
            self._place(begun.popleft())
        self._writer.finish()

    def _place(self, item: Item) -> None:
        """Wait for *item* and put its blocks into packs."""
        if isinstance(item, Group):
            read = item.work.result()
            self._place_small(item.rows, read)
            self._buffers.give(read.buffer)
        elif isinstance(item, Piece):
            self._place_block(item.work.result())
            self._buffers.give(item.buffer)
            self._told += item.weight
            if self._progress is not None:
                self._progress.on_bytes(item.weight)
        elif isinstance(item, Middling):
            try:
                buffer, blocks = item.work.result()
            except Refused as refused:
                self._refuse(item.file.staged, refused)
                return
            for block in blocks:
                if isinstance(block, Extent):
                    self._extents.append(block)
                else:
                    self._place_block(block)
            self._buffers.give(buffer)
            self._end_cut(item.file)
        elif isinstance(item, OldBlock):
            self._extents.append(item.extent)
        elif item.file is not None:
            self._end_cut(item.file)
        else:
            assert item.refused is not None
            self._extents, self._told = [], 0
            self._refuse(item.staged, item.refused)
        self._writer.send_if_full()

    def _place_small(self, rows: list[Row], read: SmallFiles) -> None:
        """Put those files of a group that are not known into one block."""
        fresh: list[tuple[Row, SmallFile]] = []
        twins: list[tuple[Row, SmallFile]] = []
        starts: dict[bytes, int] = {}
        end = 0
        for row, file in zip(rows, read.files, strict=True):
            if isinstance(file, Refused):
                self._refuse(row[0], file)
            elif not file.length:
                self._pack(row, file.digest, ())
            elif file.digest in starts:
                twins.append((row, file))
            elif (extents := self._inventory.find_file(row[1], file.digest)) is not None:
                self._pack(row, file.digest, extents)
            else:
                fresh.append((row, file))
                starts[file.digest] = end
                end += file.length
        if not fresh:
            return
        sealed = read.sealed
        if sealed is None or sealed.raw != end:  # it was made of all files, and some are known
            view = memoryview(read.buffer)
            pieces = [view[file.start : file.start + file.length] for _, file in fresh]
            sealed = seal(b"".join(pieces), self._options.compression)
        block = self._append(sealed, of_cut_file=False)
        for _, file in fresh:
            self._inventory.add_file(file.digest, block, starts[file.digest], file.length)
        for row, file in fresh + twins:
            self._pack(row, file.digest, (Extent(block, starts[file.digest], file.length),))

    def _place_block(self, sealed: Sealed) -> None:
        """Put one block of the cut file in hand into a pack, unless it is known."""
        block = self._inventory.find_block(sealed.digest, sealed.raw)
        if block is None:
            block = self._append(sealed, of_cut_file=True)
            self._inventory.add_block(block)
        self._extents.append(Extent(block, 0, block.raw))

    def _append(self, sealed: Sealed, *, of_cut_file: bool) -> BlockRef:
        assert sealed.stored is not None
        return self._writer.append(sealed.stored, sealed.raw, sealed.codec, sealed.digest, of_cut_file=of_cut_file)

    def _end_cut(self, file: CutFile) -> None:
        """All blocks of the cut file in hand are placed."""
        extents, self._extents = tuple(self._extents), []
        told, self._told = self._told, 0
        if sum(extent.length for extent in extents) != file.source.size:
            self._refuse(file.staged, Refused(CHANGED, changed=True))
            return
        digests = [extent.block.digest for extent in extents]
        digest = digests[0] if len(digests) == 1 else file_digest(file.source.size, digests)
        self._pack((file.staged, file.source), digest, extents, told=told)

    def _pack(self, row: Row, digest: bytes, extents: tuple[Extent, ...], *, told: int = 0) -> None:
        """Give a file whose blocks are all placed to the writer."""
        staged, source = row
        refreshed = source if source is not staged.source else None
        self._writer.add_file(PackedFile(source.path, staged.serial, digest, extents, refreshed))
        self.result.files += 1
        self.result.bytes += source.size
        if self._progress is not None:
            self._progress.on_file(source.path, source.size - told)

    def _refuse(self, staged: Staged, refused: Refused) -> None:
        self.result.failures.add(staged.source.source, refused.reason)
        self.result.changed |= refused.changed


def _is_done(item: Item) -> bool:
    return isinstance(item, (OldBlock, End)) or item.work.done()
