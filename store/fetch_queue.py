"""The blocks that are wanted but not waited for, and how neighbours among them make one request.

Not thread-safe: the fetcher's lock guards it. Fetches nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from dvfs.store.block import BlockRef

_LEAST_SHARE = 4
"""A request for compressed blocks spans no less than one part in so many of what one may."""

_Place = tuple[int, bytes]


class WantedBlocks:
    """At most *capacity* wanted blocks: urgent ones first, then in the order they were wanted.

    Two blocks of one pack are neighbours when at most *gap_bytes* lie between them; where one is sparing, not more than
    that has itself.
    """

    def __init__(self, capacity: int, gap_bytes: int) -> None:
        self._capacity = capacity
        self._gap_bytes = gap_bytes
        self._urgent: dict[bytes, BlockRef] = {}
        self._others: dict[bytes, BlockRef] = {}
        self._sparing: set[bytes] = set()
        self._packs: dict[tuple[int, bytes], list[_Place]] = {}

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._urgent or digest in self._others

    def add(self, ref: BlockRef, *, urgent: bool, sparing: bool = False) -> bool:
        """Append *ref*; return False when there is no room. A block that becomes urgent moves to the urgent ones."""
        waiting = self._others.get(ref.digest)
        if waiting is not None or ref.digest in self._urgent:
            if urgent and waiting is not None:
                self._urgent[ref.digest] = self._others.pop(ref.digest)
            return True
        if len(self) >= self._capacity:
            return False
        (self._urgent if urgent else self._others)[ref.digest] = ref
        if sparing:
            self._sparing.add(ref.digest)
        insort(self._packs.setdefault((ref.storage, ref.pack), []), (ref.offset, ref.digest))
        return True

    def take(self, digest: bytes) -> BlockRef | None:
        """Remove and return the block *digest*; None when it is not wanted."""
        ref = self._urgent.pop(digest, None) or self._others.pop(digest, None)
        if ref is None:
            return None
        self._sparing.discard(digest)
        pack = ref.storage, ref.pack
        places = self._packs[pack]
        del places[bisect_left(places, (ref.offset, digest))]
        if not places:
            del self._packs[pack]
        return ref

    def take_run(self, max_bytes: int, *, among: int = 1) -> list[BlockRef]:
        """Remove and return the first block and its neighbours, in order of offset, spanning at most *max_bytes*.

        A quarter more where no neighbour is left behind then; a single block whatever its length. Empty when nothing
        is wanted. Compressed blocks take who fetches them long: of these no more than one part in *among* of about
        what is wanted, so that all end together, but not less than a quarter of *max_bytes*.
        """
        first = next(iter(self._urgent or self._others), None)
        if first is None:
            return []
        ref = self.take(first)
        assert ref is not None
        if ref.raw > ref.stored:
            share = (len(self) + 1) * ref.stored // among
            max_bytes = max(max_bytes // _LEAST_SHARE, min(max_bytes, share))
        run, is_all = self._neighbours(ref, max_bytes + max_bytes // 4)
        if not is_all:
            run, _ = self._neighbours(ref, max_bytes)
        return sorted([ref, *self._take_all(run)], key=lambda member: member.offset)

    def take_neighbours(self, ref: BlockRef, max_bytes: int) -> list[BlockRef]:
        """Remove and return wanted neighbours of *ref*, itself not wanted, so that all span at most *max_bytes*."""
        found, _ = self._neighbours(ref, max_bytes)
        return self._take_all(found)

    def _take_all(self, refs: list[BlockRef]) -> list[BlockRef]:
        """Remove and return *refs*, all of them wanted."""
        for ref in refs:
            self.take(ref.digest)
        return refs

    def _neighbours(self, ref: BlockRef, max_bytes: int) -> tuple[list[BlockRef], bool]:
        """Return neighbours of *ref* so that all span at most *max_bytes*, and whether those are all it has.

        It looks to the right first: a reader mostly goes that way.
        """
        found: list[BlockRef] = []
        is_all = True
        places = self._packs.get((ref.storage, ref.pack))
        if places is None:
            return found, is_all
        low, high = ref.offset, ref.offset + ref.stored
        right = bisect_left(places, (ref.offset, ref.digest))
        left = right - 1
        for step, at in ((1, right), (-1, left)):
            while 0 <= at < len(places):
                member = self._find(places[at][1])
                end = member.offset + member.stored
                apart = member.offset - high if step > 0 else low - end
                if apart > self._gap_at(member):
                    break
                if max(high, end) - min(low, member.offset) > max_bytes:
                    is_all = False
                    break
                low, high = min(low, member.offset), max(high, end)
                found.append(member)
                at += step
        return found, is_all

    def clear(self) -> None:
        """Forget all."""
        self._urgent.clear()
        self._others.clear()
        self._sparing.clear()
        self._packs.clear()

    def _gap_at(self, ref: BlockRef) -> int:
        return min(self._gap_bytes, ref.stored) if ref.digest in self._sparing else self._gap_bytes

    def _find(self, digest: bytes) -> BlockRef:
        return self._urgent.get(digest) or self._others[digest]


def in_one_request(refs: Iterable[BlockRef], gap_bytes: int) -> list[list[BlockRef]]:
    """Split *refs*, of one pack and in order of offset, where more than *gap_bytes* lie between two."""
    runs: list[list[BlockRef]] = []
    end = 0
    for ref in refs:
        if runs and ref.offset - end <= gap_bytes:
            runs[-1].append(ref)
        else:
            runs.append([ref])
        end = max(end if len(runs[-1]) > 1 else 0, ref.offset + ref.stored)
    return runs
