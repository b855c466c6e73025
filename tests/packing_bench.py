"""A folder of sources, a staging and a store to pack them into, with parameters small enough for tests.

bench = PackingBench(tmp_path)
bench.write({"a": b"bytes", "d/b": b"more"})
bench.add()                         # stage all of the folder
bench.pack()                        # into bench.backend
assert bench.contents() == {...}    # what the marked files read as, from the packs alone
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from dvfs.store.backend import Backend
from dvfs.store.block import BlockRef, Extent
from dvfs.store.codec import Compression, decompress
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.cut import Cutting
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.ids import PackId, VersionId, pack_key
from dvfs.store.pack import read_footer
from dvfs.store.pack_writer import Mark, Put
from dvfs.store.packing import PackingOptions, PackingResult, Progress, Reuse, pack_files
from dvfs.store.scan import Scan, ScanOptions
from dvfs.store.source import Kind
from dvfs.store.staging import Staged, Staging

VERSION = VersionId("ab" * 16)

CUTTING = Cutting(small_file_bytes=4096, block_bytes=4096, min_bytes=512, avg_bytes=2048, max_bytes=8192)

OPTIONS = PackingOptions(
    cutting=CUTTING,
    compression=Compression("none"),
    pack_bytes=16 << 10,
    workers=2,
    ahead_bytes=64 << 10,
    whole_bytes=32 << 10,
)


class PackingBench:
    """All of it. *names*: a letter that makes the ids of packs of this bench's runs differ from others'."""

    def __init__(self, root: Path, backend: Backend, *, names: bytes = b"p") -> None:
        self.folder = root / "src"
        self.folder.mkdir(exist_ok=True)
        self.staging = Staging(root / "staging.db")
        self.backend = backend
        self._numbers = itertools.count()
        self._names = names

    def close(self) -> None:
        self.staging.close()

    def write(self, files: dict[str, bytes]) -> None:
        """Write *files* into the folder."""
        for name, data in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def add(self) -> None:
        """Stage the folder."""
        self.staging.stage(Scan([os.fsencode(self.folder)], ScanOptions()))

    def new_pack(self) -> PackId:
        """Ids that count up, so that two runs can be compared."""
        return PackId(bytes.fromhex(VERSION) + self._names + next(self._numbers).to_bytes(7, "big"))

    def pack(
        self,
        options: PackingOptions = OPTIONS,
        *,
        reuse: Reuse | None = None,
        progress: Progress | None = None,
        put: Put | None = None,
        mark: Mark | None = None,
        crash: CrashPoint = no_crash,
    ) -> PackingResult:
        """Pack what is staged and not packed."""
        return pack_files(
            self.staging.unpacked(),
            new_pack=self.new_pack,
            put=put or self.backend.put_if_absent,
            mark=mark or self.staging.mark_packed,
            options=options,
            reuse=reuse,
            progress=progress,
            crash=crash,
        )

    def packed(self) -> dict[str, Staged]:
        """The rows of files that are packed, by path."""
        return {
            os.fsdecode(row.source.path): row
            for row in self.staging.edits()
            if row.source.kind is Kind.FILE and row.digest is not None
        }

    def contents(self) -> dict[str, bytes]:
        """Read all packed files from the store alone; check digests and the rules of their extents."""
        return {path: self._read(row) for path, row in self.packed().items()}

    def _read(self, row: Staged) -> bytes:
        assert row.extents is not None
        data = b"".join(self.read_extent(extent) for extent in row.extents)
        assert len(data) == row.source.size
        if row.source.size > CUTTING.small_file_bytes:
            assert all(start == 0 and length == block.raw for block, start, length in row.extents)
            assert all(block.raw >= CUTTING.min_bytes for block, _, _ in row.extents[:-1])
        else:
            assert len(row.extents) == (1 if data else 0)
        if len(row.extents) <= 1:
            assert row.digest == block_digest(data)
        else:
            assert row.digest == file_digest(len(data), [extent.block.digest for extent in row.extents])
        return data

    def read_extent(self, extent: Extent) -> bytes:
        """Read a run from its pack; check that the pack's footer lists its block."""
        block = extent.block
        assert block in read_footer(self.backend, block.pack).blocks
        stored = self.backend.get(pack_key(block.pack), block.offset, block.stored).data
        raw = decompress(block.codec, stored, block.raw)
        assert block_digest(raw) == block.digest
        return raw[extent.start : extent.start + extent.length]

    def blocks(self) -> list[BlockRef]:
        """All blocks in the store, in the order in which they were written."""
        keys = [info.key for info in self.backend.list("packs/")]
        packs = sorted(PackId(bytes.fromhex(key.rpartition("/")[2])) for key in keys)
        return [block for pack in packs for block in read_footer(self.backend, pack).blocks]
