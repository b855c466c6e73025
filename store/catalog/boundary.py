"""Where pages end: by content, so that the same entries give the same pages whatever the order of edits.

A page ends after an entry whose key passes a test of its hash, salted by the level; never before *least* entries,
always at *most*. The test is rare up to *soft* entries and frequent from there on, which narrows the spread of page
sizes. A page also ends at *weight* bytes of keys, targets and block lists. Everything counted is a function of the
data alone (docs/format.md, "Boundaries").
"""

from __future__ import annotations

from dataclasses import dataclass

from xxhash import xxh3_64_intdigest


@dataclass(frozen=True, slots=True)
class Boundary:
    """The parameters of one kind of page.

    *least*, *soft*, *most*: entries. *rare*, *often*: a key passes with probability 1/rare below *soft* entries and
    1/often from there on; powers of two. *weight*: bytes.
    """

    least: int
    soft: int
    most: int
    rare: int
    often: int
    weight: int

    def ends(self, level: int, count: int, weight: int, key: bytes) -> bool:
        """Tell whether a page of *level* ends after *key*, its *count*-th entry, at *weight* bytes in all."""
        if count >= self.most or weight >= self.weight:
            return True
        if count < self.least:
            return False
        mask = (self.rare if count < self.soft else self.often) - 1
        return xxh3_64_intdigest(key, level) & mask == 0


LEAF = Boundary(least=128, soft=512, most=1024, rare=2048, often=128, weight=256 << 10)
INNER = Boundary(least=64, soft=192, most=512, rare=1024, often=64, weight=256 << 10)
BLOCKS = Boundary(least=64, soft=192, most=512, rare=1024, often=64, weight=256 << 10)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """The boundaries of all kinds of pages; part of a store's format."""

    leaf: Boundary = LEAF
    inner: Boundary = INNER
    blocks: Boundary = BLOCKS


STANDARD = Boundaries()
