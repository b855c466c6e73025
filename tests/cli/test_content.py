"""Looking into versions: compare, diff, verify, squash, and list, search and add by what is inside."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Program, program, tree

FINE = "Dataset verification completed successfully, no errors found.\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def made(dvfs: Program, files: dict[str, str], *words: str, name: str = "d", parents: tuple[str, ...] = ()) -> str:
    """Make a finished version that has *files*, and nothing else; return its id."""
    number = len(list(dvfs.folder.glob("made-*")))
    folder = write(dvfs.folder / f"made-{number}", files)
    folder.mkdir(exist_ok=True)
    above = ("--parents", *parents) if parents else ()
    dvfs.ok("sync", "--project", "p", "--name", name, "--folder", folder, *above, *words)
    return str(json.loads(dvfs.ok("use", "--json"))["id"])


def paths(dvfs: Program, *words: str) -> set[str]:
    listed = [json.loads(line) for line in dvfs.ok("list", "--json", *words).splitlines()]
    return {line["path"] for line in listed if line["kind"] != "directory"}


# --- compare and diff


def test_compare_and_diff(dvfs_anywhere: Program) -> None:
    dvfs = dvfs_anywhere
    one = made(dvfs, {"a": "1", "b": "22", "d/c": "3"})
    two = made(dvfs, {"a": "111", "d/c": "3", "d/e": "4"}, parents=(one,))
    expected = "\n".join(
        [
            "Comparison summary: 1 files removed, 1 files modified, 1 files added",
            "modified: a (1 bytes -> 3 bytes)",
            "removed: b (2 bytes)",
            "added: d/e (1 bytes)",
            "",
        ]
    )
    assert dvfs.ok("compare", one, two) == expected
    assert dvfs.ok("compare", "--source", one, "--target", two, "--verbose") == expected
    assert dvfs.ok("compare", "p/d@1.0.0", "--target", "p/d") == expected
    assert dvfs.ok("diff", "p/d@1.0.0", two) == expected
    assert dvfs.ok("compare", one, two, "-q").splitlines() == expected.splitlines()[:1]
    assert dvfs.ok("compare", one, one) == "Comparison summary: 0 files removed, 0 files modified, 0 files added\n"
    document: dict[str, Any] = json.loads(dvfs.ok("compare", one, two, "--json"))
    assert (document["source"]["id"], document["target"]["id"]) == (one, two)
    assert (document["removed"], document["modified"], document["added"]) == (1, 1, 1)
    changes = [(item["change"], item["path"], item["old_bytes"], item["new_bytes"]) for item in document["changes"]]
    assert changes == [("modified", "a", 1, 3), ("removed", "b", 2, None), ("added", "d/e", None, 1)]
    assert json.loads(dvfs.ok("compare", one, one, "--json"))["changes"] == []


def test_compare_tells_modes_links_and_directories(dvfs: Program, source: Path) -> None:
    first = json.loads(dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", source, "--json"))["id"]
    (source / "run.sh").chmod(0o644)
    (source / "sub/link").unlink()
    (source / "sub/link").symlink_to("elsewhere")
    (source / "sub/empty").rmdir()
    second = json.loads(dvfs.ok("sync", "--parents", first, "--folder", source, "--json"))["id"]
    assert dvfs.ok("compare", first, second).splitlines() == [
        "Comparison summary: 0 files removed, 2 files modified, 0 files added",
        "modified: run.sh (10 bytes -> 10 bytes, mode 0755 -> 0644)",
        "removed: sub/empty/",
        "modified: sub/link -> elsewhere",
    ]


def test_how_diff_tells_versions_from_paths(dvfs: Program) -> None:
    made(dvfs, {"a": "1"}, name="one")
    made(dvfs, {"a": "2"}, name="two")
    assert "modified: a" in dvfs.ok("diff", "p/one", "p/two")
    write(dvfs.folder / "p", {"one": "a local file", "two": "another"})
    ran = dvfs("diff", "p/one", "p/two")
    assert (ran.code, ran.out) == (3, "")
    assert "is in no mount of dvfs" in ran.err
    ran = dvfs("diff", "p/three", "p/four")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("error: no dataset p/three, and no such path")
    ran = dvfs("diff", "./p/three", "./p/four")
    assert "is in no mount of dvfs" in ran.err


# --- verify


def test_verify(dvfs_anywhere: Program, source: Path, tmp_path: Path) -> None:
    dvfs = dvfs_anywhere
    version = json.loads(dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", source, "--json"))["id"]
    assert dvfs.ok("verify") == FINE
    assert dvfs.ok("verify", "p/d", "--filesize") == FINE
    assert dvfs.ok("verify", "--id", version, "-q") == ""
    assert json.loads(dvfs.ok("verify", "--json")) == {"id": version, "errors": []}
    assert dvfs.ok("verify", "--folder", source) == FINE
    kept = Path(dvfs.ok("get").strip())
    assert dvfs.ok("verify") == FINE

    (source / "a.txt").write_bytes(b"ALPHA\n")
    (source / "sub/b.txt").unlink()
    ran = dvfs("verify", "--folder", source)
    assert (ran.code, ran.err) == (5, "")
    assert ran.out.splitlines() == [
        "a.txt: its bytes do not have its digest",
        "sub/b.txt: missing",
        "Dataset verification completed, 2 errors found!",
    ]
    ran = dvfs("verify", "--folder", source, "--filesize", "--json")
    assert (ran.code, ran.json["errors"]) == (5, [{"path": "sub/b.txt", "reason": "missing"}])
    assert dvfs("verify", "--folder", "nothing").code == 2

    (kept / "a.txt").chmod(0o644)
    (kept / "a.txt").write_bytes(b"ALPHA\n")
    ran = dvfs("verify", "-q")
    assert (ran.code, ran.out) == (5, f"a.txt: in {kept}: its bytes do not have its digest\n")


def test_verify_names_what_is_damaged_in_the_store(dvfs: Program, source: Path, tmp_path: Path) -> None:
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", source)
    packs = sorted((tmp_path / "store" / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    holding = next(path for path in packs if b"alpha\n" in path.read_bytes())
    holding.chmod(0o644)
    holding.write_bytes(holding.read_bytes().replace(b"alpha\n", b"alphA\n"))
    ran = dvfs("verify")
    assert ran.code == 5
    assert re.search(r"^a\.txt: block [0-9a-f]{64} of .* is damaged", ran.out, re.MULTILINE)
    assert dvfs.ok("verify", "--filesize") == FINE
    holding.unlink()
    ran = dvfs("verify", "--filesize")
    assert ran.code == 5
    assert re.search(r"^a\.txt: pack .* is missing$", ran.out, re.MULTILINE)


# --- squash


def test_squash(dvfs_anywhere: Program) -> None:
    dvfs = dvfs_anywhere
    one = made(dvfs, {"a": "1", "b": "2"})
    two = made(dvfs, {"a": "1", "c": "3"}, parents=(one,))
    three = made(dvfs, {"other": "4"}, name="other")
    said = dvfs.ok("squash", "--name", "all", "--ids", two, three, "--tags", "x", "y")
    match = re.fullmatch(r"Squashing completed, new dataset created id=([0-9a-f]{32}) p/all@1\.0\.0\n", said)
    assert match
    assert json.loads(dvfs.ok("use", "--json"))["id"] == match[1]
    assert paths(dvfs) == {"a", "c", "other"}
    assert dvfs.ok("verify") == FINE
    again = dvfs.ok("squash", "--name", "all", "--project", "q", "--ids", three, two, "-q").strip()
    document = json.loads(dvfs.ok("squash", "--name", "all", "--project", "q", "--ids", again, "--json"))
    assert (document["project"], document["version"], document["files"]) == ("q", "1.0.1", 3)
    for words, code in ([["--ids", "p/nothing"], 3], [[], 2], [["--ids", one, "--version", "1.0.0"], 4]):
        assert dvfs("squash", "--name", "all", *words).code == code  # type: ignore[misc]


# --- list, search, add


def test_list_of_what_an_open_version_changes(dvfs: Program) -> None:
    one = made(dvfs, {"a": "1", "b": "2", "d/c": "3"})
    dvfs.ok("create", "--name", "d", "--parents", one)
    write(dvfs.folder, {"new": "4", "a": "55"})
    dvfs.ok("add", "--files", "new", "a")
    dvfs.ok("remove", "--files", "d/c")
    listed = [json.loads(line) for line in dvfs.ok("list", "--modified", "--json").splitlines()]
    assert [(line["change"], line["path"]) for line in listed] == [
        ("modified", "a"),
        ("added", "new"),
        ("removed", "d/c"),
    ]
    dvfs.ok("close")
    closed = [json.loads(line) for line in dvfs.ok("list", "--modified", "--json").splitlines()]
    assert [(line["change"], line["path"]) for line in closed] == [(line["change"], line["path"]) for line in listed]
    assert paths(dvfs, "--modified", "--filter", "d", "n*") == {"d/c", "new"}


def test_a_file_that_two_filters_name_is_listed_once(dvfs: Program) -> None:
    made(dvfs, {"a.txt": "1", "d/b.txt": "2"})
    listed = dvfs.ok("list", "--filter", "*.txt", "d", "d/b.txt").splitlines()
    assert [line.split()[0] for line in listed[2:-1]] == ["a.txt", "d/b.txt"]
    assert listed[-1] == "Total 2 files, 2 bytes"


def test_search_inside_versions(dvfs: Program) -> None:
    one = made(dvfs, {"a.txt": "1", "d/b.txt": "2"})
    two = made(dvfs, {"a.txt": "1", "d/b.txt": "3", "d/new.txt": "4"}, parents=(one,))
    digest = next(json.loads(line)["digest"] for line in dvfs.ok("list", one, "--json").splitlines() if "b.txt" in line)

    def found(*words: str) -> dict[str, list[str]]:
        return {
            item["id"]: [match["path"] for match in item["paths"]]
            for item in json.loads(dvfs.ok("search", "--json", *words))
        }

    assert found("--path", "d/b.txt") == {one: ["d/b.txt"], two: ["d/b.txt"]}
    assert found("--path", "*new*") == {two: ["d/new.txt"]}
    assert found("--digest", digest) == {one: ["d/b.txt"]}
    assert found("--digest", digest[:8], "--path", "a.txt") == {}
    assert found("--path", "*.txt", "--ids", two) == {two: ["a.txt", "d/b.txt", "d/new.txt"]}
    shown = dvfs.ok("search", "--path", "d/*").splitlines()
    assert [line.strip() for line in shown[2:] if line.startswith("  ")] == ["d/b.txt", "d/b.txt", "d/new.txt"]
    assert dvfs("search", "--digest", "xyz").code == 2


def test_add_with_wildcards(dvfs: Program) -> None:
    names = ["a.jpg", "b.txt", "left/c.jpg", "left/d.txt", "deep/left/e.jpg", "none/f.txt", ".hidden.jpg"]
    write(dvfs.folder / "source", {name: name for name in names})
    (dvfs.folder / "source/empty").mkdir()
    os.mkfifo(dvfs.folder / "source/pipe")

    def added(*words: str) -> set[str]:
        version = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
        dvfs.ok("add", version, "--files", *words)
        dvfs.ok("close", "-q")
        listed = [json.loads(line) for line in dvfs.ok("list", "--json").splitlines()]
        return {line["path"] + "/" * (line["kind"] == "directory") for line in listed if line["path"]}

    jpgs = {"a.jpg", ".hidden.jpg", "left/", "left/c.jpg", "deep/", "deep/left/", "deep/left/e.jpg"}
    assert added("source", "--wildcard", "*.jpg") == jpgs
    assert added("source", "--wildcard", "left/*.jpg", "b.*") == {
        "b.txt", "left/", "left/c.jpg", "deep/", "deep/left/", "deep/left/e.jpg"
    }  # fmt: skip
    assert added("source", "--wildcard", "*.jpg", "--non-recursive") == {"a.jpg", ".hidden.jpg"}
    assert added("source", "source/b.txt", "--wildcard", "?.jpg", "--dataset-folder", "x") == {
        "x/", "x/a.jpg", "x/b.txt", "x/left/", "x/left/c.jpg", "x/deep/", "x/deep/left/", "x/deep/left/e.jpg"
    }  # fmt: skip
    assert added("source", "--wildcard", "*.png") == set()
    opened = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    for pattern in ("/abs/*.jpg", "~/data/*.jpg", "../*"):
        assert dvfs("add", opened, "--files", "source", "--wildcard", pattern).code == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["compare"], 2),
        (["compare", "p/d"], 2),
        (["compare", "p/d", "p/d", "p/d"], 2),
        (["compare", "p/d", "--source", "p/d", "--target", "p/d"], 2),
        (["compare", "p/d", "p/nothing"], 3),
        (["compare", "p/d", "OPEN"], 4),
        (["verify", "p/nothing"], 3),
        (["verify", "OPEN"], 4),
        (["squash", "--ids", "p/d"], 2),
        (["squash", "--name", "s", "--ids", "OPEN"], 4),
        (["search", "--path", "/"], 2),
    ],
)
def test_what_does_not_work(with_versions: tuple[Program, str], words: list[str], code: int) -> None:
    dvfs, opened = with_versions
    ran = dvfs(*[opened if word == "OPEN" else word for word in words])
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")


@pytest.fixture(scope="module")
def with_versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, str]:
    dvfs = program(tmp_path_factory.mktemp("versions"))
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", tree(dvfs.folder / "source"))
    return dvfs, dvfs.ok("create", "--project", "p", "--name", "open", "-q").strip()
