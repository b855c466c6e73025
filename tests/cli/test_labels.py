"""What is said of versions, their names, lineage and end: publish, tag, metadata, rename, move, log, delete."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dvfs.cli.commands.tag import signed
from tests.cli.conftest import Program


def made(dvfs: Program, *words: str, name: str = "d") -> str:
    """Make a finished version of nothing; return its id."""
    version = dvfs.ok("create", "--project", "p", "--name", name, "-q", *words).strip()
    dvfs.ok("close", "-q")
    return version


def searched(dvfs: Program, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dvfs.ok("search", "--json", "--not-only-completed", *words))
    return found


def tags_of(dvfs: Program) -> dict[str, list[str]]:
    return {item["version"]: item["tags"] for item in searched(dvfs)}


def test_publish(dvfs_anywhere: Program) -> None:
    dvfs = dvfs_anywhere
    opened = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    assert dvfs("publish", opened).code == 4
    dvfs.ok("close")
    assert dvfs.ok("publish") == f"Dataset published id={opened} p/d@1.0.0\n"
    again = dvfs("publish", "--id", opened)
    assert (again.code, again.out) == (4, "")
    assert again.err == f"error: dataset p/d@1.0.0 ({opened}) is published already\n"
    assert searched(dvfs)[0]["status"] == "published"
    other = made(dvfs)
    assert json.loads(dvfs.ok("publish", "p/d", "--json"))["id"] == other
    assert dvfs.ok("publish", made(dvfs), "-q") == ""


@pytest.mark.parametrize(
    ("words", "rest", "add", "remove"),
    [
        ("ID +a -b", "ID", "a", "b"),
        ("+a ID -b --json", "ID --json", "a", "b"),
        ("-quality -q +q -h", "-q -h", "q", "quality"),
        ("--id -x --add +y z --remove -w v -u", "--id -x --add +y z --remove -w v", "", "u"),
        ("ID + - +a-b -a+b", "ID + -", "a-b", "a+b"),
        ("ID -- +a -b", "ID -- +a -b", "", ""),
    ],
)
def test_signed_words_are_tags(words: str, rest: str, add: str, remove: str) -> None:
    assert signed(words.split()) == (rest.split(), add.split(), remove.split())


def test_tag(dvfs: Program) -> None:
    version = made(dvfs, "--tags", "old", "b")
    shown = f"Tags of dataset id={version} p/d@1.0.0: "
    assert dvfs.ok("tag", version, "+a", "-b") == shown + "old, a\n"
    assert dvfs.ok("tag", "--id", version, "plain", "-old") == shown + "a, plain\n"
    assert dvfs.ok("tag", "p/d", "--add", "x", "y", "--remove", "a", "plain", "-q") == ""
    assert json.loads(dvfs.ok("tag", "--json"))["tags"] == ["x", "y"]
    assert dvfs.ok("tag", "p/d@1.0.0", "-x", "-y", "+größe") == shown + "größe\n"
    assert dvfs.ok("tag", version, "-größe") == shown + "none\n"
    assert dvfs.ok("tag", version, environ={"DVFS_TAG_ADD": "one two"}) == shown + "one, two\n"
    for words, code in ((["p/nothing", "+a"], 3), ([version, "+a", "-a"], 2), ([version, ""], 2), (["latest"], 3)):
        ran = dvfs("tag", *words)
        assert (ran.code, ran.out) == (code, ""), words
    assert dvfs("tag", version, b"+\xff").code == 2


def test_latest(dvfs_anywhere: Program) -> None:
    dvfs = dvfs_anywhere
    first, other = made(dvfs, "--latest"), made(dvfs, "--latest", name="other")
    second = dvfs.ok("create", "--project", "p", "--name", "d", "--tags", "x", "--latest", "-q").strip()
    (dvfs.folder / "f").write_bytes(b"f")
    dvfs.ok("add", "--files", "f")
    assert [item["id"] for item in searched(dvfs, "--tags", "latest")] == [first, other, second]
    dvfs.ok("close")
    assert [item["id"] for item in searched(dvfs, "--tags", "latest")] == [other, second]
    assert dvfs.ok("tag", first, "latest") == f"Tags of dataset id={first} p/d@1.0.0: latest\n"
    assert tags_of(dvfs) == {"1.0.0": ["latest"], "1.0.1": ["x"]}
    assert [item["id"] for item in searched(dvfs, "--tags", "latest")] == [first, other]


def test_sync_latest(dvfs: Program, source: Path) -> None:
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", "source", "--latest")
    dvfs.ok("sync", "--parents", "p/d", "--folder", "source", "--latest")  # nothing changed: no version
    assert tags_of(dvfs) == {"1.0.0": ["latest"]}
    (source / "new").write_bytes(b"new")
    dvfs.ok("sync", "--parents", "p/d", "--folder", "source", "--latest", "--tags", "x")
    assert tags_of(dvfs) == {"1.0.0": [], "1.0.1": ["x", "latest"]}
    dvfs.ok("create", "--project", "p", "--name", "d")
    dvfs.ok("sync", "--folder", "source", "--latest")
    assert tags_of(dvfs) == {"1.0.0": [], "1.0.1": ["x"], "1.0.2": ["latest"]}


def test_set_description(dvfs: Program) -> None:
    version = made(dvfs)
    done = dvfs.ok("set-description", "--description", "two\nlines")
    assert done == f"Description of dataset id={version} p/d@1.0.0 set to 'two\\nlines'\n"
    assert json.loads(dvfs.ok("set-description", version, "--description", "", "--json"))["description"] == ""
    assert dvfs("set-description", version).code == 2


def test_metadata(dvfs: Program) -> None:
    version = made(dvfs)
    assert dvfs.ok("metadata") == ""
    said = dvfs.ok("metadata", version, "scores", '{"a": [1, 2.5, null]}')
    assert said == f"Metadata scores of dataset id={version} p/d@1.0.0 set\n"
    dvfs.ok("metadata", "--id", version, "name", "some words", "-q")
    dvfs.ok("metadata", version, "text", "17", "--text", "-q")
    set_as_json = dvfs.ok("metadata", version, "number", "NaN", "--json")
    assert json.loads(set_as_json)["metadata"]["number"] == "NaN"
    assert dvfs.ok("metadata", version) == (
        'name = "some words"\nnumber = "NaN"\nscores = {"a": [1, 2.5, null]}\ntext = "17"\n'
    )
    assert dvfs.ok("metadata", version, "name") == "some words\n"
    assert dvfs.ok("metadata", version, "scores") == '{"a": [1, 2.5, null]}\n'
    assert json.loads(dvfs.ok("metadata", version, "text", "--json")) == {"id": version, "metadata": {"text": "17"}}
    assert dvfs.ok("metadata", version, "scores", "--unset").endswith("removed\n")
    assert json.loads(dvfs.ok("metadata", version, "--json"))["metadata"].keys() == {"name", "number", "text"}
    for words, code in (
        (["scores"], 3),
        (["scores", "--unset"], 3),
        (["a", "b", "c"], 2),
        (["a", "b", "--unset"], 2),
        (["a", "--text"], 2),
        (["--unset"], 2),
        (["a", '"\\ud800"'], 2),
        (["a", "[" * 200_000], 2),
        (["a", "[" * 40 + "]" * 40], 2),
    ):
        assert dvfs("metadata", version, *words).code == code, words[:2]


def test_rename_and_move(dvfs_anywhere: Program) -> None:
    dvfs = dvfs_anywhere
    first, second = made(dvfs), made(dvfs)
    assert dvfs.ok("rename", "--new-name", "e", "--project", "p", "--name", "d") == (
        f"Dataset renamed id={first} p/e@1.0.0\nDataset renamed id={second} p/e@1.0.1\n"
    )
    moved = json.loads(dvfs.ok("move", "p/e", "--new-project", "q/r", "--json"))
    assert [(item["id"], item["project"], item["name"]) for item in moved] == [
        (first, "q/r", "e"),
        (second, "q/r", "e"),
    ]
    assert dvfs.ok("rename", first, "--new-name", "alone") == f"Dataset renamed id={first} q/r/alone@1.0.0\n"
    assert json.loads(dvfs.ok("use", "q/r/e", "--json"))["id"] == second
    assert dvfs("list", "p/e").code == dvfs("list", "p/d@1.0.0").code == 3
    made(dvfs, "--version", "1.0.1", name="x")
    dvfs.ok("move", "p/x", "--new-project", "q/r", "-q")
    refused = dvfs("rename", "q/r/e", "--new-name", "x")
    assert (refused.code, refused.out) == (4, "")
    for words, code in (
        (["rename", "p/nothing", "--new-name", "x"], 3),
        (["rename", "q/r/e"], 2),
        (["rename", "q/r/e", "--new-name", ""], 2),
        (["rename", "--project", "q/r", "--new-name", "x"], 2),
        (["move", "q/r/e", "--project", "q/r", "--name", "e", "--new-project", "x"], 2),
    ):
        assert dvfs(*words).code == code, words


def test_log(dvfs: Program) -> None:
    root = made(dvfs, "--description", "the first\nof all", "--tags", "raw")
    left, right = made(dvfs, "--parents", root), made(dvfs, "--parents", root, name="other")
    top = dvfs.ok("create", "--name", "d", "--parents", left, right, "-q").strip()
    dvfs.ok("publish", root)
    dvfs.ok("delete", left, "--force", "-q")
    shown = re.sub(r"deleted [\d: -]+", "deleted WHEN", dvfs.ok("log"))
    assert shown.splitlines() == [
        f"* {top[:12]} p/d@1.0.2 (created)",
        "|\\",
        f"| * {right[:12]} p/other@1.0.0",
        f"* | {left[:12]} p/d@1.0.1 (deleted WHEN)",
        "|/",
        f"* {root[:12]} p/d@1.0.0 (published) [raw] the first …",
    ]
    found = json.loads(dvfs.ok("log", top, "--json"))
    assert [(item["id"], item["parents"]) for item in found] == [
        (top, [left, right]),
        (right, [root]),
        (left, [root]),
        (root, []),
    ]
    assert [item["status"] for item in found] == ["created", "completed", "deleted", "published"]
    assert "deleted" in found[2]
    assert dvfs.ok("log", left).startswith(f"* {left[:12]} ")  # of a deleted one by its id
    assert dvfs("log", "p/nothing").code == 3


# --- delete


def test_delete(dvfs_anywhere: Program) -> None:
    dvfs = dvfs_anywhere
    parent = made(dvfs)
    child = made(dvfs, "--parents", parent)
    refused = dvfs("delete", parent, "--yes")
    assert (refused.code, refused.out) == (4, "")
    assert f"is the parent of 1: p/d@1.0.1 ({child})" in refused.err
    done = dvfs("delete", parent, "--force")
    assert (done.code, done.out) == (0, f"Dataset deleted id={parent} p/d@1.0.0\n")
    assert done.err == "The bytes of 1 version stay in the store until garbage collection.\n"
    assert [item["id"] for item in searched(dvfs)] == [child]
    for words in (["delete", parent, "--yes"], ["list", parent], ["tag", parent, "+a"], ["delete", "p/d@1.0.0", "-y"]):
        assert dvfs(*words).code == 3, words
    assert json.loads(dvfs.ok("delete", "p/d", "--yes", "--json"))[0]["status"] == "deleted"
    assert searched(dvfs) == []


def test_delete_asks(dvfs: Program) -> None:
    version = made(dvfs)
    ran = dvfs.process("delete", version)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: delete dataset p/d@1.0.0 ({version}, completed)? Nobody is there to answer")
    assert [item["id"] for item in searched(dvfs)] == [version]
    assert dvfs.process("delete", version, environ={"DVFS_DELETE_YES": "1"}).code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 130)])
def test_delete_takes_an_answer(dvfs: Program, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    version = made(dvfs)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    ran = dvfs("delete", version)
    assert ran.code == code
    assert f"Delete dataset p/d@1.0.0 ({version}, completed)? [y/N]: " in ran.err
    assert len(searched(dvfs)) == bool(code)


def test_delete_of_the_dataset_in_use(dvfs: Program) -> None:
    assert dvfs("delete", "--yes").code == 2
    finished = made(dvfs)
    refused = dvfs("delete", "--yes")
    assert (refused.code, refused.out) == (4, "")
    assert refused.err == (
        f"error: dataset p/d@1.0.0 ({finished}) is completed, and not named\n"
        f"hint: `dvfs delete {finished}` deletes it\n"
    )
    opened = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    assert dvfs("delete", "--yes", "--json").code == 0
    assert [item["id"] for item in searched(dvfs)] == [finished]
    assert dvfs("use").code == 2  # none is in use any more
    assert dvfs("use", opened).code == 3
    dvfs.ok("use", finished)
    made(dvfs, name="other")
    dvfs("delete", finished, "--yes")
    assert json.loads(dvfs.ok("use", "--json"))["name"] == "other"


def test_delete_by_name_as_clearml_selects(dvfs: Program) -> None:
    versions = [made(dvfs) for _ in range(3)]
    by_name = ["delete", "--project", "p", "--name", "d"]
    for words, code in (
        ([*by_name, "--yes"], 2),  # which of the three?
        ([*by_name, "--force"], 2),
        ([*by_name, "--version", "7", "--yes"], 3),
        ([*by_name, "--entire-dataset", "--yes"], 2),
        ([*by_name, "--entire-dataset", "--force", "--version", "1.0.0"], 2),
        (["delete", "--project", "p", "--force"], 2),
        (["delete", versions[0], "--project", "p", "--name", "d", "--force"], 2),
        (["delete", versions[0], "--entire-dataset", "--force"], 2),
        (["delete", "--version", "1.0.0", "--force"], 2),
        (["delete", "--project", "p", "--name", "nothing", "--entire-dataset", "--force"], 3),
    ):
        ran = dvfs(*words)
        assert (ran.code, ran.out) == (code, ""), words
    assert len(searched(dvfs)) == 3
    assert dvfs(*by_name, "--version", "1.0.1", "--yes").out == f"Dataset deleted id={versions[1]} p/d@1.0.1\n"
    done = dvfs(*by_name, "--entire-dataset", "--force")
    assert done.out == f"Dataset deleted id={versions[2]} p/d@1.0.2\nDataset deleted id={versions[0]} p/d@1.0.0\n"
    assert done.err.startswith("The bytes of 2 versions stay")
    assert searched(dvfs) == []


def test_what_is_deleted_stays_readable_through_a_child(dvfs: Program, source: Path, tmp_path: Path) -> None:
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", "source")
    (source / "new").write_bytes(b"new\n")
    dvfs.ok("sync", "--parents", "p/d", "--folder", "source", "--name", "child")
    before = dvfs.ok("list", "p/child", "--json")
    assert dvfs("delete", "p/d", "--force").code == 0
    fresh = {"DVFS_CACHE_DIR": str(tmp_path / "fresh"), "DVFS_STATE_DIR": str(tmp_path / "other")}
    assert dvfs.ok("list", "p/child", "--json", environ=fresh) == before
    assert '"change": "added", "path": "new"' in dvfs.ok("list", "p/child", "--json", "--modified", environ=fresh)
    dvfs.ok("get", "p/child", "--copy", "copy", "-q", environ=fresh)
    assert (dvfs.folder / "copy/sub/b.txt").read_bytes() == (source / "sub/b.txt").read_bytes()
