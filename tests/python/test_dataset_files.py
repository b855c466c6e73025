"""What goes into an open version from Python, and how versions are listed and compared."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from dvfs import Dataset
from dvfs.store.errors import BadSource, InvalidInput, NotFound, SourceChanged
from tests.python.conftest import made, read, write


@pytest.fixture
def tree(home: Path) -> Path:
    return write(home / "tree", {"a.txt": "1", "sub/b.txt": "22", "sub/deep/c.jpg": "333", "sub/deep/d.txt": "4"})


def added(path: object, **words: object) -> list[str]:
    dataset = Dataset.create("d", "p")
    number = dataset.add_files(path, **words)  # type: ignore[arg-type]
    found = dataset.list_files()
    assert number == len(found)
    return found


def test_where_files_go(home: Path, tree: Path) -> None:
    assert added(tree) == ["a.txt", "sub/b.txt", "sub/deep/c.jpg", "sub/deep/d.txt"]
    assert added(str(tree / "sub" / "b.txt")) == ["b.txt"]
    assert added("tree/sub", dataset_path="/x/y/") == ["x/y/b.txt", "x/y/deep/c.jpg", "x/y/deep/d.txt"]
    assert added("tree", recursive=False) == ["a.txt"]
    assert added("tree/sub/*.txt") == ["b.txt"]
    assert added("tree/sub/deep", local_base_folder="tree") == ["sub/deep/c.jpg", "sub/deep/d.txt"]
    assert added("tree/sub/b.txt", local_base_folder=tree, dataset_path="x") == ["x/sub/b.txt"]
    assert added(tree, local_base_folder=tree) == added(tree)
    for path in ("nothing", "no*thing", home / "tree" / "b"):
        with pytest.raises(InvalidInput):
            added(path)
    with pytest.raises(InvalidInput, match="not below local_base_folder"):
        added("tree/a.txt", local_base_folder="tree/sub")


def test_wildcards(home: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert added(tree, wildcard="*.txt") == ["a.txt", "sub/b.txt", "sub/deep/d.txt"]
    assert added(tree, wildcard=["*.jpg", "a*"]) == ["a.txt", "sub/deep/c.jpg"]
    assert added(tree, wildcard="*.txt", recursive=False) == ["a.txt"]
    assert added(tree, exclude=["deep/", "a*"]) == ["sub/b.txt"]
    monkeypatch.setenv("HOME", str(home))
    assert added("~/tree", wildcard="~/tree/sub/*.txt") == ["sub/b.txt"]
    with pytest.raises(InvalidInput, match="matches nothing below"):
        added(tree, wildcard="~/data/*.jpg")


def test_added_counts_what_is_new_only(home: Path, tree: Path) -> None:
    parent = made(home, {"a.txt": "old", "kept": "k"})
    child = Dataset.create(parent_datasets=[parent])
    assert child.add_files(tree) == 3
    assert child.list_modified_files() == ["a.txt"]
    assert child.list_added_files() == ["sub/b.txt", "sub/deep/c.jpg", "sub/deep/d.txt"]
    assert child.add_files(tree, dataset_path="again") == 4


def test_verbose_prints_paths_to_stderr(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.create("d", "p")
    dataset.add_files(tree / "a.txt", verbose=True)
    assert capfd.readouterr() == ("", "a.txt\n")
    dataset.upload(verbose=True)
    assert capfd.readouterr() == ("", "a.txt\n")
    dataset.remove_files("a.txt", verbose=True)
    assert capfd.readouterr() == ("", "a.txt\n")
    dataset.sync_folder(tree / "sub" / "deep", verbose=True)
    assert capfd.readouterr() == ("", "c.jpg\nd.txt\n")
    dataset.finalize(auto_upload=True)
    assert capfd.readouterr() == ("", "")


def test_symbolic_links_stay_links_or_are_followed(home: Path, tree: Path) -> None:
    (tree / "link").symlink_to("a.txt")
    assert "link" in added(tree)
    dataset = Dataset.create("d", "p")
    dataset.add_files(tree)
    followed = Dataset.create("d", "p")
    followed.add_files(tree, follow_links=True)
    for version in (dataset, followed):
        version.finalize(auto_upload=True)
    assert "link" not in dataset.file_entries_dict
    assert os.readlink(Path(dataset.get_local_copy()) / "link") == "a.txt"
    assert followed.file_entries_dict["link"].hash == followed.file_entries_dict["a.txt"].hash


def test_remove(home: Path) -> None:
    files = {"a.txt": "1", "sub/a.txt": "2", "sub/deep/a.txt": "3", "sub/b": "4"}
    parent = made(home, files)

    def left(pattern: str, **words: bool) -> list[str]:
        child = Dataset.create(parent_datasets=[parent])
        number = child.remove_files(pattern, **words)
        assert child.is_dirty() is False, "removals need no upload"
        assert child.finalize()
        assert len(child.list_removed_files()) == number
        return child.list_files()

    assert left("a.txt") == ["sub/a.txt", "sub/b", "sub/deep/a.txt"]
    assert left("*.txt") == ["sub/b"]
    assert left("*.txt", recursive=False) == ["sub/a.txt", "sub/b", "sub/deep/a.txt"]
    assert left("sub/deep/") == ["a.txt", "sub/a.txt", "sub/b"]
    assert left("nothing") == sorted(files)
    for nothing in (None, "", "/"):
        with pytest.raises(InvalidInput):
            Dataset.create(parent_datasets=[parent]).remove_files(nothing)


def test_sync(home: Path) -> None:
    parent = made(home, {"a": "1", "b": "2", "c": "3", "other/d": "4"})
    child = Dataset.create(parent_datasets=[parent])
    folder = write(home / "folder", {"a": "1", "b": "22", "e": "5"})
    assert child.sync_folder(folder) == (2, 1, 1)
    assert child.sync_folder(folder) == (0, 0, 0)
    assert child.list_files() == ["a", "b", "e"]
    again = Dataset.create(parent_datasets=[parent])
    assert again.sync_folder(folder, "other") == (1, 3, 0)
    assert again.list_files() == ["a", "b", "c", "other/a", "other/b", "other/e"]
    stat = (folder / "b").stat()
    child.finalize(auto_upload=True)
    (folder / "b").write_text("33")
    os.utime(folder / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    grandchild = Dataset.create(parent_datasets=[child])
    assert grandchild.sync_folder(folder, exclude=["e"]) == (1, 0, 0)
    assert grandchild.sync_folder(folder, checksum=True) == (0, 1, 1)


def test_upload_refuses_what_changed(home: Path, tree: Path) -> None:
    dataset = Dataset.create("d", "p")
    dataset.add_files(tree)
    (tree / "a.txt").write_text("changed")
    with pytest.raises(SourceChanged, match=r"a\.txt"):
        dataset.upload()
    assert dataset.finalize(raise_on_error=False, auto_upload=True) is False
    dataset.add_files(tree)
    assert dataset.finalize(auto_upload=True) is True


def test_special_files_are_named(home: Path, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    dataset = Dataset.create("d", "p")
    with pytest.raises(BadSource, match="pipe"):
        dataset.add_files(tree)
    assert dataset.list_files() == []


@pytest.mark.parametrize(
    "words",
    [
        {"compression": "none"},
        {"compression": "zstd:7", "max_workers": 1},
        {"compression": zipfile.ZIP_STORED, "chunk_size": 1},
        {"compression": zipfile.ZIP_DEFLATED, "chunk_size": -1},
    ],
)
def test_how_files_are_uploaded(home: Path, words: dict[str, object]) -> None:
    data = b"the same again " * 100_000
    dataset = Dataset.create("d", "p")
    dataset.add_files(write(home / "tree", {"a": data}))
    dataset.upload(show_progress=False, **words)  # type: ignore[arg-type]
    dataset.finalize()
    assert read(dataset.get_local_copy()) == {"a": data}
    stored = sum(path.stat().st_size for path in (home.parent / "store" / "packs").rglob("*") if path.is_file())
    assert (stored > len(data)) is (words["compression"] in ("none", 0))
    with pytest.raises(InvalidInput, match="unknown compression"):
        Dataset.create("d", "p").upload(compression="best")


def test_list_files(home: Path) -> None:
    dataset = made(home, {"a.txt": "1", "sub/a.txt": "2", "sub/deep/b": "3", "größe": "4"})
    assert dataset.list_files() == ["a.txt", "größe", "sub/a.txt", "sub/deep/b"]
    assert dataset.list_files("sub") == dataset.list_files("/sub/") == ["sub/a.txt", "sub/deep/b"]
    assert dataset.list_files("*.txt") == ["a.txt", "sub/a.txt"]
    assert dataset.list_files("*.txt", recursive=False) == ["a.txt"]
    assert dataset.list_files("sub/*") == ["sub/a.txt", "sub/deep/b"]
    assert dataset.list_files("nothing") == []
    (home / "odd").mkdir()
    Path(os.fsdecode(os.fsencode(home) + b"/odd/\xff")).write_text("x")
    odd = Dataset.create("odd", "p")
    odd.add_files("odd")
    assert odd.list_files() == ["\udcff"]


def test_files_that_a_version_changed_and_that_stayed(home: Path) -> None:
    one = made(home, {"a": "1", "b": "1", "c": "1"})
    two = made(home, {"a": "1", "b": "2", "c": "2", "d": "2"}, "d", one)
    three = made(home, {"a": "1", "b": "2", "c": "1", "d": "3"}, "d", two)
    assert three.list_files(dataset_id=one.id) == ["a", "c"]
    assert three.list_files(dataset_id=two.id) == ["b"]
    assert three.list_files(dataset_id=three.id) == ["c", "d"]
    assert three.list_files("d*", dataset_id=three.id) == ["d"]
    opened = Dataset.create(parent_datasets=[two])
    opened.remove_files("b")
    opened.add_files(write(home / "more", {"e": "5"}))
    assert opened.list_files(dataset_id=two.id) == ["c", "d"]
    assert opened.list_files(dataset_id=opened.id) == ["e"]
    with pytest.raises(NotFound):
        three.list_files(dataset_id="0" * 32)


def test_differences_with_parents_and_with_any_version(home: Path) -> None:
    def differing(dataset: Dataset, *other: str) -> tuple[list[str], list[str], list[str]]:
        return dataset.list_added_files(*other), dataset.list_modified_files(*other), dataset.list_removed_files(*other)

    one = made(home, {"a": "1", "b": "1", "sub/c": "1"})
    two = made(home, {"a": "1", "b": "2", "d": "2"}, "d", one)
    three = made(home, {"a": "3", "d": "2"}, "d", two)
    assert differing(one) == (["a", "b", "sub/c"], [], [])
    assert differing(two) == differing(two, two.id) == differing(two, one.id) == (["d"], ["b"], ["sub/c"])
    assert differing(three) == ([], ["a"], ["b"])
    assert differing(three, one.id) == (["d"], ["a"], ["b", "sub/c"])
    assert differing(one, three.id) == (["b", "sub/c"], ["a"], ["d"])
    opened = Dataset.create(parent_datasets=[one])
    opened.remove_files("sub")
    opened.add_files(write(home / "more", {"b": "22", "e": "5"}))
    assert differing(opened) == differing(opened, one.id) == (["e"], ["b"], ["sub/c"])
    opened.upload()
    assert differing(opened) == differing(opened, one.id) == (["e"], ["b"], ["sub/c"])
    assert differing(opened, three.id) == (["b", "e"], ["a"], ["d"])
    empty = Dataset.create("empty", "p")
    assert differing(empty, one.id) == ([], [], ["a", "b", "sub/c"])


def test_entries_say_what_a_file_is(home: Path) -> None:
    one = made(home, {"a": "1", "empty": ""})
    two = Dataset.create(parent_datasets=[one])
    two.add_files(write(home / "more", {"b": "22"}))
    by_path = two.file_entries_dict
    assert {path: (entry.size, entry.parent_dataset_id) for path, entry in by_path.items()} == {
        "a": (1, one.id),
        "b": (2, None),
        "empty": (0, None),
    }
    assert by_path["b"].hash is None
    assert by_path["a"].hash == one.file_entries[0].hash
    two.finalize(auto_upload=True)
    assert two.file_entries_dict["b"].parent_dataset_id == two.id
    assert (list(two.link_entries), dict(two.link_entries_dict)) == ([], {})
    assert (one.get_num_chunks(), two.get_num_chunks(), two.get_num_chunks(include_parents=False)) == (1, 2, 1)
    assert Dataset.create("new", "p").get_num_chunks() == 0
