"""The order in which the change-sets of a lineage are merged: parents first, depth-first.

Deleted versions are part of it as long as their records are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dvfs.store.errors import Corrupt, NotFound
from dvfs.store.ids import VersionId
from dvfs.store.record import Record
from dvfs.store.records import Records

_ONE_BY_ONE = 8
"""So many records are asked for singly before all are listed: of a long lineage most are in the local cache."""


@dataclass(frozen=True, slots=True)
class ChangeOrder:
    """*order*: the versions, each after all its parents. *missing*: parents that are gone without a record."""

    order: tuple[Record, ...]
    missing: frozenset[VersionId]


def change_order(records: Records, named: Iterable[Record]) -> ChangeOrder:
    """Return *named* and all versions above them: depth-first over parents in their order, each version once.

    Raises Corrupt when a version is its own ancestor, and as `Records.load`.
    """
    loader = _Loader(records)
    order: dict[VersionId, Record] = {}
    missing: set[VersionId] = set()
    for start in named:
        if start.id in order:
            continue
        above: list[tuple[Record, Iterator[VersionId]]] = [(start, iter(start.parents))]
        path = {start.id}
        while above:
            record, parents = above[-1]
            parent = next(parents, None)
            if parent is None:
                above.pop()
                path.discard(record.id)
                order[record.id] = record
            elif parent in path:
                raise Corrupt(f"dataset {record.title} ({record.id}) is its own ancestor")
            elif parent not in order and parent not in missing:
                found = loader.get(parent)
                if found is None or found.root is None:
                    missing.add(parent)
                else:
                    above.append((found, iter(found.parents)))
                    path.add(parent)
    return ChangeOrder(tuple(order.values()), frozenset(missing))


class _Loader:
    """Records by id; None for what is not there."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._loaded = 0
        self._known: dict[VersionId, Record] = {}

    def get(self, version: VersionId) -> Record | None:
        if version not in self._known:
            self._loaded += 1
            if self._loaded == _ONE_BY_ONE:
                self._known = {record.id: record for record in self._records.every()}
        found = self._known.get(version)
        if found is not None:
            return found
        try:
            return self._records.load(version).record
        except NotFound:
            return None
