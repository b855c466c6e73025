"""Fetching files in an order that is known: what their blocks are, and wanting them ahead of their reader.

All of it may wait for pages of the catalog: it belongs to a thread.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from dvfs.fs.known_order import KnownOrder
from dvfs.fs.own_ranges import Alone, OwnRanges
from dvfs.fs.source import Source
from dvfs.store.block import BlockRef
from dvfs.store.catalog import blocktree

HEAD_BYTES = 2 << 20
"""Of a large file that may come next, so much is wanted; its reader's own window takes over."""

_AT_ONCE = 128
"""Files whose leaf pages are fetched together."""

_WHOLE_SHARE = 4
"""Where one file in so many is read, or more, the rest of its block will be read too."""


def alone_for(files: int, source: Source, budget_bytes: int) -> Alone:
    """Return how small files are fetched where so many of *source* will be read and the cache takes *budget_bytes*."""
    tree = source.tree
    return Alone.EACH if tree.size > budget_bytes or files * _WHOLE_SHARE < tree.files else Alone.NONE


class OrderedFiles:
    """The files of *source*, fetched as *own_ranges* says."""

    def __init__(self, source: Source, own_ranges: OwnRanges) -> None:
        self._source = source
        self._own_ranges = own_ranges

    def follow(self, order: KnownOrder) -> None:
        """Want what *order* says will be read, until it ends."""
        while batch := order.coming(_AT_ONCE):
            refs: dict[bytes, BlockRef] = {}
            known = dict(self.blocks(batch))
            for at, rank in enumerate(batch):
                if not order.has_room():
                    self._want(refs)
                    refs = {}
                    if not order.wait_for_room():
                        return
                new = [block for block in known.get(at, ()) if block.digest not in refs]
                if order.want(rank, sum(block.raw for block in new)):
                    refs.update((block.digest, block) for block in new)
            self._want(refs)

    def _want(self, refs: dict[bytes, BlockRef]) -> None:
        self._source.fetcher.want(refs.values(), sparing=self._own_ranges.is_sparing)

    def blocks(self, ranks: Iterable[int]) -> Iterator[tuple[int, list[BlockRef]]]:
        """Yield the blocks (those of the head, if it is large) of each regular file among *ranks*, and where in these
        it stands, in order."""
        source = enumerate(ranks)
        tree, load_blocks = self._source.tree, self._source.pages.load_blocks
        while batch := list(islice(source, _AT_ONCE)):
            self._want_leaves([rank for _, rank in batch])
            for at, rank in batch:
                leaf, index = tree.leaf_at(rank)
                size = leaf.sizes[index]
                if size and stat.S_ISREG(leaf.modes[index]):
                    content = self._own_ranges.content(leaf.content_at(index), leaf.digest_at(index), size)
                    extents = blocktree.iter_extents(content, 0, min(size, HEAD_BYTES), load_blocks)
                    yield at, [block for block, _, _ in extents]

    def _want_leaves(self, ranks: Sequence[int]) -> None:
        """Have the leaf pages of *ranks* fetched together that are not cached."""
        tree, fetcher = self._source.tree, self._source.fetcher
        refs = {ref.block.digest: ref.block for ref in map(tree.leaf_ref_at, ranks)}
        missing = [block for block in refs.values() if not fetcher.cached(block)]
        if len(missing) > 1:
            fetcher.want(missing)


def checked(ranks: array[int], entries: int) -> array[int]:
    """Return *ranks*. Raises IndexError when one of them is not among *entries* entries."""
    if len(ranks) and not 0 <= min(ranks) <= max(ranks) < entries:
        raise IndexError(max(ranks))
    return ranks


def distinct(files: Iterable[Iterable[BlockRef]]) -> Iterator[BlockRef]:
    """Yield the blocks of *files*, each once."""
    seen: set[bytes] = set()
    for block in chain.from_iterable(files):
        if block.digest not in seen:
            seen.add(block.digest)
            yield block


def first_bytes(blocks: Iterator[BlockRef], size: int) -> Iterator[BlockRef]:
    """Take blocks off *blocks* until they have *size* bytes."""
    while size > 0 and (block := next(blocks, None)) is not None:
        size -= block.raw
        yield block
