"""A version as a tree of inodes: what each file system call asks, answered from the catalog. Knows no FUSE.

An inode is the rank of an entry + 1, so the root is 1, no table is kept, and any process answers any question about the
version alike. Where a directory of the version is shown as the root, that directory is inode 1.

There is a view that may wait and one that may not: the latter raises `NotCached`, and the same question is then asked
of the former in a thread. Thread-safe; what is remembered never changes.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from dvfs.fs.errno import Refused
from dvfs.fs.own_ranges import OwnRanges
from dvfs.fs.source import OpenedVersion, Source
from dvfs.store.block import BlockRef
from dvfs.store.cache_open import OpenBlock
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.entry import Content, Entry
from dvfs.store.catalog.key import NAME_MAX, parent_of
from dvfs.store.catalog.leaf import Leaf
from dvfs.store.catalog.pages import NotCached
from dvfs.store.catalog.tree import Tree
from dvfs.store.errors import Corrupt, InvalidInput, NotFound

ROOT_INODE = 1
UNIT_BYTES = 4096
_REMEMBERED = 512


class Attributes(NamedTuple):
    """What stat tells. *size* in bytes, *mtime_ns* since the epoch, *mode* with type bits."""

    inode: int
    mode: int
    size: int
    mtime_ns: int


class Child(NamedTuple):
    """An entry of a directory; *offset*: from where the listing goes on after it."""

    offset: int
    name: bytes
    attributes: Attributes


class Space(NamedTuple):
    """What statfs tells: size in *units* of UNIT_BYTES, rounded up, and the number of *inodes*."""

    units: int
    inodes: int


class File(NamedTuple):
    """A regular file: its *rank*, its *size* in bytes, where its bytes are."""

    rank: int
    size: int
    content: Content


class Identity(NamedTuple):
    """What extended attributes say of the version."""

    id: bytes
    version: bytes
    digest: bytes


def identity_of(opened: OpenedVersion) -> Identity:
    """Return what extended attributes say of *opened*."""
    return Identity(opened.id.encode(), opened.version.encode(), opened.digest.encode())


_K = TypeVar("_K")
_V = TypeVar("_V")


def remember(known: dict[_K, _V], key: _K, value: _V, most: int = _REMEMBERED) -> _V:
    """Keep *value* in *known*, of which the oldest goes when there are *most*."""
    if len(known) >= most:
        try:
            del known[next(iter(known))]
        except (KeyError, StopIteration, RuntimeError):
            pass  # another thread did
    known[key] = value
    return value


class View:
    """The tree at *subdir* of a version, by inode. See `blocking_view` and `nowait_view`.

    *read* returns bytes of a block: block, start, length. *load_blocks* brings pages of the lists of blocks of large
    files. All methods raise as these and as the loader of *tree*; `Refused` where the answer is an errno.
    *own_ranges* says how small files are fetched, None: with the whole block.
    """

    def __init__(
        self,
        tree: Tree,
        load_blocks: blocktree.LoadBlocks,
        read: Callable[[BlockRef, int, int], bytes],
        identity: Identity,
        root_rank: int,
        own_ranges: OwnRanges | None = None,
    ) -> None:
        self.tree = tree
        self._load_blocks = load_blocks
        self._read = read
        self._identity = identity
        self._root_rank = root_rank
        self._own_ranges = own_ranges
        self._directories: dict[int, bytes] = {}
        self._listings: dict[int, tuple[int, int]] = {}
        self._files: dict[int, File] = {}
        self._found: tuple[int, Leaf, int] | None = None  # by the last lookup: what is asked next is of the same entry
        self._span: tuple[int, int] | None = None if root_rank else (1, tree.entries)
        if own_ranges is not None:
            own_ranges.on_change(self._files.clear)

    def identify(self, identity: Identity) -> None:
        """Have extended attributes say *identity* from now on."""
        self._identity = identity

    def rank_of(self, inode: int) -> int:
        """Return the rank of *inode*. Raises Refused (ESTALE) when it is not in this view."""
        if inode == ROOT_INODE:
            return self._root_rank
        span = self._span
        if span is None:
            span = self._span = self.tree.subtree(self.tree.select(self._root_rank)[0])
        rank = inode - 1
        if not span[0] <= rank < span[1]:
            raise Refused(errno.ESTALE)
        return rank

    def inode_of(self, rank: int) -> int:
        """Return the inode of the entry at *rank*."""
        return ROOT_INODE if rank == self._root_rank else rank + 1

    def getattr(self, inode: int) -> Attributes:
        """Return the attributes of *inode*."""
        leaf, index = self.tree.leaf_at(self.rank_of(inode))
        return Attributes(inode, leaf.modes[index], leaf.sizes[index], leaf.mtimes[index])

    def lookup(self, parent: int, name: bytes) -> Attributes | None:
        """Return the attributes of *name* in the directory *parent*, None when nothing has that name.

        `.` and `..` are names too. Raises Refused: ENAMETOOLONG.
        """
        if len(name) > NAME_MAX:
            raise Refused(errno.ENAMETOOLONG)
        if name == b".":
            return self.getattr(parent)
        if name == b"..":
            return self.getattr(self.parent_of(parent))
        path = self._directory(parent)
        found = self.tree.locate(path + b"/" + name if path else name)
        if found is None:
            return None
        self._found = found
        rank, leaf, index = found
        return Attributes(rank + 1, leaf.modes[index], leaf.sizes[index], leaf.mtimes[index])

    def readdir(self, inode: int, offset: int) -> Iterator[Child]:
        """Yield the entries of directory *inode* from *offset* on: 0 `.`, 1 `..`, 2 + k its k-th child."""
        first, number = self._listing(inode)
        if offset < 1:
            yield Child(1, b".", self.getattr(inode))
        if offset < 2:
            yield Child(2, b"..", self.getattr(self.parent_of(inode)))
        skipped = max(offset - 2, 0)
        stop = first + number
        for start, leaf in self.tree.leaves(first + skipped, stop):
            names, modes, sizes, mtimes = leaf.names, leaf.modes, leaf.sizes, leaf.mtimes
            for index in range(max(first + skipped - start, 0), min(leaf.count, stop - start)):
                rank = start + index
                attributes = Attributes(rank + 1, modes[index], sizes[index], mtimes[index])
                yield Child(rank - first + 3, names[index], attributes)

    def readlink(self, inode: int) -> bytes:
        """Return the target of the symbolic link *inode*. Raises Refused: EINVAL when it is none."""
        leaf, index = self.tree.leaf_at(self.rank_of(inode))
        if not stat.S_ISLNK(leaf.modes[index]):
            raise Refused(errno.EINVAL)
        return leaf.target_at(index)

    def xattrs(self, inode: int) -> dict[bytes, bytes]:
        """Return the extended attributes of *inode*: of which version it is, the digest of a file or the root, and the
        URL of an external file."""
        found = {b"user.dvfs.id": self._identity.id, b"user.dvfs.version": self._identity.version}
        if inode == ROOT_INODE:
            found[b"user.dvfs.digest"] = self._identity.digest
            return found
        leaf, index = self.tree.leaf_at(self.rank_of(inode))
        if stat.S_ISREG(leaf.modes[index]):
            found[b"user.dvfs.digest"] = leaf.digest_at(index).hex().encode()
            external = leaf.external_at(index)
            if external is not None:
                found[b"user.dvfs.link"] = external.url
        return found

    def getxattr(self, inode: int, name: bytes) -> bytes:
        """Return the extended attribute *name* of *inode*. Raises Refused: ENODATA when it has none.

        ENOTSUP for `security.` and `system.`: `ls -l` then asks once, and not for every file.
        """
        if name.startswith((b"security.", b"system.")):
            raise Refused(errno.ENOTSUP)
        value = self.xattrs(inode).get(name)
        if value is None:
            raise Refused(errno.ENODATA)
        return value

    def statfs(self) -> Space:
        """Return the size of the whole version, whatever part of it is shown."""
        return Space(-(-self.tree.size // UNIT_BYTES), self.tree.entries)

    def file(self, inode: int) -> File:
        """Return the regular file *inode*. Raises Refused: EISDIR, EINVAL when it is none."""
        known = self._files.get(inode)
        if known is not None:
            return known
        rank = self.rank_of(inode)
        leaf, index = self.tree.leaf_at(rank)
        mode = leaf.modes[index]
        if not stat.S_ISREG(mode):
            raise Refused(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL)
        return remember(self._files, inode, self._file_at(rank, leaf, index))

    def _file_at(self, rank: int, leaf: Leaf, index: int) -> File:
        size, content = leaf.sizes[index], leaf.content_at(index)
        if self._own_ranges is not None:
            content = self._own_ranges.content(content, leaf.digest_at(index), size)
        return File(rank, size, content)

    def read(self, inode: int, start: int, length: int) -> bytes:
        """Return *length* bytes of file *inode* from byte *start* on; less where it ends.

        Raises Corrupt when the catalog lists fewer bytes than the file has.
        """
        file = self.file(inode)
        stop = min(start + length, file.size)
        if start >= stop:
            return b""
        content = file.content
        if isinstance(content, tuple) and len(content) == 1:
            block, begin, _ = content[0]
            return self._read(block, begin + start, stop - start)
        extents = blocktree.extents(content, start, stop - start, self._load_blocks)
        parts = [self._read(block, begin, size) for block, begin, size in extents]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) != stop - start:
            raise Corrupt(f"inode {inode} has {file.size} bytes and lists blocks of another length")
        return data

    def digest_of(self, inode: int) -> bytes:
        """Return the digest of the regular file *inode*."""
        leaf, index = self.tree.leaf_at(self.rank_of(inode))
        return leaf.digest_at(index)

    def _directory(self, inode: int) -> bytes:
        """Return the path of the directory *inode*. Raises Refused: ENOTDIR when it is none."""
        known = self._directories.get(inode)
        if known is not None:
            return known
        leaf, index = self.tree.leaf_at(self.rank_of(inode))
        if not stat.S_ISDIR(leaf.modes[index]):
            raise Refused(errno.ENOTDIR)
        return remember(self._directories, inode, leaf.path_at(index))

    def _listing(self, inode: int) -> tuple[int, int]:
        """Return rank of the first child and number of children of the directory *inode*; may read further pages."""
        known = self._listings.get(inode)
        if known is not None:
            return known
        return remember(self._listings, inode, self.tree.children(self._directory(inode)))

    def name_of(self, inode: int) -> bytes:
        """Return the name that *inode* has in its directory; b"" for the root."""
        leaf, index = self.tree.leaf_at(self.rank_of(inode))
        return leaf.names[index]

    def entry(self, inode: int) -> Entry:
        """Return the entry of *inode*."""
        leaf, index = self.tree.leaf_at(self.rank_of(inode))
        return leaf.entry_at(index)

    def parent_of(self, inode: int) -> int:
        """Return the directory that holds *inode*; the root's is itself."""
        if inode == ROOT_INODE:
            return ROOT_INODE
        path = _path_at(self.tree.leaf_at(self.rank_of(inode)))
        found = self.tree.locate(parent_of(path))
        if found is None:
            raise Corrupt(f"the catalog has {path!r} and no directory that holds it")
        return self.inode_of(found[0])


def _path_at(found: tuple[Leaf, int]) -> bytes:
    leaf, index = found
    return leaf.path_at(index)


def root_rank_of(tree: Tree, subdir: bytes) -> int:
    """Return the rank of directory *subdir* of the version. Raises NotFound, InvalidInput when it is no directory."""
    path = b"/".join(part for part in subdir.split(b"/") if part not in (b"", b"."))
    found = tree.locate(path)
    shown = subdir.decode(errors="backslashreplace")
    if found is None:
        raise NotFound(f"the version has no directory {shown}")
    if not stat.S_ISDIR(found[1].modes[found[2]]):
        raise InvalidInput(f"{shown} is not a directory of the version")
    return found[0]


def blocking_view(source: Source, identity: Identity, root_rank: int = 0, own_ranges: OwnRanges | None = None) -> View:
    """Return the view of *source* that waits for the store where it must."""
    return View(source.tree, source.pages.load_blocks, source.fetcher.read, identity, root_rank, own_ranges)


class NowaitView(View):
    """A view for an event loop: it raises NotCached where it would have to wait, and reads into a buffer."""

    def __init__(self, source: Source, identity: Identity, root_rank: int, own_ranges: OwnRanges | None = None) -> None:
        load = source.pages.load_blocks_nowait
        super().__init__(source.tree_nowait, load, source.fetcher.read, identity, root_rank, own_ranges)
        self._readinto = source.fetcher.readinto_nowait
        self._opened = source.fetcher.opened
        self.note_hit = source.fetcher.note_hit

    def place(self, inode: int) -> tuple[File, OpenBlock, int] | None:
        """Return the file *inode*, the open block that all of it is in, and where in that one's file it begins.

        None where there is no such. Raises NotCached where the catalog would have to be waited for.
        """
        found = self._found
        if found is None or found[0] != inode - 1:
            rank = self.rank_of(inode)
            found = rank, *self.tree.leaf_at(rank)
        file = self._file_at(*found)
        if not isinstance(file.content, tuple) or len(file.content) != 1:
            return None
        ref, begin, _ = file.content[0]
        block = self._opened(ref)
        if block is None or begin + file.size > block.size:
            return None
        return file, block, block.start + begin

    def readinto(self, inode: int, start: int, buffer: memoryview) -> int:
        """Fill *buffer* with bytes of file *inode* from byte *start* on; return how many, less where it ends."""
        file = self.file(inode)
        length = min(len(buffer), file.size - start)
        if length <= 0:
            return 0
        done = 0
        for block, begin, size in blocktree.extents(file.content, start, length, self._load_blocks):
            if not self._readinto(block, begin, buffer[done : done + size]):
                raise NotCached(block)
            done += size
        if done != length:
            raise Corrupt(f"inode {inode} has {file.size} bytes and lists blocks of another length")
        return done


def nowait_view(
    source: Source, identity: Identity, root_rank: int = 0, own_ranges: OwnRanges | None = None
) -> NowaitView:
    """Return the view of *source* for an event loop."""
    return NowaitView(source, identity, root_rank, own_ranges)
