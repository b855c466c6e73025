"""Defects of ClearML Data 2.1.12 that these commands do not have; the numbers are those of the list of defects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dvfs.store.ids import VersionId
from dvfs.store.records import Records, Stored
from tests.cli.conftest import Program
from tests.cli.test_labels import made, searched


def chain(dvfs: Program, length: int) -> list[str]:
    """Make *length* versions, each with one file more than the one before; return their ids."""
    (dvfs.folder / "tree").mkdir()
    ids: list[str] = []
    for number in range(length):
        (dvfs.folder / "tree" / f"f{number}").write_bytes(b"%d" % number)
        parents = ["--parents", ids[-1]] if ids else ["--project", "p", "--name", "d"]
        ids.append(json.loads(dvfs.ok("sync", "--folder", "tree", "--json", *parents))["id"])
    return ids


def files_of(dvfs: Program, version: str, tmp_path: Path) -> dict[str, bytes]:
    """Return what a machine that has nothing gets of *version*."""
    fresh = {"DVFS_CACHE_DIR": str(tmp_path / "fresh"), "DVFS_STATE_DIR": str(tmp_path / "fresh-state")}
    dvfs.ok("get", version, "--copy", "copy", "--overwrite", "-q", environ=fresh)
    return {path.name: path.read_bytes() for path in (dvfs.folder / "copy").iterdir()}


def test_d06_a_long_chain_is_whole_though_its_ancestors_are_deleted(dvfs: Program, tmp_path: Path) -> None:
    """A version of a chain reads nothing through its ancestors, and the log shows all of them."""
    ids = chain(dvfs, 12)
    for version in ids[:-1]:
        assert dvfs("delete", version, "--force", "-q").code == 0
    assert files_of(dvfs, ids[-1], tmp_path) == {f"f{number}": b"%d" % number for number in range(12)}
    found = json.loads(dvfs.ok("log", ids[-1], "--json"))
    assert [item["id"] for item in found] == ids[::-1]
    assert [item["status"] for item in found] == ["completed"] + ["deleted"] * 11


@pytest.mark.parametrize("nth", [1, 2])
def test_d10_two_writers_of_one_version_are_both_heard(
    dvfs: Program, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The last state wins nothing: what others say after the *nth* time that one has read the record stays."""
    version = made(dvfs)
    load = Records.load
    loads: list[VersionId] = []

    def overtaken(records: Records, name: VersionId) -> Stored:
        stored = load(records, name)
        loads.append(name)
        if len(loads) == nth:
            dvfs.ok("tag", version, "+other", "-q")
            dvfs.ok("metadata", version, "k", "1", "-q")
            dvfs.ok("publish", version, "-q")
        return stored

    with monkeypatch.context() as patch:
        patch.setattr(Records, "load", overtaken)
        dvfs.ok("tag", version, "+mine", "-q")
    assert len(loads) > nth
    (found,) = searched(dvfs)
    assert (sorted(found["tags"]), found["status"]) == (["mine", "other"], "published")
    assert dvfs.ok("metadata", version) == "k = 1\n"


def test_d13_delete_by_id_keeps_a_parent_and_forced_leaves_its_child_whole(dvfs: Program, tmp_path: Path) -> None:
    parent, child = chain(dvfs, 2)
    assert dvfs("delete", "--id", parent, "--yes").code == 4
    assert [item["id"] for item in searched(dvfs)] == [parent, child]
    assert dvfs("delete", "--id", parent, "--force").code == 0
    assert files_of(dvfs, child, tmp_path) == {"f0": b"0", "f1": b"1"}
    (grandchild,) = chain_on(dvfs, child)
    assert files_of(dvfs, grandchild, tmp_path) == {"f0": b"0", "f1": b"1", "more": b"more"}


def chain_on(dvfs: Program, parent: str) -> list[str]:
    (dvfs.folder / "tree" / "more").write_bytes(b"more")
    return [json.loads(dvfs.ok("sync", "--folder", "tree", "--json", "--parents", parent))["id"]]


def test_trap_a_listed_dataset_is_not_the_one_that_a_bare_delete_takes(dvfs: Program) -> None:
    listed = made(dvfs)
    opened = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    for words in (["list", "--id", listed], ["log", listed], ["tag", listed], ["metadata", listed]):
        dvfs.ok(*words)
    assert dvfs("delete", "--yes", "-q").code == 0
    assert [item["id"] for item in searched(dvfs)] == [listed]
    assert dvfs("use", opened).code == 3


def test_trap_naming_a_dataset_by_project_and_name_works_with_one_in_use(dvfs: Program) -> None:
    first, second = made(dvfs), made(dvfs, name="other")
    assert dvfs("delete", "--project", "p", "--name", "d", "--yes", "-q").code == 0
    assert [item["id"] for item in searched(dvfs)] == [second]
    assert first != second


def test_trap_nothing_found_is_told_by_the_exit_code(dvfs: Program) -> None:
    made(dvfs)
    names = ["--project", "p", "--name", "nothing"]
    for words in (
        ["delete", *names, "--yes"],
        ["delete", *names, "--entire-dataset", "--force"],
        ["rename", *names, "--new-name", "x"],
        ["move", *names, "--new-project", "x"],
    ):
        ran = dvfs(*words)
        assert (ran.code, ran.out) == (3, ""), words


def test_trap_tag_latest_is_found_though_it_was_moved(dvfs: Program) -> None:
    """`latest` is one reference that moves, not a word that stays where it was put."""
    first, second = made(dvfs, "--latest"), made(dvfs, "--latest")
    assert json.loads(dvfs.ok("use", "tag:latest", "--json"))["id"] == second
    dvfs.ok("tag", first, "latest", "-q")
    assert json.loads(dvfs.ok("use", "tag:latest", "--json"))["id"] == first
