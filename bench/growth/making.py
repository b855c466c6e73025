"""Makes versions of any number of entries by the code of the store, with no file on the disk; run as a program.

    python -m bench.growth.making version ENTRIES       one version, named `growth/of-ENTRIES`
    python -m bench.growth.making lineage PARENT COUNT  COUNT versions, each the child of the one before

Run with the settings of dvfs. Entries are made one after the other, in catalog order, and given to the store's writer
of catalogs. Every file is a piece of one of a few real blocks, hardly two alike, with the digest that it has: it can be
read, and be verified. Prints, as JSON, the id of the (last) version, the seconds taken, the most memory of this
program, and what went into the store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import stat
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from bench.programs import usage
from bench.scale import MIB
from bench.trees import SEED, TEXT_BYTES
from dvfs.cli.config import Config
from dvfs.cli.session import opened_store
from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.entry import Entry, Item, directory
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.key import key_of
from dvfs.store.change import Change, Kept
from dvfs.store.commit import Request, commit
from dvfs.store.digest import block_digest
from dvfs.store.fetch import Fetcher
from dvfs.store.ids import VersionId, new_pack_id, new_version_id, pack_key
from dvfs.store.pack import PackBuilder
from dvfs.store.record import Counts, Record, Status
from dvfs.store.store import Store

PROJECT = "growth"
FILES_IN_FOLDER = 1_000
FOLDERS_IN_GROUP = 100
EDITS = 10
BLOCKS = 16
_BLOCK_BYTES = 1 * MIB
_BEGAN_NS = 1_700_000_000_000_000_000
_STEP_NS = 200_000


@dataclass(slots=True)
class Pieces:
    """Files as they lie in blocks: one behind the other, to the end of a block, and on in the next. Not thread-safe."""

    blocks: list[tuple[BlockRef, memoryview]]
    rng: random.Random
    block: int = 0
    start: int = 0

    def file(self, mtime_ns: int) -> Entry:
        """Return the entry of the next file."""
        size = self.rng.randint(*TEXT_BYTES)
        if self.start + size > _BLOCK_BYTES:
            self.block = (self.block + 1) % len(self.blocks)
            self.start = self.rng.randrange(TEXT_BYTES[0])  # another one than the last time: hardly two files are alike
        ref, data = self.blocks[self.block]
        start, self.start = self.start, self.start + size
        digest = block_digest(data[start : start + size])
        return Entry(stat.S_IFREG | 0o644, size, mtime_ns, digest, (Extent(ref, start, size),))


def items(entries: int, pieces: Pieces) -> Iterator[Item]:
    """Yield so many *entries* in catalog order: the root, groups of folders, folders, and files in them."""
    files, folders, groups = shape(entries)
    yield b"", directory(mtime_ns=_BEGAN_NS)
    for group in range(groups):
        yield key_of(group_name(group)), directory(mtime_ns=_BEGAN_NS)
    for group in range(groups):
        mine = range(group * FOLDERS_IN_GROUP, min((group + 1) * FOLDERS_IN_GROUP, folders))
        for folder in mine:
            yield key_of(folder_name(folder)), directory(mtime_ns=_BEGAN_NS)
        for folder in mine:
            first = folder * FILES_IN_FOLDER
            prefix = key_of(folder_name(folder) + b"/")
            for number, name in enumerate(file_names(folder, min(FILES_IN_FOLDER, files - first))):
                mtime_ns = _BEGAN_NS + (first + number) * _STEP_NS + pieces.rng.randrange(_STEP_NS)
                yield prefix + name, pieces.file(mtime_ns)


def shape(entries: int) -> tuple[int, int, int]:
    """Return how many files, folders and groups of folders are *entries*, or the most below it, with the root."""

    def count(files: int) -> int:
        return 1 + _groups(_folders(files)) + _folders(files) + files

    files = bisect_right(range(entries + 1), entries, key=count) - 1
    return files, _folders(files), _groups(_folders(files))


def _folders(files: int) -> int:
    return -(-files // FILES_IN_FOLDER)


def _groups(folders: int) -> int:
    return -(-folders // FOLDERS_IN_GROUP)


def group_name(group: int) -> bytes:
    return b"group_%05d" % group


def folder_name(folder: int) -> bytes:
    """Return the path of the folder of that number."""
    return group_name(folder // FOLDERS_IN_GROUP) + b"/part_%02d" % (folder % FOLDERS_IN_GROUP)


def file_names(folder: int, count: int) -> list[bytes]:
    """Return the names of the *count* files of a folder, in order: the same ones each time."""
    rng = random.Random(SEED + folder)
    names = {b"doc_%08x.txt" % rng.getrandbits(32) for _ in range(count)}
    while len(names) < count:
        names.add(b"doc_%08x.txt" % rng.getrandbits(32))
    return sorted(names)


def make_version(store: Store, entries: int) -> dict[str, object]:
    """Make a version of *entries* in *store*."""
    draft = store.create(project=PROJECT, name=f"of-{entries}")
    record = draft.record
    pieces = Pieces(_put_blocks(store, record.id), random.Random(SEED))
    with closing(Fetcher(store.storage(record), store.cache)) as nothing:
        packs = store.metadata_packs(record.id, nothing)
        root = packs.finish(Writer(packs.write, store.parameters.boundaries).build(items(entries, pieces)))
    uploaded = Counts(uploaded=packs.uploaded_bytes + BLOCKS * _BLOCK_BYTES)
    store.records.update(
        record.id, lambda newest: newest.with_fields(draft=root, status=Status.UPLOADING, counts=uploaded)
    )
    done = draft.finalize()
    return _told(done.id, root.page) | {"metadata_bytes": packs.uploaded_bytes}


def extend(store: Store, parent: str, count: int) -> dict[str, object]:
    """Make *count* versions, the first a child of *parent*, each with `EDITS` files that are others than before."""
    record = store.resolve(parent, "finished")
    rng = random.Random(record.id)
    uploaded = 0
    for _ in range(count):
        record = _child(store, record, rng)
        uploaded += record.counts.uploaded
    assert record.root is not None
    return _told(record.id, record.root.page) | {"metadata_bytes": uploaded}


def _child(store: Store, parent: Record, rng: random.Random) -> Record:
    with closing(store.version(parent)) as version:
        changes: dict[bytes, Change] = {}
        while len(changes) < EDITS:
            path, before = version.tree.select(rng.randrange(version.tree.entries))
            if before.is_file:
                (block,) = version.blocks(before)
                pieces = Pieces([(block, memoryview(version.fetcher.block(block)))], rng, 0, rng.randrange(MIB // 2))
                after = pieces.file(before.mtime_ns + 1)
                changes[path] = Change(path, after, Kept(after.digest, after.content))
    request = Request(new_version_id(), parent)
    child = commit(store, request, changes.values, _NoReader())
    assert child is not None
    return child


class _NoReader:
    """Nothing is read: all bytes are in the store."""

    def readinto(self, handle: bytes, start: int, view: memoryview) -> int:
        raise AssertionError(f"{handle!r} is read at {start}, {len(view)} bytes")


def _put_blocks(store: Store, version: VersionId) -> list[tuple[BlockRef, memoryview]]:
    """Put a pack of random blocks of *version* into *store*; return them with their bytes."""
    builder = PackBuilder(new_pack_id(version))
    blocks = []
    for _ in range(BLOCKS):
        data = os.urandom(_BLOCK_BYTES)
        blocks.append((builder.append(data, len(data), Codec.RAW, block_digest(data)), memoryview(data)))
    store.backend.put_if_absent(pack_key(builder.pack), builder.finish())
    return blocks


def _told(version: VersionId, page: PageRef) -> dict[str, object]:
    return {"id": version, "entries": page.entries, "levels": page.level + 1}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.growth.making")
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("version").add_argument("entries", type=int)
    lineage = modes.add_parser("lineage")
    lineage.add_argument("parent")
    lineage.add_argument("count", type=int)
    told = parser.parse_args()
    began = time.monotonic()
    # Of a version made at one go no page is wanted again: nothing is kept.
    options = {"cache_size": 0} if told.mode == "version" else {}
    with opened_store(Config(os.environ, options)) as store:
        made = make_version(store, told.entries) if told.mode == "version" else extend(store, told.parent, told.count)
    seconds = time.monotonic() - began
    print(json.dumps(made | {"seconds": seconds, "peak_bytes": usage(os.getpid()).peak_bytes}))


if __name__ == "__main__":
    main()
