"""A change-set applied to another tree than the one that it was made of agrees with plain dicts."""

from __future__ import annotations

from hypothesis import given

from dvfs.store.catalog.entry import directory, link
from dvfs.store.catalog.tree import Tree
from dvfs.store.comparison import differences
from dvfs.store.replay import replay
from tests.catalog_model import Catalog, Model, items_of, models, small_file, with_parents
from tests.lineage_kit import replayed, without_times


def applied(onto: Model, before: Model, after: Model) -> tuple[Model, bool]:
    """Return what `replay` makes of *onto*, and whether its pages are those of a tree written at once."""
    catalog = Catalog()
    tree, old, new = catalog.build(onto), catalog.build(before), catalog.build(after)
    root = replay(tree, lambda: differences(old, new), old, new, catalog.writer())
    result = items_of(Tree(root, catalog.load))
    return result, root.content == catalog.build(result).digest


@given(models(20), models(20), models(20))
def test_replay_is_what_dicts_say(onto: Model, before: Model, after: Model) -> None:
    result, is_whole = applied(onto, before, after)

    assert without_times(result) == without_times(replayed(onto, before, after))
    assert is_whole
    assert with_parents(result) == set(result)
    assert all(result[path.rpartition(b"/")[0]].is_dir for path in result)


def tree(**files: bytes) -> Model:
    made: Model = {name.replace("_", "/").encode(): small_file(data) for name, data in files.items()}
    return {path: directory() for path in with_parents(made) if path not in made} | made


def paths(model: Model) -> set[bytes]:
    return {path for path, entry in model.items() if not entry.is_dir}


def test_a_removed_directory_stays_where_others_have_something_in_it() -> None:
    result, _ = applied(tree(d_x=b"1", d_e_y=b"2", d_e_foreign=b"3"), tree(d_x=b"1", d_e_y=b"2", k=b"4"), tree(k=b"4"))
    assert paths(result) == {b"d/e/foreign"}
    assert set(result) == {b"", b"d", b"d/e", b"d/e/foreign"}


def test_a_file_that_is_set_gets_its_directories_back() -> None:
    before = tree(d_e_x=b"1")
    result, _ = applied({b"": directory(), b"d": link(b"elsewhere")}, before, tree(d_e_x=b"2"))
    assert without_times(result) == without_times(tree(d_e_x=b"2"))


def test_a_file_that_is_removed_leaves_a_directory_that_another_put_in_its_place() -> None:
    result, _ = applied(tree(a_x=b"1", b=b"2"), tree(a=b"0", b=b"2"), tree(b=b"2"))
    assert paths(result) == {b"a/x", b"b"}
