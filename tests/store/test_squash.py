"""Squashing merges the change-sets of a lineage: as dicts do, without a byte moved, also past deleted versions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfs.store.catalog.entry import directory
from dvfs.store.change_order import change_order
from dvfs.store.deletion import delete
from dvfs.store.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, WrongState
from dvfs.store.ids import VersionId
from dvfs.store.record import Record, Status
from dvfs.store.squash import squash
from dvfs.store.store import Store
from tests.catalog_model import Model, models, small_file, union, with_parents
from tests.lineage_kit import make, memory_store, model_of, replayed, without_times
from tests.memory_backend import MemoryBackend
from tests.store_kit import Kit


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memory_store(tmp_path) as found:
        yield found


def files(**contents: str) -> Model:
    made: Model = {name.replace("_", "/").encode(): small_file(text.encode()) for name, text in contents.items()}
    return {path: directory() for path in with_parents(made) if path not in made} | made


def names(model: Model) -> dict[str, int]:
    return {path.decode(): entry.size for path, entry in model.items() if entry.is_file}


def edited(model: Model, wanted: Model, keep: set[bytes]) -> Model:
    """Return *wanted*, with those of *keep* as *model* has them."""
    kept = {path: entry for path, entry in model.items() if path in keep}
    return union([wanted, {p: model[p] for p in with_parents(kept) if p in model}]) if kept else wanted


# --- the property


Plan = list[tuple[list[int], Model, float]]


@st.composite
def lineages(draw: st.DrawFn) -> Plan:
    """Versions in order of making: the numbers of its parents, what is put over their union, what of that is kept."""
    plan: Plan = []
    for number in range(draw(st.integers(1, 6))):
        parents = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=3)) if number else []
        plan.append((parents, draw(models(10)), draw(st.sampled_from([0.0, 0.5, 1.0]))))
    return plan


@given(lineages(), st.data())
@settings(max_examples=60)
def test_squash_is_what_dicts_say(plan: Plan, data: st.DataObject) -> None:
    records: list[Record] = []
    held: list[Model] = []
    bases: list[Model] = []
    with tempfile.TemporaryDirectory() as folder, memory_store(Path(folder)) as store:
        for number, (parents, wanted, share) in enumerate(plan):
            base = union([held[parent] for parent in parents]) if parents else {}
            some = {path for index, path in enumerate(sorted(base)) if share and (index % 2 or share == 1)}
            model = edited(base, wanted, some)
            records.append(make(store, model, [records[parent] for parent in parents], name=f"v{number}"))
            held.append(model_of(store, records[-1]))
            bases.append(base)
        chosen = data.draw(st.lists(st.integers(0, len(plan) - 1), unique=True, min_size=1, max_size=3))
        for number in data.draw(st.sets(st.integers(0, len(plan) - 1), max_size=2)) - set(chosen):
            delete(store, records[number].id, force=True)
        made = squash(store, [records[number].id for number in chosen], name="squashed")
        result = model_of(store, made)

    order: list[int] = []

    def visit(number: int) -> None:
        for parent in plan[number][0]:
            visit(parent)
        if number not in order:
            order.append(number)

    for number in chosen:
        visit(number)
    expected: Model = {}
    for number in order:
        expected = replayed(expected, bases[number], held[number])
    assert without_times(result) == without_times(expected)
    assert (made.parents, made.base, made.status) == ((), None, Status.COMPLETED)


# --- what it is for


def test_what_was_removed_later_does_not_come_back(store: Store) -> None:
    one = make(store, files(a="1", b="2"))
    two = make(store, files(a="1"), [one])
    made = squash(store, [one.id, two.id], name="squashed")
    assert names(model_of(store, made)) == {"a": 1}


def test_what_is_inherited_from_a_version_that_nobody_named_is_there(store: Store) -> None:
    one = make(store, files(a="1"))
    two = make(store, files(a="1", b="22"), [one])
    three = make(store, files(a="1", b="22", c="333"), [two])
    made = squash(store, [two.id, three.id], name="squashed")
    assert names(model_of(store, made)) == {"a": 1, "b": 2, "c": 3}


def test_siblings_merge_in_the_order_in_which_they_are_named(store: Store) -> None:
    top = make(store, files(same="", gone="0", x="0"))
    left = make(store, files(same="1", gone="0", x="0", left="1"), [top])
    right = make(store, files(same="22", x="0", right="1"), [top])
    ahead = squash(store, [left.id, right.id], name="squashed")
    back = squash(store, [right.id, left.id], name="squashed")
    assert names(model_of(store, ahead)) == {"same": 2, "x": 1, "left": 1, "right": 1}
    assert names(model_of(store, back)) == {"same": 1, "x": 1, "left": 1, "right": 1}
    assert (ahead.version, back.version) == ("1.0.0", "1.0.1")


def test_a_deleted_ancestor_counts_and_an_erased_one_is_known_by_its_child(store: Store) -> None:
    one = make(store, files(a="1", b="2"))
    other = make(store, files(o="1"), name="other")
    two = make(store, files(a="1", o="1", c="3"), [one, other])
    three = make(store, files(a="1", o="1", c="3", d="4"), [two])
    delete(store, one.id, force=True)
    delete(store, two.id, force=True)
    expected = {"a": 1, "o": 1, "c": 1, "d": 1}
    assert names(model_of(store, squash(store, [three.id], name="squashed"))) == expected
    store.records.erase(store.records.load(one.id).record)
    found = change_order(store.records, [three])
    assert found.missing == frozenset({one.id})
    assert [record.id for record in found.order] == [other.id, two.id, three.id]
    assert names(model_of(store, squash(store, [three.id], name="squashed"))) == expected
    store.records.erase(store.records.load(two.id).record)
    assert names(model_of(store, squash(store, [three.id], name="squashed"))) == expected


def test_of_an_erased_parent_nothing_of_the_others_comes_back(store: Store) -> None:
    top = make(store, files(t="1", u="1"))
    gone = make(store, files(g="1"), name="gone")
    without = make(store, files(u="1"), [top], name="without")  # removes t
    child = make(store, files(t="1", u="1", g="1", new="1"), [top, gone], name="child")
    store.records.erase(gone)
    made = squash(store, [without.id, child.id], name="squashed")
    assert names(model_of(store, made)) == {"u": 1, "g": 1, "new": 1}


def test_a_line_of_versions_is_squashed_without_a_page_read_or_written(tmp_path: Path) -> None:
    backend = MemoryBackend()
    with memory_store(tmp_path / "writer", backend=backend) as store:
        record = make(store, files(**{f"f{number}": str(number) for number in range(300)}))
        for number in range(30):
            record = make(store, files(**{f"f{name}": f"{name} {number}" for name in range(300)}), [record])
    packs = {key for key in backend.objects if key.startswith("packs/")}
    with memory_store(tmp_path / "reader", backend=backend) as store:
        backend.gets.clear()
        made = squash(store, [record.id], name="squashed")
        assert {key.partition("/")[0] for key, _, _ in backend.gets} == {"datasets", "format.json"}
        assert {key for key in backend.objects if key.startswith("packs/")} == packs
        assert made.root == record.root
        assert made.counts.files == made.counts.added == 300
        assert made.counts.uploaded == 0


def test_a_squash_reads_no_file_and_its_files_can_be_read(tmp_path: Path) -> None:
    for name, texts in {"one": {"a": "1", "b": "2"}, "two": {"b": "3", "d/c": "4"}}.items():
        for path, text in texts.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    backend = MemoryBackend()
    kit = Kit(lambda: backend, tmp_path)
    one, two = (kit.publish(tmp_path / name, name=name) for name in ("one", "two"))
    data = set(backend.objects)
    with kit.machine() as store:
        made = squash(store, [one.id, two.id], name="both", tags=["t", "t"], description="d")
        added = sum(len(backend.objects[key]) for key in backend.objects.keys() - data if key.startswith("packs/"))
        assert made.counts.uploaded == added < 3000
        with closing(store.version(made)) as version:
            read = {path.decode(): version.read(entry) for path, entry in version.entries() if entry.is_file}
    assert read == {"a": b"1", "b": b"3", "d/c": b"4"}
    assert (made.project, made.name, made.tags, made.description) == ("tests", "both", ("t",), "d")


def test_what_does_not_work_leaves_no_version(store: Store) -> None:
    one = make(store, files(a="1"))
    opened = store.create(project="tests", name="open").record
    with pytest.raises(InvalidInput):
        squash(store, [], name="squashed")
    with pytest.raises(NotFound):
        squash(store, [one.id, "tests/nothing"], name="squashed")
    with pytest.raises(WrongState):
        squash(store, [opened.id], name="squashed")
    with pytest.raises(AlreadyExists):
        squash(store, [one.id], name="set", version="1.0.0")
    two = make(store, files(a="2"), [one])
    two = store.records.update(two.id, lambda newest: newest.with_fields(parents=(VersionId(two.id),)))
    with pytest.raises(Corrupt, match="its own ancestor"):
        squash(store, [two.id], name="squashed")
    assert {record.name for record in store.records.all()} == {"set", "open"}


def test_a_squash_that_stays_open_takes_more(store: Store) -> None:
    one = make(store, files(a="1"))
    made = squash(store, [one.id], name="squashed", close=False)
    assert made.status == Status.UPLOADING
    done = store.draft(made.id).finalize()
    assert done.root is not None
    assert one.root is not None
    assert done.root.page == one.root.page
