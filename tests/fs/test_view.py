"""The view answers as a dict of paths would, with and without waiting."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.fs.errno import Refused
from dvfs.fs.view import (
    ROOT_INODE,
    UNIT_BYTES,
    Attributes,
    Identity,
    NowaitView,
    View,
    blocking_view,
    nowait_view,
    root_rank_of,
)
from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.cache_open import OpenBlock
from dvfs.store.catalog.boundary import STANDARD
from dvfs.store.catalog.entry import Content, Entry, directory, link
from dvfs.store.catalog.key import key_of, parent_of
from dvfs.store.catalog.pages import NotCached, PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.errors import InvalidInput, NotFound
from tests.catalog_model import PACK, PATHS, TINY, Catalog, Model, models, small_file

IDENTITY = Identity(b"id", b"1.0.0", b"digest")


class Blocks:
    """Blocks by digest, of which those in `present` can be read without waiting."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.present: set[bytes] = set()

    def add(self, data: bytes) -> BlockRef:
        digest = block_digest(data)
        self.data[digest] = data
        return BlockRef(0, PACK, 0, len(data), len(data), Codec.RAW, digest)

    def read(self, ref: BlockRef, start: int, length: int) -> bytes:
        self.present.add(ref.digest)
        return self.data[ref.digest][start : start + length]

    def readinto(self, ref: BlockRef, start: int, view: memoryview) -> None:
        view[:] = self.read(ref, start, len(view))

    def cached(self, ref: BlockRef) -> bool:
        return ref.digest in self.present

    def is_unverified(self, ref: BlockRef) -> bool:
        raise AssertionError(ref)

    def foresee(self, ref: BlockRef) -> None:
        raise AssertionError(ref)

    def readinto_nowait(self, ref: BlockRef, start: int, view: memoryview) -> bool:
        if ref.digest in self.present:
            view[:] = self.data[ref.digest][start : start + len(view)]
        return ref.digest in self.present

    def opened(self, ref: BlockRef) -> OpenBlock | None:
        raise NotImplementedError

    def note_hit(self, block: OpenBlock, length: int) -> None:
        raise NotImplementedError

    def want(self, refs: object, *, urgent: bool = True, sparing: bool = False) -> int:
        return 0

    def wait_idle(self, timeout_seconds: float | None = None) -> bool:
        return True


@dataclass
class Source:
    """A version in memory; its pages are not there until somebody waits for them."""

    tree: Tree
    tree_nowait: Tree
    pages: PageSource
    fetcher: Blocks


def source_of(model: Model, blocks: Blocks | None = None, catalog: Catalog | None = None) -> Source:
    catalog = catalog or Catalog()
    root = catalog.build(model).root
    pages = PageSource(catalog.memory)
    return Source(Tree(root, pages.load), Tree(root, pages.load_nowait), pages, blocks or Blocks())


def view_of(model: Model) -> View:
    return blocking_view(source_of(model), IDENTITY)


def inodes(model: Model) -> dict[bytes, int]:
    return {path: rank + 1 for rank, path in enumerate(sorted(model, key=key_of))}


def attributes(model: Model, path: bytes, inode: int) -> Attributes:
    entry = model[path]
    return Attributes(inode, entry.mode, entry.size, entry.mtime_ns)


def children(model: Model, path: bytes) -> list[bytes]:
    return sorted(other for other in model if other and parent_of(other) == path)


@given(models(), PATHS)
def test_every_path_is_looked_up_step_by_step(model: Model, other: bytes) -> None:
    view, inode = view_of(model), inodes(model)

    for path in model:
        assert view.getattr(inode[path]) == attributes(model, path, inode[path])
        if path:
            name = path.rpartition(b"/")[2]
            assert view.lookup(inode[parent_of(path)], name) == attributes(model, path, inode[path])
    parent, _, name = other.rpartition(b"/")
    if parent in model and model[parent].is_dir and other not in model:
        assert view.lookup(inode[parent], name) is None


@given(models(), st.data())
def test_a_directory_is_listed_from_any_offset(model: Model, data: st.DataObject) -> None:
    view, inode = view_of(model), inodes(model)

    for path, entry in model.items():
        if not entry.is_dir:
            continue
        names = [b".", b"..", *(child.rpartition(b"/")[2] for child in children(model, path))]
        above = parent_of(path)
        whole = list(view.readdir(inode[path], 0))
        assert [child.name for child in whole] == names
        assert [child.offset for child in whole] == list(range(1, len(names) + 1))
        assert whole[0].attributes == attributes(model, path, inode[path])
        assert whole[1].attributes == attributes(model, above, inode[above])
        for child in whole[2:]:
            full = path + b"/" + child.name if path else child.name
            assert child.attributes == attributes(model, full, inode[full])
        offset = data.draw(st.integers(0, len(names) + 2))
        assert list(view.readdir(inode[path], offset)) == whole[offset:]


@given(models(), st.data())
def test_a_directory_of_the_version_can_be_the_root(model: Model, data: st.DataObject) -> None:
    top = data.draw(st.sampled_from(sorted(path for path, entry in model.items() if entry.is_dir)))
    source = source_of(model)
    view = blocking_view(source, IDENTITY, root_rank_of(source.tree, b"/" + top + b"/"))
    inode = inodes(model) | {top: ROOT_INODE}

    for path in model:
        below = not top or path == top or path.startswith(top + b"/")
        if below:
            assert view.getattr(inode[path]) == attributes(model, path, inode[path])
            if model[path].is_dir:
                above = top if path == top else parent_of(path)
                dots = [child.attributes.inode for child in view.readdir(inode[path], 0)][:2]
                assert dots == [inode[path], inode[above]]
                assert view.lookup(inode[path], b"..") == attributes(model, above, inode[above])
        elif inode[path] != ROOT_INODE:
            with pytest.raises(Refused) as caught:
                view.getattr(inode[path])
            assert caught.value.errno == errno.ESTALE


def test_only_a_directory_can_be_the_root() -> None:
    source = source_of({b"": directory(), b"file": small_file(b"x")})

    with pytest.raises(InvalidInput, match="file is not a directory"):
        root_rank_of(source.tree, b"file")
    with pytest.raises(NotFound, match="no directory nothing"):
        root_rank_of(source.tree, b"nothing")


def test_names_have_at_most_255_bytes() -> None:
    longest = b"n" * 255
    view = view_of({b"": directory(), longest: small_file(b"x")})

    assert view.lookup(ROOT_INODE, longest) is not None
    assert view.lookup(ROOT_INODE, b"m" * 255) is None
    with pytest.raises(Refused) as caught:
        view.lookup(ROOT_INODE, b"n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_what_does_not_fit_its_kind_is_refused() -> None:
    model: Model = {b"": directory(), b"d": directory(), b"f": small_file(b"x"), b"l": link(b"f")}
    view, inode = view_of(model), inodes(model)

    def number(question: object) -> int:
        with pytest.raises(Refused) as caught:
            question()  # type: ignore[operator]
        return caught.value.errno

    assert view.readlink(inode[b"l"]) == b"f"
    assert number(lambda: view.readlink(inode[b"f"])) == errno.EINVAL
    assert number(lambda: list(view.readdir(inode[b"f"], 0))) == errno.ENOTDIR
    assert number(lambda: view.read(inode[b"d"], 0, 1)) == errno.EISDIR
    assert number(lambda: view.read(inode[b"l"], 0, 1)) == errno.EINVAL
    assert number(lambda: view.getattr(5)) == errno.ESTALE
    assert number(lambda: view.getattr(0)) == errno.ESTALE


def test_extended_attributes_tell_what_one_looks_at() -> None:
    model: Model = {b"": directory(), b"d": directory(), b"f": small_file(b"x"), b"l": link(b"f")}
    view, inode = view_of(model), inodes(model)
    always = {b"user.dvfs.id": b"id", b"user.dvfs.version": b"1.0.0"}

    assert view.xattrs(ROOT_INODE) == always | {b"user.dvfs.digest": b"digest"}
    assert view.xattrs(inode[b"d"]) == always
    assert view.xattrs(inode[b"l"]) == always
    assert view.xattrs(inode[b"f"]) == always | {b"user.dvfs.digest": block_digest(b"x").hex().encode()}
    assert view.getxattr(inode[b"f"], b"user.dvfs.id") == b"id"
    absent, unsupported = errno.ENODATA, errno.ENOTSUP
    for name, told in {
        b"user.dvfs.digest": absent,
        b"user.other": absent,
        b"security.selinux": unsupported,
        b"system.posix_acl_access": unsupported,
    }.items():
        with pytest.raises(Refused) as caught:
            view.getxattr(inode[b"d"], name)
        assert caught.value.errno == told


def test_space_is_that_of_the_version() -> None:
    source = source_of({b"": directory(), b"a": small_file(b"x"), b"b": link(b"a")})

    assert blocking_view(source, IDENTITY).statfs() == (1, 3)
    assert UNIT_BYTES == 4096


def _file(blocks: Blocks, catalog: Catalog, lengths: list[int]) -> tuple[Entry, bytes]:
    """A file of blocks of *lengths*, told apart by their bytes."""
    parts = [bytes([number % 251]) * length for number, length in enumerate(lengths)]
    refs = [blocks.add(part) for part in parts]
    data = b"".join(parts)
    content: Content = tuple(Extent(ref, 0, ref.raw) for ref in refs)
    digest = refs[0].digest if len(refs) == 1 else file_digest(len(data), [ref.digest for ref in refs])
    return Entry(stat.S_IFREG | 0o644, len(data), 0, digest, catalog.writer().block_tree(refs) or content), data


@given(st.lists(st.integers(1, 9), min_size=1, max_size=150), st.data())
def test_any_range_of_a_file_is_read(lengths: list[int], data: st.DataObject) -> None:
    blocks, catalog = Blocks(), Catalog(TINY)
    entry, whole = _file(blocks, catalog, lengths)
    view = blocking_view(source_of({b"": directory(), b"f": entry}, blocks, catalog), IDENTITY)

    for _ in range(5):
        start, length = data.draw(st.integers(0, len(whole) + 3)), data.draw(st.integers(1, len(whole) + 3))
        assert view.read(2, start, length) == whole[start : start + length]


def test_a_file_inside_a_shared_block_is_read() -> None:
    blocks = Blocks()
    shared = blocks.add(b"0123456789")
    entry = Entry(stat.S_IFREG | 0o644, 4, 0, block_digest(b"3456"), (Extent(shared, 3, 4),))
    view = blocking_view(source_of({b"": directory(), b"f": entry}, blocks), IDENTITY)

    assert view.read(2, 0, 100) == b"3456"
    assert view.read(2, 1, 2) == b"45"
    assert view.read(2, 4, 1) == b""


def read_nowait(view: NowaitView, start: int, length: int) -> bytes:
    buffer = memoryview(bytearray(length))
    return bytes(buffer[: view.readinto(2, start, buffer)])


def test_nothing_waits_in_the_view_of_an_event_loop() -> None:
    blocks, catalog = Blocks(), Catalog(STANDARD)
    entry, whole = _file(blocks, catalog, [5] * 100)
    source = source_of({b"": directory(), b"f": entry}, blocks, catalog)
    nowait, waiting = nowait_view(source, IDENTITY), blocking_view(source, IDENTITY)

    with pytest.raises(NotCached):
        nowait.getattr(2)
    assert waiting.getattr(2).size == len(whole)
    assert nowait.getattr(2).size == len(whole)
    with pytest.raises(NotCached):
        read_nowait(nowait, 7, 11)  # where the blocks are is in a page of its own
    assert waiting.read(2, 7, 11) == whole[7:18]
    assert read_nowait(nowait, 7, 11) == whole[7:18]
    with pytest.raises(NotCached):
        read_nowait(nowait, 0, len(whole) + 5)
    assert waiting.read(2, 0, len(whole)) == whole
    assert read_nowait(nowait, 0, len(whole) + 5) == whole


def test_memory_of_directories_is_bounded() -> None:
    model: Model = {b"": directory()} | {b"d%04d" % number: directory() for number in range(2000)}
    view = view_of(model)

    for number in range(2000):
        assert view.lookup(number + 2, b"x") is None
    assert len(view._listings) <= 512
