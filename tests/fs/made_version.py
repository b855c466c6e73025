"""A version made straight from a local folder, without staging: packs and pages in a folder store, and opened again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dvfs.fs.source import OpenedVersion
from dvfs.store.backend import Backend
from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.cache import Cache
from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.boundary import STANDARD, Boundaries
from dvfs.store.catalog.entry import Content, Entry, directory, link
from dvfs.store.catalog.key import key_of
from dvfs.store.cut import Cutting, cut
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.fetch import Fetcher
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import VersionId, new_pack_id, pack_key
from dvfs.store.metadata_pack import MetadataPacks
from dvfs.store.pack import PackBuilder
from dvfs.store.record import Record, Root, Status
from dvfs.store.version import Version

ID = VersionId("0123456789abcdef" * 2)


class Packs:
    """Blocks on their way into packs of *pack_bytes*, small files several to a block."""

    def __init__(self, put: Callable[[str, bytearray], object], *, cutting: Cutting, pack_bytes: int) -> None:
        self._put = put
        self._cutting = cutting
        self._pack_bytes = pack_bytes
        self._builder = PackBuilder(new_pack_id(ID))
        self._small: list[tuple[bytes, bytes]] = []
        self._extents: dict[bytes, Extent] = {}

    def small(self, path: bytes, data: bytes) -> None:
        if sum(len(other) for _, other in self._small) + len(data) > self._cutting.block_bytes:
            self.flush_small()
        self._small.append((path, data))

    def extent(self, path: bytes) -> Extent:
        return self._extents[path]

    def flush_small(self) -> None:
        if self._small:
            block = self._block(b"".join(data for _, data in self._small))
            start = 0
            for path, data in self._small:
                self._extents[path] = Extent(block, start, len(data))
                start += len(data)
            self._small = []

    def large(self, file: Path) -> list[BlockRef]:
        with file.open("rb", buffering=0) as source:
            return [self._block(data) for data in cut(source.readinto, self._cutting)]

    def finish(self) -> None:
        self.flush_small()
        if len(self._builder):
            self._put(pack_key(self._builder.pack), self._builder.finish())
            self._builder = PackBuilder(new_pack_id(ID))

    def _block(self, data: bytes) -> BlockRef:
        ref = self._builder.append(data, len(data), Codec.RAW, block_digest(data))
        if self._builder.stored_bytes >= self._pack_bytes:
            self._put(pack_key(self._builder.pack), self._builder.finish())
            self._builder = PackBuilder(new_pack_id(ID))
        return ref


@dataclass(frozen=True, slots=True)
class Made:
    """A version in the folder *store*: what is needed to open it."""

    store: Path
    record: Record

    def open(self, cache: Cache, *, wrap: Callable[[Backend], Backend] = lambda backend: backend) -> Version:
        """Open it through *cache*; *wrap* goes around its backend."""
        backend = wrap(FolderBackend(self.store))
        root = self.record.root
        assert root is not None
        return Version(self.record, root, lambda tag: backend, cache)


def make(
    source: Path,
    store: Path,
    *,
    boundaries: Boundaries = STANDARD,
    cutting: Cutting | None = None,
    pack_bytes: int = 8 << 20,
    tail_bytes: int = 256 << 10,
    modes: Mapping[bytes, int] | None = None,
) -> Made:
    """Store the tree at *source* as a version in the folder *store*; *modes* has permissions other than on disk."""
    backend = FolderBackend(store)
    cutting = cutting or Cutting()
    packs = Packs(backend.put_if_absent, cutting=cutting, pack_bytes=pack_bytes)
    cache = Cache(store.with_name(store.name + ".cache"))
    fetcher = Fetcher(lambda tag: backend, cache)
    metadata = MetadataPacks(ID, backend.put_if_absent, fetcher, keep=lambda *_: None, tail_bytes=tail_bytes)
    writer = Writer(metadata.write, boundaries)
    paths = sorted(_walk(source), key=key_of)
    whole = {path: _large(packs, writer, source / os.fsdecode(path), cutting, path) for path in paths}
    packs.finish()
    items = []
    for path in paths:
        entry = _entry(source, path, whole[path], packs)
        if modes and path in modes:
            entry = entry._replace(mode=stat.S_IFMT(entry.mode) | modes[path])
        items.append((key_of(path), entry))
    root = metadata.finish(writer.build(items))
    fetcher.close()
    cache.close()
    record = Record(ID, "project", "name", "1.0.0", Status.COMPLETED, root=root)
    return Made(store, record)


def opened(version: Version, close: Callable[[], None] = lambda: None) -> OpenedVersion:
    """Return *version* as a mount takes it."""
    record = version.record
    return OpenedVersion(
        source=version,
        id=record.id,
        name=f"{record.project}/{record.name}",
        version=record.version,
        digest=record.digest,
        budget_bytes=lambda: version.cache.info().budget_bytes,
        close=close,
        tail=version.root.tail,
    )


def _walk(source: Path) -> Iterator[bytes]:
    yield b""
    top = os.fsencode(source)
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            yield os.path.relpath(os.path.join(folder, name), top)


def _large(packs: Packs, writer: Writer, file: Path, cutting: Cutting, path: bytes) -> tuple[bytes, Content] | None:
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_size <= cutting.small_file_bytes:
        packs.small(path, file.read_bytes())
        return None
    blocks = packs.large(file)
    if len(blocks) == 1:
        return blocks[0].digest, (Extent(blocks[0], 0, blocks[0].raw),)
    digest = file_digest(status.st_size, [block.digest for block in blocks])
    return digest, writer.block_tree(blocks) or tuple(Extent(block, 0, block.raw) for block in blocks)


def _entry(source: Path, path: bytes, large: tuple[bytes, Content] | None, packs: Packs) -> Entry:
    file = source / os.fsdecode(path)
    status = file.lstat()
    if stat.S_ISDIR(status.st_mode):
        return directory(stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        return link(os.fsencode(os.readlink(file)), status.st_mtime_ns)
    if large is None:
        data = file.read_bytes()
        large = block_digest(data), (packs.extent(path),) if data else ()
    return Entry(status.st_mode, status.st_size, status.st_mtime_ns, *large)


__all__ = ["ID", "Made", "Root", "make", "opened"]
