"""Lineage: the versions that one stems from, and those that stem from it. One LIST, and a GET for each new record."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvfs.store.errors import Corrupt
from dvfs.store.ids import VersionId
from dvfs.store.record import Record

if TYPE_CHECKING:
    from dvfs.store.store import Store


@dataclass(frozen=True, slots=True)
class Node:
    """A version in a lineage; *record* may be that of a deleted one, and is None where nothing is known any more."""

    id: VersionId
    record: Record | None

    @property
    def parents(self) -> tuple[VersionId, ...]:
        """The ids of its parents, each once."""
        return tuple(dict.fromkeys(self.record.parents)) if self.record is not None else ()


def ancestry(store: Store, spec: str) -> list[Node]:
    """Return what *spec* names and all that it stems from, each once: newest first, each before its parents.

    *spec* may be the id of a deleted version. Raises as `Records.find`; Corrupt when parents go in a circle.
    """
    first = store.records.find(spec, "finished")
    known = {record.id: record for record in store.records.every()} | {first.id: first}
    nodes: dict[VersionId, Node] = {}
    children: dict[VersionId, int] = {}
    todo = [first.id]
    while todo:
        version = todo.pop()
        if version in nodes:
            continue
        nodes[version] = node = Node(version, known.get(version))
        for parent in node.parents:
            children[parent] = children.get(parent, 0) + 1
            todo.append(parent)
    return _ordered(nodes, children, first)


def _ordered(nodes: dict[VersionId, Node], children: dict[VersionId, int], first: Record) -> list[Node]:
    ready = [(0, first.id)] if not children.get(first.id) else []
    ordered = []
    while ready:
        _, version = heapq.heappop(ready)
        node = nodes[version]
        ordered.append(node)
        for parent in node.parents:
            children[parent] -= 1
            if not children[parent]:
                record = nodes[parent].record
                heapq.heappush(ready, (-record.created_ns if record is not None else 0, parent))
    if len(ordered) < len(nodes):
        raise Corrupt(f"the parents of dataset {first.title} ({first.id}) go in a circle")
    return ordered


def children(store: Store, version: VersionId) -> list[Record]:
    """Return the versions that have *version* as a parent, open ones too, but no deleted ones; oldest first."""
    return [record for record in store.records.all() if version in record.parents]
