"""Any order of edits that ends in the same tree ends in the same pages."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.catalog.entry import Entry, directory
from tests.catalog_model import Catalog, Model, items_of, models, pages_below, small_file


@given(models())
def test_a_built_tree_holds_its_items(model: Model) -> None:
    tree = Catalog().build(model)

    assert items_of(tree) == model
    assert tree.entries == len(model)
    assert tree.files == sum(entry.is_file for entry in model.values())
    assert tree.size == sum(entry.size for entry in model.values() if entry.is_file)


@given(models(), models(), st.randoms(use_true_random=False), st.integers(1, 9))
def test_batches_of_edits_in_any_order_give_the_pages_of_a_bulk_build(
    start: Model, end: Model, order: random.Random, batches: int
) -> None:
    catalog = Catalog()
    tree = catalog.build(start)
    edits: dict[bytes, Entry | None] = {path: None for path in start if path not in end}
    edits |= {path: entry for path, entry in end.items() if start.get(path) != entry}
    paths = list(edits)
    order.shuffle(paths)
    for number in range(batches):
        tree = catalog.apply(tree, {path: edits[path] for path in paths[number::batches]})

    built = catalog.build(end)

    assert items_of(tree) == end
    assert tree.root == built.root
    assert pages_below(tree.root, catalog.load) == pages_below(built.root, catalog.load)


def test_edits_that_change_nothing_write_nothing() -> None:
    catalog = Catalog()
    model = {b"": directory()} | {b"f%03d" % number: small_file(b"%d" % number) for number in range(200)}
    tree = catalog.build(model)
    written = catalog.memory.writes

    again = catalog.apply(tree, {path: model[path] for path in list(model)[::7]})

    assert again.root == tree.root
    assert catalog.memory.writes == written


def test_one_edit_writes_one_page_a_level_and_few_beside() -> None:
    catalog = Catalog()
    model: Model = {b"": directory()} | {b"f%05d" % number: small_file(b"%d" % number) for number in range(5000)}
    tree = catalog.build(model)
    written = catalog.memory.writes

    for number in range(0, 5000, 97):
        tree = catalog.apply(tree, {b"f%05d" % number: small_file(b"other")})

    edits = len(range(0, 5000, 97))
    assert catalog.memory.writes - written <= edits * (tree.root.level + 1) * 2


def test_removing_all_leaves_the_empty_tree() -> None:
    catalog = Catalog()
    model: Model = {b"": directory()} | {b"f%03d" % number: small_file(b"") for number in range(100)}

    tree = catalog.apply(catalog.build(model), dict.fromkeys(model))

    assert tree.entries == 0
    assert tree.root.level == 0
    assert tree.root == catalog.build({}).root
