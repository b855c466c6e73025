"""The lineage of a version: each ancestor once, newest first, whatever the shape and what was deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.store import deletion
from dvfs.store.errors import Corrupt, NotFound
from dvfs.store.ids import VersionId, new_version_id
from dvfs.store.lineage import Node, ancestry, children
from dvfs.store.record import Record, Status
from dvfs.store.store import Store
from tests.memory_backend import MemoryBackend
from tests.store_kit import Kit


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    backend = MemoryBackend()
    with Kit(lambda: backend, tmp_path).machine("one") as store:
        yield store


def inserted(store: Store, *parents: VersionId, at: int = 0, **fields: object) -> VersionId:
    """Write a record alone."""
    record = Record(new_version_id(), "p", "n", "", parents=parents, created_ns=at).with_fields(**fields)
    return store.records.insert(record, None).id


def ids(nodes: list[Node]) -> list[VersionId]:
    return [node.id for node in nodes]


def test_several_parents_come_newest_first_and_each_once(store: Store) -> None:
    root = inserted(store, at=1)
    left = inserted(store, root, at=2)
    right = inserted(store, root, at=3)
    top = inserted(store, left, right, left, root, at=4)
    inserted(store, at=5)
    nodes = ancestry(store, top)
    assert ids(nodes) == [top, right, left, root]
    assert nodes[0].parents == (left, right, root)
    assert [record.id for record in children(store, root)] == [left, right, top]


def test_parents_come_after_children_whatever_the_clocks_say(store: Store) -> None:
    root = inserted(store, at=900)
    middle = inserted(store, root, at=5)
    top = inserted(store, middle, root, at=1)
    assert ids(ancestry(store, top)) == [top, middle, root]


def test_deleted_and_unknown_ancestors_are_in_it(store: Store) -> None:
    lost = new_version_id()
    root = store.create(project="p", name="n").finalize().id
    middle = inserted(store, root, lost, status=Status.DELETED, deleted_ns=7)
    top = inserted(store, middle)
    deletion.delete(store, root, force=True)
    found = {node.id: node.record for node in ancestry(store, top)}
    assert set(found) == {top, middle, root, lost}
    assert found[lost] is None
    assert {record.status for record in found.values() if record} == {Status.CREATED, Status.DELETED}
    assert ids(ancestry(store, middle))[0] == middle


def test_a_circle_is_damage_not_a_hang(store: Store) -> None:
    one, two = new_version_id(), new_version_id()
    for record, parent in ((one, two), (two, one)):
        store.records.insert(Record(record, "p", "n", "", parents=(parent,)), None)
    with pytest.raises(Corrupt, match="go in a circle"):
        ancestry(store, one)
    with pytest.raises(NotFound):
        ancestry(store, "p/nothing")


def test_ladders_cost_what_they_have_versions(store: Store) -> None:
    """Two parents at each of 300 levels: 2^300 ways, 601 versions."""
    left = right = inserted(store, at=0)
    for level in range(1, 301):
        left, right = inserted(store, left, right, at=level), inserted(store, left, right, at=level)
    assert len(ancestry(store, left)) == 600
