"""Catalogs made to do harm: each is one clear error, nothing is written outside of a copy's target, a mount lives."""

from __future__ import annotations

import errno
import logging
import os
import random
import stat
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog import blocktree, leaf
from dvfs.store.catalog.blocktree import BlocksPage
from dvfs.store.catalog.boundary import Boundary
from dvfs.store.catalog.entry import BlockTreeRef, Content, Entry, Item, directory, link
from dvfs.store.catalog.inner import Inner, PageRef, encode_inner
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.leaf import Leaf, encode_leaf
from dvfs.store.codec import compress_page
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.errors import Corrupt, DvfsError
from dvfs.store.folder import FolderBackend
from dvfs.store.materialise import copy_out
from dvfs.store.record import Record
from tests.fault_kit import Machine, opened
from tests.forged import Forger, with_column

GOOD = b"good bytes"
SMALL = Boundary(least=2, soft=4, most=8, rare=4, often=2, weight=1 << 20)


def file(content: Content, size: int, digest: bytes = bytes(32)) -> Entry:
    return Entry(stat.S_IFREG | 0o644, size, 0, digest, content)


def good(forger: Forger) -> Entry:
    return file(forger.file(GOOD), len(GOOD), block_digest(GOOD))


Page = Callable[[Forger, bytes], PageRef]
"""Makes the leaf page of what is in a directory; the directory is called as its components joined by NUL."""


def named(name: bytes) -> Page:
    return lambda forger, top: forger.leaf([(top + b"\0\0" + name, good(forger))])


def children(*names: bytes) -> Page:
    return lambda forger, top: forger.leaf([(top + b"\0\0" + name, good(forger)) for name in names])


def holding(entry: Callable[[Forger], Entry]) -> Page:
    return lambda forger, top: forger.leaf([(top + b"\0\0x", entry(forger))])


def below(*entries: tuple[bytes, Entry]) -> Page:
    """A directory of *entries*, by path below it, and a file below each of them."""

    def page(forger: Forger, top: bytes) -> PageRef:
        items: list[Item] = [(top + b"\0\0" + path, entry) for path, entry in entries]
        items += [(top + b"\0" + path + b"\0\0evil", good(forger)) for path, _ in entries]
        return forger.leaf(items or [(top + b"\0nowhere\0\0evil", good(forger))])

    return page


def column(tag: int, data: bytes) -> Page:
    """A leaf page of one good file with another *column*."""

    def page(forger: Forger, top: bytes) -> PageRef:
        items = [(top + b"\0\0x", good(forger))]
        return forger.leaf(items, raw=with_column(encode_leaf(items), tag, data))

    return page


def stored(make: Callable[[bytes], bytes]) -> Page:
    """A leaf page whose stored bytes are what *make* makes of the right ones."""

    def page(forger: Forger, top: bytes) -> PageRef:
        items = [(top + b"\0\0x", good(forger))]
        return forger.leaf(items, stored=make(compress_page(encode_leaf(items))))

    return page


def counted(**wrong: int) -> Page:
    """A good page that its parent counts wrongly."""

    def page(forger: Forger, top: bytes) -> PageRef:
        ref = forger.leaf([(top + b"\0\0x", good(forger))])
        return ref._replace(**{name: getattr(ref, name) + more for name, more in wrong.items()})

    return page


def frame(size: int) -> bytes:
    """Return the start of a zstd frame that declares *size* bytes, and a block that repeats a byte."""
    return struct.pack("<IBBQ", 0xFD2FB528, 0xC0, 0x58, size) + struct.pack("<I", (128 << 10) << 3 | 3)[:3] + b"A"


def two_blocks(forger: Forger) -> Entry:
    first, second = forger.stored(b"a" * 100), forger.stored(b"b" * 100)
    extents = Extent(first, 0, 100), Extent(second, 0, 100)
    return file(extents, 150, file_digest(150, [first.digest, second.digest]))


def other_digest(forger: Forger) -> Entry:
    blocks = forger.stored(b"a" * 100), forger.stored(b"b" * 100)
    return file(tuple(Extent(block, 0, 100) for block in blocks), 200, file_digest(200, [bytes(32)] * 2))


def tree_of(forger: Forger, *, size: int = 0, level: int = 0, number: int = 0, again: int = 0) -> Entry:
    """A file of 70 blocks in a tree, with *size* more than it has; the root of the tree repeated *again* times."""
    block = forger.stored(b"t" * 100)
    root = blocktree.build([block] * 70, SMALL, forger.stored)
    total = 7000
    for _ in range(again):
        row = [(root.block, total, root.number)] * 1000
        page = forger.stored(compress_page(blocktree._encode(root.level + 1, row)))
        total *= 1000
        root = BlockTreeRef(page, root.level + 1, (root.number * 1000) & 0x0FFFFFFF)
    root = BlockTreeRef(root.block, root.level + level, root.number + number)
    return file(root, total + size, bytes(32))


def bomb(forger: Forger, *, raw: int, said: int) -> Entry:
    block = forger.stored(frame(said), raw=raw, codec=Codec.ZSTD)
    return file((Extent(block, 0, 5),), 5)


def at_offset(forger: Forger, offset: int) -> Entry:
    block = forger.stored(b"x" * 10)._replace(offset=offset)
    return file((Extent(block, 0, 10),), 10)


HOSTILE: dict[str, Page] = {
    "dot dot": named(b".."),
    "dot": named(b"."),
    "slash": named(b"a/b"),
    "absolute": named(b"/etc/evil"),
    "empty name": named(b""),
    "long name": named(b"n" * 256),
    "below a link": below((b"l", link(b"../../outside"))),
    "below a file": below((b"f", file((), 0, block_digest(b"")))),
    "below nothing": below(),
    "a parent with dots": lambda forger, top: forger.leaf([(top + b"\0..\0\0x", good(forger))]),
    "out of order": children(b"b", b"a"),
    "one name twice": children(b"a", b"a"),
    "directories out of order": lambda forger, top: forger.leaf(
        [
            *[(top + b"\0\0" + name, directory()) for name in (b"a", b"b")],
            *[(top + b"\0" + name + b"\0\0x", good(forger)) for name in (b"b", b"a")],
        ]
    ),
    "a fifo": holding(lambda forger: good(forger)._replace(mode=stat.S_IFIFO | 0o644)),
    "a device": holding(lambda forger: good(forger)._replace(mode=stat.S_IFBLK | 0o644)),
    "no kind": holding(lambda forger: good(forger)._replace(mode=0o644)),
    "no blocks": holding(lambda forger: file((), 10)),
    "past its block": holding(lambda forger: file((Extent(forger.stored(b"x" * 10), 4, 10),), 10)),
    "other lengths": holding(two_blocks),
    "other digests": holding(other_digest),
    "other bytes": holding(lambda forger: file((Extent(forger.stored(b"x" * 9, digest=bytes(32)), 0, 9),), 9)),
    "huge size": holding(lambda forger: good(forger)._replace(size=(1 << 64) - 1)),
    "large size": holding(lambda forger: good(forger)._replace(size=1 << 61)),
    "huge size, no blocks": holding(lambda forger: file((), (1 << 64) - 1)),
    "a page bomb": stored(lambda data: frame(1 << 40)),
    "a page just too long": stored(lambda data: compress_page(bytes((8 << 20) + 1))),
    "a page that lies": stored(lambda data: frame(1000)),
    "two pages": stored(lambda data: data + data),
    "no page": stored(lambda data: b"PK\3\4" + data),
    "a block bomb": holding(lambda forger: bomb(forger, raw=1000, said=1 << 40)),
    "a block bomb that fits": holding(lambda forger: bomb(forger, raw=1000, said=1000)),
    "a huge block": holding(lambda forger: bomb(forger, raw=(1 << 32) - 1, said=(1 << 32) - 1)),
    "an empty block": holding(lambda forger: file((Extent(forger.stored(b""), 0, 5),), 5)),
    "beyond its pack": holding(lambda forger: at_offset(forger, (1 << 32) - 1)),
    "other storage": holding(lambda forger: file((Extent(forger.stored(b"x" * 10)._replace(storage=7), 0, 10),), 10)),
    "no codec": holding(lambda forger: file((Extent(forger.stored(b"x" * 10)._replace(codec=9), 0, 10),), 10)),
    "more entries": counted(entries=1),
    "huge counts": counted(entries=1 << 50, files=1 << 50, size=1 << 61),
    "more files": counted(files=1),
    "more bytes": counted(size=1),
    "half a run": column(leaf.RUNS, b"\1\0\0"),
    "no runs": column(leaf.RUNS, b""),
    "more runs": column(leaf.RUNS, struct.pack("<II", 1, 1 << 31)),
    "a huge run": column(leaf.RUNS, struct.pack("<I", (1 << 32) - 1)),
    "no modes": column(leaf.MODES, b""),
    "half a size": column(leaf.SIZES, b"\1\0\0"),
    "no block numbers": column(leaf.EXTENT_BLOCK, b""),
    "half a block number": column(leaf.EXTENT_BLOCK, b"\0\0\0"),
    "a block not listed": column(leaf.EXTENT_BLOCK, struct.pack("<I", 5)),
    "many extents": column(leaf.EXTENTS, struct.pack("<H", 65534)),
    "a target too many": column(leaf.MTIMES, b"12345678" * 2),
    "a longer tree": holding(lambda forger: tree_of(forger, size=1)),
    "a higher tree": holding(lambda forger: tree_of(forger, level=1)),
    "a tree of a block": holding(lambda forger: file(BlockTreeRef(forger.stored(b"x" * 100), 0, 70), 100)),
}
"""By name: what is in a directory of its own. Each makes a copy of the version fail."""


@dataclass(frozen=True, slots=True)
class Forged:
    """A store in *folder* to forge versions in."""

    folder: Path

    @property
    def backend(self) -> FolderBackend:
        return FolderBackend(self.folder)

    def publish(self, pages: dict[str, Page]) -> Record:
        """Make a version of a directory for each of *pages*, and one with good bytes."""
        forger = Forger(self.backend)
        tops = sorted(pages)
        items: list[Item] = [(b"", directory())]
        items += [(key_of(os.fsencode(top)), directory()) for top in [*tops, "zz good"]]
        refs = [forger.leaf(items)]
        refs += [pages[top](forger, os.fsencode(top)) for top in tops]
        refs.append(forger.leaf([(b"zz good\0\0file", good(forger))]))
        return forger.publish(forger.inner(refs))


@pytest.fixture
def forged(tmp_path: Path) -> Forged:
    return Forged(tmp_path / "store")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_copy_fails_with_one_error_and_nothing_is_written_outside(
    forged: Forged, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = forged.publish({name: HOSTILE[name]})
    outside = tmp_path / "home" / "outside"
    outside.mkdir(parents=True)
    (outside / "mine").write_text("mine")
    with opened(forged.backend, tmp_path / "machine") as store, closing(store.version(record)) as version:
        with pytest.raises(Corrupt) as caught:
            copy_out(version, tmp_path / "home" / "target")
        assert "\n" not in caught.value.message
    found = sorted(os.path.relpath(path, tmp_path) for path in (tmp_path / "home").rglob("*"))
    assert found == ["home/outside", "home/outside/mine"]
    assert all(entry.levelno == logging.WARNING for entry in caplog.records)


def test_a_mount_of_all_of_them_lives(forged: Forged, tmp_path: Path) -> None:
    pages = {name: page for name, page in HOSTILE.items() if "huge size" not in name}  # no record can count those
    # A listing may need the page before its own as well.
    deep = {"zz above": holding(good), "zz deep": holding(lambda forger: tree_of(forger, again=2))}
    record = forged.publish(pages | deep)
    machine = Machine(tmp_path / "machine", str(forged.folder))
    failed: dict[str, int | None] = {}
    with machine.mounted(record.id, "--prefetch", "all") as mount:
        for top in sorted(os.listdir(mount.directory)):
            try:
                for path in (mount.directory / top).rglob("*"):
                    if path.is_file() and not path.is_symlink():
                        with path.open("rb", buffering=0) as opened_file:
                            opened_file.read(1 << 17)
                os.listdir(mount.directory / top)  # rglob says nothing of what it cannot list
            except OSError as exc:
                failed[top] = exc.errno
        assert (mount.directory / "zz good" / "file").read_bytes() == GOOD
        with (mount.directory / "zz deep" / "x").open("rb", buffering=0) as deep_file:
            size = os.fstat(deep_file.fileno()).st_size
            assert size == 7000 * 1000**2
            assert os.pread(deep_file.fileno(), 4096, size - 10_000) == b"t" * 4096
        log = mount.said()
        assert "Traceback" not in log
    quiet = {"below a link", "below a file", "below nothing"}
    assert failed.pop("zz above", errno.EIO) == errno.EIO
    assert failed == dict.fromkeys(pages.keys() - quiet, errno.EIO)


def test_blocks_that_repeat_a_billion_times_take_no_time_until_they_are_read(forged: Forged, tmp_path: Path) -> None:
    """A tree of a few pages may list 2^28 blocks, and no more."""
    deep = {str(again): holding(lambda forger, again=again: tree_of(forger, again=again)) for again in (2, 3)}  # type: ignore[misc]
    record = forged.publish(deep)
    with opened(forged.backend, tmp_path / "machine") as store, closing(store.version(record)) as version:
        found = version.tree.find(b"2/x")
        assert found is not None
        entry = found[1]
        assert version.read(entry, entry.size - 95, 10) == b"t" * 10
        assert version.fetcher.want(islice(version.blocks(entry), 100)) == 100
        assert len(next(version.chunks(entry))) == 100
        with pytest.raises(Corrupt, match="blocks below, not"):
            version.read(version.tree.find(b"3/x")[1], 0, 10)  # type: ignore[index]


def test_leaves_that_overlap_do_no_harm(forged: Forged, tmp_path: Path) -> None:
    """What each page holds is in order, but the first goes on beyond the start of the second."""

    def page(forger: Forger, top: bytes) -> PageRef:
        return forger.inner(
            [
                forger.leaf([(top + b"\0\0a", good(forger)), (top + b"\0\0z", good(forger))]),
                forger.leaf([(top + b"\0\0b", good(forger)), (top + b"\0\0z", good(forger))]),
            ]
        )

    forger = Forger(forged.backend)
    items: list[Item] = [(b"", directory()), (b"\0\0o", directory())]
    first = forger.inner([forger.leaf(items)])
    record = forger.publish(forger.inner([first, page(forger, b"o")], level=2))
    with (
        opened(forged.backend, tmp_path / "machine") as store,
        closing(store.version(record)) as version,
        pytest.raises(DvfsError),
    ):
        copy_out(version, tmp_path / "target")
    machine = Machine(tmp_path / "other", str(forged.folder))
    with machine.mounted(record.id) as mount:
        for name in os.listdir(mount.directory / "o"):
            assert (mount.directory / "o" / name).read_bytes() == GOOD
        assert "Traceback" not in mount.said()


def _roots(forger: Forger) -> dict[str, PageRef]:
    root = forger.leaf([(b"", directory()), (b"\0\0x", good(forger))])
    return {
        "no root directory": forger.leaf([(b"\0\0x", good(forger))]),
        "a root that is a file": forger.leaf([(b"", good(forger))]),
        "no entries": forger.leaf([(b"", directory())], raw=encode_leaf([]))._replace(entries=0),
        "of a level above": root._replace(level=1),
        "of the highest level": root._replace(level=63),
        "more entries": root._replace(entries=1 << 62),
        "more bytes": root._replace(size=(1 << 63) - 1),
        "no page": root._replace(block=forger.stored(b"x" * 100)),
        "an empty page": root._replace(block=forger.stored(b"")),
        "a page of blocks": root._replace(block=tree_of(forger).content.block),  # type: ignore[union-attr]
    }


def test_a_hostile_root_is_refused_before_anything_is_mounted(forged: Forged, tmp_path: Path) -> None:
    names = list(_roots(Forger(forged.backend)))
    for name in names:
        forger = Forger(forged.backend)
        record = forger.publish(_roots(forger)[name])
        with (
            opened(forged.backend, tmp_path / "machine") as store,
            closing(store.version(record)) as version,
            pytest.raises(Corrupt) as caught,
        ):
            version.check()
        assert record.id in caught.value.message, name


def _pages() -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    forger = Forger(FolderBackend(Path("unused")))
    items: list[Item] = [(b"", directory())]
    items += [(b"\0\0%02d" % number, good(forger)) for number in range(20)]
    items.append((b"\0\0link", link(b"target")))
    items.append((b"\0\0tree", tree_of(forger)))
    items += [(b"d\0e\0\0%02d" % number, good(forger)) for number in range(5)]
    refs = [forger.leaf(items[:10]), forger.leaf(items[10:])]
    block = forger.stored(b"x" * 100)
    row = [(block, block.raw, 1)] * 5
    return {
        "leaf": (encode_leaf(items), lambda data: _use_leaf(Leaf(data))),
        "inner": (encode_inner(1, refs), lambda data: Inner(data).children()),
        "blocks": (blocktree._encode(0, row), lambda data: BlocksPage(data).blocks.all()),
        "blocks above": (blocktree._encode(1, row), lambda data: _use_blocks(BlocksPage(data))),
    }


def _use_leaf(page: Leaf) -> None:
    for index in range(page.count):
        page.path_at(index)
        page.key_at(index)
        page.entry_at(index)
    page.find(b"d", b"e")
    page.lower_bound(b"d")


def _use_blocks(page: BlocksPage) -> list[BlockRef]:
    return [page.child(index) for index in range(len(page.blocks))]


@pytest.mark.parametrize("kind", ["leaf", "inner", "blocks", "blocks above"])
def test_pages_with_bytes_changed_are_read_or_refused(kind: str) -> None:
    raw, use = _pages()[kind]
    use(raw)
    chance = random.Random(kind)
    refused = 0
    for _ in range(3000):
        data = bytearray(raw)
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            at = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(200, len(data)))
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        try:
            use(bytes(data if chance.random() < 0.8 else data[: chance.randrange(len(data))]))
        except Corrupt:
            refused += 1
    assert refused > 500
