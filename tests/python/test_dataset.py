"""Versions made, named, found, labelled and deleted from Python."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dvfs
from dvfs import Dataset, DvfsError
from dvfs.store.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    Unsupported,
    WrongState,
)
from tests.python.conftest import made, write


def test_importing_dvfs_loads_nothing_heavy() -> None:
    code = (
        "import dvfs, sys; print([name for name in ('click', 'sqlite3', 'boto3', 'dvfs.store') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "from dvfs import Dataset; import sys; print([name for name in ('trio', 'pyfuse3') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_names() -> None:
    assert {name: getattr(dvfs, name) for name in dvfs.__all__} == {
        "Dataset": Dataset,
        "DvfsError": DvfsError,
        "__version__": dvfs.__version__,
    }
    with pytest.raises(AttributeError, match="nothing"):
        _ = dvfs.nothing  # type: ignore[attr-defined]


def test_a_version_from_folder_to_reader(home: Path) -> None:
    write(home / "source", {"a": "1", "sub/b": "22"})
    first = Dataset.create("d", "p", ["one", "two"], description="the first")
    assert (first.project, first.name, first.version, first.tags) == ("p", "d", "1.0.0", ["one", "two"])
    assert first.description == "the first"
    assert (first.is_final(), first.is_dirty()) == (False, False)
    assert first.add_files("source") == 2
    assert (first.is_dirty(), first.list_files()) == (True, ["a", "sub/b"])
    with pytest.raises(WrongState, match="2 files that are not uploaded"):
        first.finalize()
    assert first.finalize(raise_on_error=False) is False
    assert first.upload() is None
    assert first.upload() is True
    assert first.is_dirty() is False
    assert first.finalize() is True
    assert first.is_final() is True
    with pytest.raises(WrongState, match="can no longer be changed"):
        first.finalize()
    assert first.finalize(raise_on_error=False) is False
    for change in (first.upload, lambda: first.add_files("source"), lambda: first.remove_files("a")):
        with pytest.raises(WrongState, match="can no longer be changed"):
            change()
    assert repr(Dataset.get(first.id)) == f"<Dataset p/d@1.0.0 id={first.id}>"


def test_parents_give_files_and_names(home: Path) -> None:
    one, two = made(home, {"a": "1", "b": "1"}, "one"), made(home, {"b": "2", "c": "2"}, "two")
    child = Dataset.create(parent_datasets=[one.id, two])
    assert (child.project, child.name, child.version) == ("p", "two", "1.0.1")
    assert child.list_files() == ["a", "b", "c"]
    assert {entry.relative_path: entry.parent_dataset_id for entry in child.file_entries} == {
        "a": one.id,
        "b": two.id,
        "c": two.id,
    }
    assert child.get_dependency_graph() == {child.id: [one.id, two.id], two.id: [], one.id: []}
    with pytest.raises(WrongState, match="is not finished"):
        Dataset.create("three", "p", parent_datasets=[child])
    elsewhere = Dataset.create("d", "p", store=home / "other")
    assert elsewhere.get_default_storage() == f"file://{home}/other"
    with pytest.raises(InvalidInput, match="is in another store"):
        Dataset.create("three", parent_datasets=[elsewhere, two])


def test_a_dataset_that_nobody_names_is_that_of_the_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/prepare.py", "--fast"])
    dataset = Dataset.create()
    assert (dataset.project, dataset.name) == ("local", "prepare")
    record = dataset._load()
    assert record.origin.command == "/somewhere/prepare.py --fast"
    named = Dataset.create("n", use_current_task=True)
    assert (named.project, named.name) == ("local", "n")
    with pytest.raises(InvalidInput, match="needs a name and a project"):
        Dataset.create("n")
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert Dataset.create(use_current_task=True, dataset_project="q").name == "python"


def test_version_numbers(home: Path) -> None:
    assert Dataset.create("d", "p", dataset_version="2.0").version == "2.0"
    assert Dataset.create("d", "p").version == "2.1"
    assert Dataset.create("d", "p", dataset_version="2022-09-07").version == "2022-09-07"
    with pytest.raises(AlreadyExists, match=r"version 2\.0 of p/d exists"):
        Dataset.create("d", "p", dataset_version="2.0")


def test_get_by_id_and_names(home: Path) -> None:
    one = made(home, {"a": "1"}, dataset_version="1.10")
    two = made(home, {"a": "2"}, dataset_version="1.9")
    other = made(home, {"b": "3"}, "e")
    opened = Dataset.create("d", "p", dataset_version="3.0")

    def got(**words: Any) -> str:
        return Dataset.get(**words).id

    assert [got(dataset_id=one.id), got(dataset_id=one.id[:12]), got(dataset_id="p/d@1.9")] == [one.id, one.id, two.id]
    assert got(dataset_project="p", dataset_name="d") == one.id, "the highest finished one"
    assert got(dataset_name="d") == one.id
    assert got(dataset_project="p", dataset_name="d", dataset_version="1.9") == two.id
    assert got(dataset_project="p", dataset_name="d", dataset_version="3.0") == opened.id
    assert got(dataset_project="p") == other.id, "the newest finished one of the project"
    opened.finalize()
    assert got(dataset_project="p") == opened.id
    assert got(dataset_project="p", dataset_name="d") == opened.id
    only_open = Dataset.create("f", "p")
    assert got(dataset_project="p", dataset_name="f") == only_open.id
    not_there: list[dict[str, Any]] = [
        {"dataset_project": "p", "dataset_name": "f", "only_completed": True},
        {"dataset_project": "p", "dataset_name": "d", "only_published": True},
        {"dataset_project": "p", "dataset_name": "nothing"},
        {"dataset_project": "p", "dataset_name": "d", "dataset_version": "9"},
        {"dataset_id": "0" * 32},
    ]
    for words in not_there:
        with pytest.raises(NotFound):
            got(**words)
    for words in ({}, {"dataset_version": "1.9"}, {"dataset_id": one.id, "dataset_name": "d"}):
        with pytest.raises(InvalidInput):
            got(**words)
    with pytest.raises(WrongState, match="is not finished"):
        Dataset.get(only_open.id, only_completed=True)
    with pytest.raises(WrongState, match="is not published"):
        Dataset.get(one.id, only_published=True)
    two.publish()
    assert got(dataset_name="d", only_published=True) == two.id


def test_get_by_tags_gives_the_newest_completed(home: Path) -> None:
    one = made(home, {"a": "1"}, dataset_tags=["good", "raw"])
    two = made(home, {"a": "2"}, "e", dataset_tags="good")
    opened = Dataset.create("d", "p", "good")
    assert Dataset.get(dataset_tags="good").id == two.id
    assert Dataset.get(dataset_tags=["good", "raw"]).id == one.id
    assert Dataset.get(dataset_tags=("good",), dataset_name="d").id == one.id
    opened.finalize()
    assert Dataset.get(dataset_tags="good").id == opened.id
    with pytest.raises(NotFound, match="no dataset with tag 'bad'"):
        Dataset.get(dataset_tags="bad")


def test_names_with_odd_letters_are_found(home: Path) -> None:
    for name in ("with/slash", "with@at"):
        dataset = made(home, {"a": name}, name)
        assert Dataset.get(dataset_project="p", dataset_name=name).id == dataset.id
        Dataset.delete(dataset_project="p", dataset_name=name)
        with pytest.raises(NotFound):
            Dataset.get(dataset_project="p", dataset_name=name)


def test_get_makes_what_is_not_there_and_copies_to_write_to(home: Path) -> None:
    new = Dataset.get(dataset_project="p", dataset_name="d", auto_create=True)
    assert (new.is_final(), new.version) == (False, "1.0.0")
    new.add_files(write(home / "source", {"a": "1"}))
    new.add_tags("kept")
    new.finalize(auto_upload=True)
    assert Dataset.get(dataset_project="p", dataset_name="d", auto_create=True).id == new.id
    child = Dataset.get(new.id, writable_copy=True, alias="x", overridable=True, silence_alias_warnings=True)
    assert (child.version, child.tags, child.list_files()) == ("1.0.1", ["kept"], ["a"])
    assert child.get_dependency_graph()[child.id] == [new.id]


def test_tags(home: Path) -> None:
    one, two = made(home, {"a": "1"}, dataset_tags="latest"), made(home, {"a": "2"})
    two.tags = ["latest", "x"]
    assert (one.tags, two.tags) == ([], ["latest", "x"])
    two.tags = ["y"]
    assert two.tags == ["y"]
    two.add_tags("z")
    two.add_tags(["latest", "y"])
    assert two.tags == ["y", "z", "latest"]
    two.tags = []
    assert two.tags == []


def test_description_metadata_and_publishing(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    dataset.set_description("what it is")
    dataset.set_metadata({"classes": ["cat", "dog"], "counts": (1, 2)})
    dataset.set_metadata(None, "nothing", ui_visible=False)
    assert dataset.description == "what it is"
    assert dataset.get_metadata() == {"classes": ["cat", "dog"], "counts": [1, 2]}
    assert dataset.get_metadata("nothing") is None
    assert dataset.get_metadata("other") is None
    for value in ({1: 2}, object(), {"deep": b"bytes"}, float("nan")):
        with pytest.raises(InvalidInput):
            dataset.set_metadata(value)
    with pytest.raises(WrongState, match="is not finished"):
        dataset.publish()
    dataset.finalize()
    assert dataset.publish() is True
    assert dataset.publish(raise_on_error=False) is False
    assert Dataset.list_datasets()[0]["status"] == "published"


def test_arrays_and_tables_are_metadata(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NumPy and pandas make them; neither is needed for the other tests."""

    class ndarray:
        __module__ = "numpy"
        dtype = SimpleNamespace(hasobject=False, kind="f", str="<f8")
        shape = (2, 2)

        def tolist(self) -> list[list[float]]:
            return [[1.0, 2.0], [float("nan"), 4.0]]

    class DataFrame:
        __module__ = "pandas.core.frame"

        def __init__(self, **fields: object) -> None:
            self.fields = fields

        def to_dict(self, orient: str) -> dict[str, object]:
            assert orient == "split"
            return {"index": [0, 1], "columns": ["a", "b"], "data": [[1, "x"], [float("nan"), "y"]]}

    dataset = Dataset.create("d", "p")
    dataset.set_metadata(ndarray(), "array")
    dataset.set_metadata(DataFrame(), "table")
    kept = dataset._load().metadata
    assert kept["array"]["data"] == [[1.0, 2.0], [None, 4.0]]
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=DataFrame))
    table = dataset.get_metadata("table")
    assert isinstance(table, DataFrame)
    assert table.fields == {"index": [0, 1], "columns": ["a", "b"], "data": [[1, "x"], [None, "y"]]}
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(Unsupported, match="numpy, which is not installed"):
        dataset.get_metadata("array")


def test_list_datasets(home: Path) -> None:
    one = made(home, {"a": "1"}, "Cats", dataset_tags=["x", "y"])
    two = Dataset.create("dogs", "p/deep", "x")

    def ids(**words: Any) -> list[str]:
        return [listed["id"] for listed in Dataset.list_datasets(**words)]

    (found,) = Dataset.list_datasets()
    listed: dict[str, object] = {**found}
    created = listed.pop("created")
    assert isinstance(created, datetime)
    assert abs((datetime.now(UTC) - created).total_seconds()) < 600
    assert listed == {
        "name": "Cats",
        "project": "p",
        "id": one.id,
        "tags": ["x", "y"],
        "version": "1.0.0",
        "status": "completed",
    }
    assert ids(only_completed=False) == [one.id, two.id]
    assert ids(only_completed=False, dataset_project="p") == [one.id, two.id]
    assert ids(only_completed=False, dataset_project="p", recursive_project_search=False) == [one.id]
    assert ids(only_completed=False, tags="x") == [one.id, two.id]
    assert ids(only_completed=False, tags=["x", "y"]) == [one.id]
    assert ids(only_completed=False, ids=[two.id]) == [two.id]
    assert ids(only_completed=False, partial_name="^c.ts$") == [one.id]
    assert ids(only_completed=False, partial_name="o") == [two.id]
    with pytest.raises(InvalidInput, match="no regular expression"):
        ids(partial_name="(")


def test_delete(home: Path) -> None:
    one, two = made(home, {"a": "1"}), made(home, {"a": "2"})
    child = made(home, {"a": "3"}, "child", two)
    unclear: list[dict[str, Any]] = [
        {},
        {"dataset_project": "p"},
        {"dataset_id": one.id, "dataset_name": "d"},
        {"dataset_project": "p", "dataset_name": "d"},
        {"dataset_project": "p", "dataset_name": "d", "entire_dataset": True},
    ]
    for words in unclear:
        with pytest.raises(InvalidInput):
            Dataset.delete(**words)
    with pytest.raises(WrongState, match="is the parent of 1"):
        Dataset.delete(two.id)
    with pytest.raises(WrongState, match="is the parent of 1"):
        Dataset.delete(dataset_project="p", dataset_name="d", dataset_version="1.0.1")
    Dataset.delete(dataset_project="p", dataset_name="d", dataset_version="1.0.0")
    with pytest.raises(NotFound):
        Dataset.delete(one.id)
    with pytest.raises(NotFound, match="is deleted"):
        _ = one.tags
    Dataset.delete(two.id, force=True, delete_files=False)
    assert child.list_removed_files() == []
    assert child.list_modified_files() == ["a"]
    assert child.get_dependency_graph() == {child.id: [two.id], two.id: []}
    made(home, {"a": "4"}, "child")
    Dataset.delete(dataset_project="p", dataset_name="child", entire_dataset=True, force=True)
    assert Dataset.list_datasets(only_completed=False) == []
    with pytest.raises(NotFound):
        Dataset.delete(dataset_project="p", dataset_name="child")


def test_rename_and_move(home: Path) -> None:
    one, two = made(home, {"a": "1"}), made(home, {"a": "2"})
    Dataset.rename("renamed", "p", "d")
    Dataset.move_to_project("q/deep", dataset_project="p", dataset_name="renamed")
    assert [Dataset.get(item.id).project for item in (one, two)] == ["q/deep", "q/deep"]
    assert Dataset.get(dataset_project="q/deep", dataset_name="renamed").id == two.id
    assert (two.name, two.list_files(), two.name) == ("d", ["a"], "renamed"), "as of the last look"
    with pytest.raises(NotFound):
        Dataset.rename("x", "p", "d")


def test_squash(home: Path) -> None:
    one = made(home, {"a": "1", "b": "1"})
    two = made(home, {"a": "2"}, "d", one)
    other = made(home, {"c": "3"}, "e")
    flat = Dataset.squash("flat", dataset_ids=[two, other.id])
    assert (flat.project, flat.version, flat.list_files()) == ("p", "1.0.0", ["a", "c"])
    assert flat.get_dependency_graph() == {flat.id: []}
    opened = Dataset.squash("flat", dataset_project_name_pairs=[("p", "d"), ("p", "e")], close_squashed_dataset=False)
    assert (opened.is_final(), opened.version, opened.list_files()) == (False, "1.0.1", ["a", "c"])
    words: dict[str, Any]
    for words in ({}, {"dataset_ids": [one], "dataset_project_name_pairs": [("p", "d")]}, {"dataset_ids": []}):
        with pytest.raises(InvalidInput):
            Dataset.squash("flat", **words)


def test_what_is_not_done_says_so(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    for call in (
        dataset.get_logger,
        lambda: dataset.upload(upload_as_external_links=True),
        lambda: Dataset.set_offline(True),
        lambda: Dataset.import_offline_session("session.zip"),
    ):
        with pytest.raises(Unsupported) as caught:
            call()
        assert caught.value.hint
    Dataset.set_offline(False)
    assert Dataset.is_offline() is False
    assert dataset.get_offline_mode_folder() is None  # type: ignore[func-returns-value]
    store = dataset.get_default_storage()
    assert Dataset.create("d", "p", output_uri=store).upload(output_url=store, preview=True, retries=9) is True


def test_settings_are_those_of_the_command_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVFS_STORE")
    (tmp_path / "config.toml").write_text(f'store = "{tmp_path}/from the file"\n')
    assert Dataset.create("d", "p").get_default_storage() == f"file://{tmp_path}/from%20the%20file"
    there = Dataset.create("d", "p", store=tmp_path / "here")
    assert Dataset.get(dataset_name="d", store=there.get_default_storage()).id == there.id
    assert [item["id"] for item in Dataset.list_datasets(only_completed=False, store="../here")] == [there.id]
    child = Dataset.create(parent_datasets=[made(home, {"a": "1"})])
    assert child.get_default_storage() == f"file://{tmp_path}/from%20the%20file"
