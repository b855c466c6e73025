"""Listings find what a look at every path finds, and read the pages of the folders that are asked for."""

from __future__ import annotations

from hypothesis import given

from dvfs.store.catalog.entry import directory
from dvfs.store.listing import listed
from tests.catalog_model import Catalog, Model, models, small_file


@given(models())
def test_listing_with_patterns_is_what_a_look_at_all_gives(model: Model) -> None:
    catalog = Catalog()
    tree = catalog.build(model)
    paths = [path for path in model if path]
    for patterns in ([b"x"], [b"a/b", b"x*"], [b"b/*", b"a", b"a/x"], [b"x", b"x"], *[[path] for path in paths[:3]]):
        found = [path for path, _ in listed(tree, patterns)]
        assert len(found) == len(set(found))
        by_hand = {
            path
            for path in model
            for pattern in patterns
            if path == pattern.strip(b"/")
            or path.startswith(pattern.strip(b"/") + b"/")
            or (pattern[-1:] == b"*" and path.startswith(pattern[:-1]))
        }
        if not any(set(path) & set(b"*?[") for path in patterns if path in paths):
            assert set(found) == by_hand


def test_listing_a_folder_reads_its_pages_alone() -> None:
    catalog = Catalog()
    model: Model = {b"": directory()}
    for folder in range(50):
        model[b"d%02d" % folder] = directory()
        model |= {b"d%02d/f%02d" % (folder, number): small_file(b"%d" % number) for number in range(50)}
    tree = catalog.build(model)
    tree.load = catalog.cold()
    assert len(list(listed(tree, [b"d07"]))) == 51
    assert catalog.memory.reads < 60
    tree.load = catalog.cold()
    assert len(list(listed(tree, [b"d07/f1*", b"d07/f11"]))) == 10
    assert catalog.memory.reads < 60
