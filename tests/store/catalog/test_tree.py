"""Look-ups by path and by rank agree with the sorted list of entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.catalog.entry import directory
from dvfs.store.catalog.key import key_of, path_of
from dvfs.store.catalog.tree import Tree
from tests.catalog_model import PATHS, Catalog, Model, models, small_file


@given(models(), PATHS)
def test_find_and_select_are_inverse(model: Model, other: bytes) -> None:
    tree = Catalog().build(model)

    for rank, path in enumerate(sorted(model, key=key_of)):
        assert tree.find(path) == (rank, model[path])
        assert tree.select(rank) == (path, model[path])
    if other not in model:
        assert tree.find(other) is None
    with pytest.raises(IndexError):
        tree.select(len(model))


@given(models())
def test_children_and_subtrees_are_runs_of_ranks(model: Model) -> None:
    tree = Catalog().build(model)
    order = sorted(model, key=key_of)

    for path, entry in model.items():
        if entry.is_dir:
            below = [other for other in order if other != path and (not path or other.startswith(path + b"/"))]
            own = [other for other in below if b"/" not in other[len(path) + (1 if path else 0) :]]
            first, number = tree.children(path)
            assert order[first : first + number] == own
            start, stop = tree.subtree(path)
            assert order[start:stop] == below


@given(models(), st.data())
def test_scan_gives_any_stretch(model: Model, data: st.DataObject) -> None:
    tree = Catalog().build(model)
    start = data.draw(st.integers(0, len(model)))
    stop = data.draw(st.integers(start, len(model) + 2))
    order = sorted(model, key=key_of)

    assert [(rank, path) for rank, path, _ in tree.scan(start, stop)] == list(enumerate(order))[start:stop]


@given(PATHS)
def test_keys_are_paths_again(path: bytes) -> None:
    assert path_of(key_of(path)) == path
    assert key_of(path.rpartition(b"/")[0]) < key_of(path)


def test_a_look_up_reads_one_page_a_level() -> None:
    catalog = Catalog()
    model: Model = {b"": directory()} | {b"f%04d" % number: small_file(b"%d" % number) for number in range(2000)}
    root = catalog.build(model).root
    for path in (b"f0000", b"f1234", b"f1999", b"nothing"):
        load = catalog.cold()
        Tree(root, load).find(path)
        assert catalog.memory.reads == root.level + 1
