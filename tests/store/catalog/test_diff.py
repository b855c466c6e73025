"""Diff and merge agree with plain dicts, and read in proportion to what differs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.catalog.diff import diff, merge
from dvfs.store.catalog.entry import Entry, directory, link
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.tree import Tree
from tests.catalog_model import Catalog, Model, items_of, models, small_file, union


def same(one: Entry | None, two: Entry | None) -> bool:
    return one is not None and two is not None and one.same_data(two)


@given(models(), models())
def test_diff_is_what_two_dicts_say(before: Model, after: Model) -> None:
    catalog = Catalog()

    found = list(diff(catalog.build(before), catalog.build(after)))

    differing = [path for path in before.keys() | after.keys() if not same(before.get(path), after.get(path))]
    paths = sorted(differing, key=key_of)
    expected = [(path, before.get(path), after.get(path)) for path in paths]
    assert [(change.path, change.before, change.after) for change in found] == expected


@given(st.lists(models(max_size=15), min_size=1, max_size=4))
def test_merge_is_the_union_where_the_later_wins(parents: list[Model]) -> None:
    catalog = Catalog()
    trees = [catalog.build(model) for model in parents]

    root = merge(trees, catalog.writer())

    expected = union(parents)
    merged = items_of(Tree(root, catalog.load))
    assert {path: entry._replace(mtime_ns=0) for path, entry in merged.items()} == {
        path: entry._replace(mtime_ns=0) for path, entry in expected.items()
    }
    assert root.content == catalog.build(expected).digest


def test_a_link_over_a_directory_replaces_it_whole_and_the_reverse() -> None:
    catalog = Catalog()
    one = catalog.build({b"": directory(), b"d": directory(), b"d/x": small_file(b"1"), b"f": small_file(b"2")})
    two = catalog.build({b"": directory(), b"d": link(b"f"), b"f": directory(), b"f/y": small_file(b"3")})

    merged = items_of(Tree(merge([one, two], catalog.writer()), catalog.load))

    assert sorted(merged) == [b"", b"d", b"f", b"f/y"]
    assert merged[b"d"].is_link


def big(changed: dict[bytes, Entry]) -> Model:
    files = {b"f%05d" % number: small_file(b"%d" % number) for number in range(5000)}
    return {b"": directory()} | files | changed


@pytest.mark.parametrize("number", [1, 5])
def test_diff_reads_pages_in_proportion_to_what_differs(number: int) -> None:
    catalog = Catalog()
    changed = {b"f%05d" % (at * 977): small_file(b"new") for at in range(number)}
    one, two = catalog.build(big({})), catalog.build(big(changed))
    load = catalog.cold()

    found = list(diff(Tree(one.root, load), Tree(two.root, load)))

    assert [change.path for change in found] == sorted(changed)
    # A changed entry moves a boundary by chance only; a level costs its page on each side and now and then a neighbour.
    assert catalog.memory.reads <= number * (one.root.level + 1) * 4


def test_a_diamond_of_forty_levels_merges_in_proportion_to_what_differs() -> None:
    catalog = Catalog()
    left = catalog.build(big({}))
    right = catalog.apply(left, {b"r": small_file(b"r")})
    for level in range(40):
        writer = catalog.writer()
        merged = Tree(merge([left, right], writer), catalog.load)
        load = catalog.cold()
        again = merge([Tree(left.root, load), Tree(right.root, load)], catalog.writer())
        assert again == merged.root
        assert catalog.memory.reads <= (merged.root.level + 1) * 12
        left = catalog.apply(merged, {b"l%02d" % level: small_file(b"l")})
        right = catalog.apply(merged, {b"r%02d" % level: small_file(b"r")})
    # The root, 5,000 files, `r`; then `l` and `r` of every level but the last, whose `r` the left side does not have.
    assert left.entries == 1 + 5000 + 1 + 2 * 39 + 1
