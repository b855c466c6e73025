"""A catalog in memory for tests: tiny pages, a page store that counts, and a model of trees as plain dicts."""

from __future__ import annotations

import stat
from collections.abc import Iterable

from hypothesis import strategies as st

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.boundary import Boundaries, Boundary
from dvfs.store.catalog.diff import edits_of
from dvfs.store.catalog.entry import Entry, directory, link
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.pages import Load, Page, PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.digest import block_digest
from dvfs.store.ids import PackId

SMALL = Boundary(least=2, soft=4, most=8, rare=4, often=2, weight=1 << 20)
TINY = Boundaries(leaf=SMALL, inner=SMALL, blocks=SMALL)
PACK = PackId(b"p" * 24)

Model = dict[bytes, Entry]


class Memory:
    """Pages in memory: both the sink that takes them and the source that gives them; counts what is read."""

    def __init__(self) -> None:
        self.pages: dict[bytes, bytes] = {}
        self.reads = 0
        self.writes = 0

    def write(self, stored: bytes) -> BlockRef:
        digest = block_digest(stored)
        self.writes += digest not in self.pages
        self.pages[digest] = stored
        return BlockRef(0, PACK, 0, len(stored), len(stored), Codec.RAW, digest)

    def block(self, ref: BlockRef) -> bytes:
        self.reads += 1
        return self.pages[ref.digest]


class Catalog:
    """A memory of pages with its writer and loader."""

    def __init__(self, boundaries: Boundaries = TINY) -> None:
        self.memory = Memory()
        self.source = PageSource(self.memory)
        self.boundaries = boundaries

    @property
    def load(self) -> Load:
        return self.source.load

    def cold(self) -> Load:
        """Return a loader that has nothing in memory, and count from zero."""
        self.memory.reads = 0
        return PageSource(self.memory).load

    def writer(self) -> Writer:
        return Writer(self.memory.write, self.boundaries)

    def build(self, model: Model) -> Tree:
        return Tree(self.writer().build(edits_of(dict(model))), self.load)  # type: ignore[arg-type]

    def apply(self, tree: Tree, edits: dict[bytes, Entry | None]) -> Tree:
        return Tree(self.writer().apply(tree.root, self.load, edits_of(edits)), self.load)


def pages_below(root: PageRef, load: Load) -> dict[bytes, int]:
    """Return byte digest → level of every page of the tree at *root*."""
    found = {root.block.digest: root.level}
    page: Page = load(root)
    if isinstance(page, Inner):
        for child in page.children():
            found |= pages_below(child, load)
    return found


def items_of(tree: Tree) -> Model:
    """Return the tree as a dict, read by scanning it."""
    return {path: entry for _, path, entry in tree.scan()}


def small_file(data: bytes, *, mtime_ns: int = 0, mode: int = 0o644) -> Entry:
    """Return the entry of a file of *data* in a block of its own."""
    digest = block_digest(data)
    block = BlockRef(0, PACK, 0, len(data), len(data), Codec.RAW, digest)
    extents = (Extent(block, 0, len(data)),) if data else ()
    return Entry(stat.S_IFREG | mode, len(data), mtime_ns, digest, extents)


def with_parents(paths: Iterable[bytes]) -> set[bytes]:
    """Return *paths* and all directories above them, the root too."""
    found = {b""}
    for path in paths:
        parts = path.split(b"/")
        found |= {b"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return found


def union(models: list[Model]) -> Model:
    """What ClearML's rule says: a later tree overrides; a file over a directory, or the reverse, replaces it whole."""
    result: Model = {}
    for model in models:
        for path, entry in model.items():
            if path in result and result[path].is_dir and not entry.is_dir:
                result = {old: kept for old, kept in result.items() if not old.startswith(path + b"/")}
            result[path] = entry
    return result


NAMES = st.one_of(
    st.sampled_from([b"x", b"x-y", b"x.d", b"x!", b"a", b"b", b"\xff", b"\x01", b" ", b"\n"]),
    st.binary(min_size=1, max_size=3).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b"..")),
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
LEAVES = st.one_of(
    st.builds(small_file, st.binary(max_size=3), mtime_ns=st.integers(-3, 3), mode=st.sampled_from([0o644, 0o755])),
    st.builds(link, st.binary(min_size=1, max_size=3).filter(lambda target: b"\0" not in target)),
    st.builds(directory, st.sampled_from([0o755, 0o700])),
)


@st.composite
def models(draw: st.DrawFn, max_size: int = 40) -> Model:
    """Trees as dicts: path → entry, every parent a directory, the root there."""
    leaves = draw(st.dictionaries(PATHS, LEAVES, max_size=max_size))
    parents = with_parents(path.rpartition(b"/")[0] for path in leaves)
    model = {path: directory() for path in parents}
    model.update({path: entry for path, entry in leaves.items() if path not in parents})
    return model
