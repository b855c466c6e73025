"""From folders to versions and back: create, add, remove, upload, close, sync, list, search, use, get."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Program, program, tree

RULE = "-" * 146


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def made(dvfs: Program, source: Path, *words: str) -> str:
    """Make a finished version of *source*; return its id."""
    version = dvfs.ok("create", "--project", "p", "--name", "d", "-q", *words).strip()
    dvfs.ok("add", "--files", source)
    dvfs.ok("close")
    return version


def digests(dvfs: Program, *words: str) -> dict[str, str]:
    return {line["path"]: line["digest"] for line in lines(dvfs.ok("list", "--json", *words)) if "digest" in line}


def test_a_folder_becomes_a_version_and_a_child_of_it(dvfs_anywhere: Program, source: Path) -> None:
    dvfs = dvfs_anywhere
    created = dvfs.ok("create", "--project", "p", "--name", "d", "--tags", "one", "two")
    match = re.fullmatch(r"New dataset created id=([0-9a-f]{32})\n", created)
    assert match
    first = match[1]
    assert dvfs.ok("add", "--files", "source") == "4 files added\n"
    uploaded = r"Dataset upload completed: 3 files, 516 B \(\d+ B stored\)\n"
    assert re.fullmatch(uploaded, dvfs.ok("upload"))
    assert dvfs.ok("close") == f"Dataset closed and finalized id={first} p/d@1.0.0\n"

    known = digests(dvfs)
    assert dvfs.ok("list") == "\n".join(
        [
            f"{'file name':64} | {'size':>12} | hash",
            "-" * 86,
            f"{'a.txt':64} | {6:>12} | {known['a.txt']}",
            f"{'run.sh':64} | {10:>12} | {known['run.sh']}",
            f"{'sub/b.txt':64} | {500:>12} | {known['sub/b.txt']}",
            "sub/link -> ../a.txt",
            "Total 3 files, 516 bytes\n",
        ]
    )

    (dvfs.folder / "new.txt").write_bytes(b"new\n")
    (dvfs.folder / "a.txt").write_bytes(b"other\n")
    second = dvfs.ok("create", "--name", "d", "--parents", first, "-q").strip()
    assert dvfs.ok("add", second, "--files", "new.txt", "a.txt") == "1 file added\n1 file modified\n"
    assert dvfs.ok("remove", "--files", "sub/", "run.sh") == "3 files removed\n"
    assert dvfs.ok("finalize", "--id", second) == f"Dataset closed and finalized id={second} p/d@1.0.1\n"
    changed = [(line["change"], line["path"]) for line in lines(dvfs.ok("list", "--modified", "--json"))]
    assert sorted(changed) == [
        ("added", "new.txt"),
        ("modified", "a.txt"),
        ("removed", "run.sh"),
        ("removed", "sub"),
        ("removed", "sub/b.txt"),
        ("removed", "sub/empty"),
        ("removed", "sub/link"),
    ]
    assert set(digests(dvfs)) == {"a.txt", "new.txt"}
    assert set(digests(dvfs, first)) == {"a.txt", "run.sh", "sub/b.txt"}

    found = json.loads(dvfs.ok("search", "--json"))
    assert [(item["id"], item["version"], item["status"], item["tags"]) for item in found] == [
        (first, "1.0.0", "completed", ["one", "two"]),
        (second, "1.0.1", "completed", []),
    ]
    for item in found:
        assert set(item) == {"id", "project", "name", "version", "status", "tags", "created"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", item["created"])


def test_search(dvfs: Program, source: Path) -> None:
    first = made(dvfs, source, "--tags", "good", "raw")
    second = dvfs.ok("create", "--project", "q", "--name", "other", "-q").strip()
    row = "{:16} | {:32} | {:16} | {:32} | {} | {:32}"
    created = json.loads(dvfs.ok("search", "--json"))[0]["created"].replace("T", " ").rstrip("Z")
    head = row.format("project", "name", "version", "tags", "created            ", "id").rstrip()
    assert dvfs.ok("search") == "\n".join(
        [head, "-" * len(head), row.format("p", "d", "1.0.0", "good, raw", created, first), ""]
    )
    assert dvfs.ok("search", "--name", "nothing") == f"{head}\n{'-' * len(head)}\n"

    def ids(*words: str) -> list[str]:
        return [item["id"] for item in json.loads(dvfs.ok("search", "--json", *words))]

    assert ids("--not-only-completed") == [first, second]
    assert ids("--not-only-completed", "--project", "q") == [second]
    assert ids("--tags", "raw", "good") == [first]
    assert ids("--tags", "raw", "bad") == []
    assert ids("--ids", first, second) == [first]
    assert ids("--name", "D") == [first]


def test_the_dataset_in_use(dvfs: Program, source: Path) -> None:
    for words in (["add", "--files", "source"], ["upload"], ["close"], ["list"], ["get"], ["use"]):
        ran = dvfs(*words)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: no dataset is named, and none is in use"), words
    first = made(dvfs, source)
    second = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    assert dvfs.ok("use") == f"Using dataset id={second} p/d@1.0.1 (created)\n"
    dvfs.ok("list", first)
    dvfs.ok("get", first)
    dvfs.ok("search")
    assert json.loads(dvfs.ok("use", "--json"))["id"] == second
    assert dvfs.ok("use", first[:8]) == f"Using dataset id={first} p/d@1.0.0 (completed)\n"
    for words in (["add", "--files", "source"], ["remove", "--files", "*"], ["upload"], ["close"]):
        ran = dvfs(*words)
        assert (ran.code, ran.out) == (4, ""), words
        assert ran.err.startswith(f"error: dataset p/d@1.0.0 ({first}) is completed"), words


@pytest.fixture(scope="module")
def with_versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, str]:
    """The program on a store with p/d@1.0.0, and an open version, whose id is the second value."""
    dvfs = program(tmp_path_factory.mktemp("versions"))
    made(dvfs, tree(dvfs.folder / "source"))
    return dvfs, dvfs.ok("create", "--project", "p", "--name", "open", "-q").strip()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list", "p/nothing"], 3),
        (["list", "p/d@9"], 3),
        (["list", "0" * 32], 3),
        (["list", "tag:nothing"], 3),
        (["list", "--project", "p"], 2),
        (["list", "p/d", "--project", "p", "--name", "d"], 2),
        (["use", "nothing"], 3),
        (["create", "--name", "d"], 2),
        (["create", "--name", ""], 2),
        (["create", "--project", "p", "--name", "d", "--version", "1.0.0"], 4),
        (["create", "--project", "p", "--name", "e", "--parents", "p/nothing"], 3),
        (["create", "--project", "p", "--name", "e", "--parents", "OPEN"], 4),
        (["add", "OPEN", "--files", "nothing"], 2),
        (["add", "OPEN", "--files", "no*ing"], 2),
        (["add", "OPEN", "--files", "source", "--dataset-folder", "../up"], 2),
        (["upload", "OPEN", "--compression", "best"], 2),
        (["get", "OPEN"], 4),
        (["get", "p/d", "--part", "0"], 2),
        (["get", "p/d", "--part", "2", "--num-parts", "2"], 2),
        (["get", "p/d", "--copy", "a", "--link", "b"], 2),
        (["get", "p/d", "--overwrite"], 2),
        (["sync", "--folder", "source", "--name", "x"], 2),
        (["sync", "OPEN", "--folder", "source", "--parents", "p/d"], 2),
        (["list", "--store", "ftp://there"], 2),
        (["list", "p/d", "--store", "."], 3),
    ],
)
def test_what_does_not_work(with_versions: tuple[Program, str], words: list[str], code: int) -> None:
    dvfs, opened = with_versions
    ran = dvfs(*[opened if word == "OPEN" else word for word in words])
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err


def test_list_filters_and_names(dvfs: Program) -> None:
    root = os.fsencode(dvfs.folder / "names")
    os.makedirs(root + b"/sub/deep")
    names = [b"latin-\xe9", "größe".encode(), b"two\nlines", b"sub/x.txt", b"sub/deep/y.txt", b"subway.txt"]
    for name in names:
        Path(os.fsdecode(root + b"/" + name)).write_bytes(name)
    made(dvfs, Path(os.fsdecode(root)))
    found = {line["path"]: line for line in lines(dvfs.ok("list", "--json"))}
    assert {line["kind"] for line in found.values()} == {"file", "directory"}
    assert base64.b64decode(found["latin-\ufffd"]["path_b64"]) == b"latin-\xe9"
    assert "path_b64" not in found["größe"]
    shown = dvfs.ok("list")
    assert "\nlatin-\\xe9 " in shown
    assert "\ntwo\\nlines " in shown

    def filtered(*patterns: str | bytes) -> list[str]:
        text = dvfs.ok("list", "--json", "--filter", *patterns)
        return [line["path"] for line in lines(text) if line["kind"] == "file"]

    assert filtered("sub") == ["sub/x.txt", "sub/deep/y.txt"]
    assert filtered("sub/") == ["sub/x.txt", "sub/deep/y.txt"]
    assert filtered("*.txt") == ["subway.txt", "sub/x.txt", "sub/deep/y.txt"]
    assert filtered("sub/deep", "sub*", "größe") == ["größe", "subway.txt", "sub/x.txt", "sub/deep/y.txt"]
    assert filtered(b"latin-\xe9") == ["latin-\ufffd"]
    assert filtered("nothing") == []


def test_list_of_an_open_version_shows_what_it_gets(dvfs: Program, source: Path) -> None:
    dvfs.ok("create", "--project", "p", "--name", "d")
    dvfs.ok("add", "--files", "source/a.txt")
    assert dvfs.ok("list").splitlines()[2:] == [f"{'a.txt':64} | {6:>12} |", "Total 1 files, 6 bytes"]
    found = lines(dvfs.ok("list", "--json"))
    assert [(line["path"], line["digest"]) for line in found if line["kind"] == "file"] == [("a.txt", None)]


def test_add_options(dvfs: Program, source: Path) -> None:
    def added(*words: str) -> set[str]:
        version = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
        dvfs.ok("add", "-q", version, *words)
        return {line["path"] for line in lines(dvfs.ok("list", "--json")) if line["kind"] != "directory"}

    assert added("--files", "source", "--non-recursive") == {"a.txt", "run.sh"}
    assert added("--files", "source", "--dataset-folder", "x/y") == {
        "x/y/a.txt",
        "x/y/run.sh",
        "x/y/sub/b.txt",
        "x/y/sub/link",
    }
    assert added("--files", "source/*.txt", "source/s?b") == {"a.txt", "b.txt", "link"}
    assert added("--files", "source", "--exclude", "*.txt", "run*") == {"sub/link"}
    (source / ".dvfsignore").write_text("sub/\n")
    assert "sub/b.txt" not in added("--files", "source")
    shown = dvfs("add", "--files", "source/run.sh", "-v")
    assert (shown.out, shown.err) == ("1 file added\n", "run.sh\n")
    counted = json.loads(dvfs.ok("add", "--json", "--files", "source/run.sh"))
    assert [counted[name] for name in ("added", "modified", "unchanged", "skipped")] == [1, 0, 0, 0]


def test_special_files_fail_by_name(dvfs: Program, source: Path) -> None:
    os.mkfifo(source / "pipe")
    dvfs.ok("create", "--project", "p", "--name", "d")
    ran = dvfs("add", "--files", "source")
    assert ran.out == ""
    assert "pipe" in ran.err
    assert "hint: " in ran.err
    assert ran.code == 1
    assert dvfs.ok("add", "--files", "source", "--skip-special") == "4 files added\n1 file skipped\n"


def test_upload_refuses_what_changed(dvfs: Program, source: Path) -> None:
    dvfs.ok("create", "--project", "p", "--name", "d")
    dvfs.ok("add", "--files", "source")
    (source / "a.txt").write_bytes(b"changed since\n")
    ran = dvfs("upload")
    assert (ran.code, ran.out) == (1, "")
    assert "a.txt" in ran.err
    assert dvfs("close", "--disable-upload").code == 4
    assert json.loads(dvfs.ok("upload", "--refresh", "--json"))["files"] >= 1
    assert dvfs.ok("upload", "-q") == ""
    closed = json.loads(dvfs.ok("close", "--disable-upload", "--json"))
    assert (closed["status"], closed["files"], closed["bytes"]) == ("completed", 3, 524)
    assert re.fullmatch("[0-9a-f]{64}", closed["digest"])


def test_sync(dvfs: Program, source: Path) -> None:
    made_by = dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", "source")
    match = re.fullmatch(
        "Sync completed: 0 files removed, 4 added, 0 modified\n"
        r"Dataset closed and finalized id=([0-9a-f]{32}) p/d@1\.0\.0\n",
        made_by,
    )
    assert match
    first = match[1]
    reverted = "Zero modifications on local copy, reverting dataset creation.\n"
    assert dvfs.ok("sync", "--parents", first, "--folder", "source") == reverted
    assert json.loads(dvfs.ok("sync", "--parents", first, "--folder", "source", "--json")) == {
        "id": None,
        "removed": 0,
        "added": 0,
        "modified": 0,
    }
    assert [item["id"] for item in json.loads(dvfs.ok("search", "--json", "--not-only-completed"))] == [first]
    assert json.loads(dvfs.ok("use", "--json"))["id"] == first

    (source / "run.sh").unlink()
    (source / "c.txt").write_bytes(b"gamma\n")
    stat = (source / "a.txt").stat()
    (source / "a.txt").write_bytes(b"ALPHA\n")
    os.utime(source / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    done = dvfs.ok("sync", "--parents", "p/d", "--folder", "sour*", "--skip-close")
    assert done == "Sync completed: 1 files removed, 1 added, 1 modified\n"
    second = json.loads(dvfs.ok("use", "--json"))["id"]
    assert second != first
    assert dvfs.ok("sync", "--folder", "source").splitlines() == [
        "Sync completed: 0 files removed, 0 added, 0 modified",
        f"Dataset closed and finalized id={second} p/d@1.0.1",
    ]
    assert set(digests(dvfs)) == {"a.txt", "c.txt", "sub/b.txt"}


def test_sync_that_fails_leaves_no_version(dvfs: Program, source: Path) -> None:
    os.mkfifo(source / "pipe")
    assert dvfs("sync", "--project", "p", "--name", "d", "--folder", "source").code == 1
    assert json.loads(dvfs.ok("search", "--json", "--not-only-completed")) == []


def test_get(dvfs: Program, source: Path) -> None:
    version = made(dvfs, source)
    path = Path(dvfs.ok("get").removesuffix("\n"))
    assert (path / "sub" / "b.txt").read_bytes() == b"beta\n" * 100
    assert os.readlink(path / "sub" / "link") == "../a.txt"
    assert (path / "run.sh").stat().st_mode & 0o777 == 0o555
    assert (path / "a.txt").stat().st_mtime_ns == (source / "a.txt").stat().st_mtime_ns
    assert dvfs.ok("get", version) == f"{path}\n"

    assert dvfs.ok("get", "--copy", "copy") == "Dataset local copy available for files at: copy\n"
    copied = dvfs.folder / "copy"
    assert (copied / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (copied / "sub" / "empty").is_dir()
    refused = dvfs("get", "--copy", "copy")
    assert refused.code != 0
    assert refused.err.startswith("error: ")
    (copied / "stray").touch()
    assert dvfs.ok("get", "--copy", "copy", "--overwrite", "-q") == ""
    assert not (copied / "stray").exists()

    assert dvfs.ok("get", "--link", "link") == "link\n"
    assert os.readlink(dvfs.folder / "link") == str(path)
    assert dvfs.ok("get", "--link", "link") == "link\n"
    assert dvfs("get", "--link", "copy").code == 4
    assert json.loads(dvfs.ok("get", "--json")) == {"id": version, "path": str(path)}

    parts = [json.loads(dvfs.ok("get", "--json", "--part", str(part), "--num-parts", "2"))["path"] for part in (0, 1)]
    files = [{item.name for item in Path(part).rglob("*") if item.is_file()} for part in parts]
    assert files[0] & files[1] == set() or "link" in files[0] & files[1]
    assert files[0] | files[1] >= {"a.txt", "b.txt", "run.sh"}


def test_damage_exits_5_and_names_it(dvfs: Program, source: Path, tmp_path: Path) -> None:
    version = made(dvfs, source)
    record = tmp_path / "store" / "datasets" / f"{version}.json"
    for pack in (tmp_path / "store" / "packs").glob("*/*"):
        data = bytearray(pack.read_bytes())
        data[: len(data) // 2] = bytes(len(data) // 2)
        pack.chmod(0o644)
        pack.write_bytes(data)
    fresh = {"DVFS_CACHE_DIR": str(tmp_path / "fresh")}
    ran = dvfs("list", environ=fresh)
    assert ran.code == 5, ran
    for generation in [record, *(tmp_path / "store" / "generations").rglob(f"{version}*")]:
        if generation.stat().st_size:
            generation.chmod(0o644)
            generation.write_bytes(b"{}")
    ran = dvfs("list", environ=fresh)
    assert (ran.code, version in ran.err) == (5, True)


def test_a_store_out_of_reach_exits_6(dvfs: Program) -> None:
    environ = {
        "DVFS_STORE": "s3://bucket/prefix",
        "DVFS_S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "DVFS_S3_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
    }
    started = time.monotonic()
    ran = dvfs("search", "--json", environ=environ)
    assert (ran.code, ran.out) == (6, "")
    assert json.loads(ran.err)["error"]["kind"] == "unavailable"
    assert time.monotonic() - started < 60


def test_sync_of_an_empty_directory_and_of_a_mode_is_a_change(dvfs: Program, source: Path) -> None:
    first = dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", "source", "--json")
    (source / "empty").mkdir()
    child = json.loads(dvfs.ok("sync", "--parents", json.loads(first)["id"], "--folder", "source", "--json"))
    assert child["version"] == "1.0.1"
    (source / "empty").chmod(0o700)
    again = json.loads(dvfs.ok("sync", "--parents", child["id"], "--folder", "source", "--json"))
    assert again["version"] == "1.0.2"
    assert dvfs.ok("sync", "--parents", again["id"], "--folder", "source").startswith("Zero modifications")


def test_words_of_clearml_that_have_little_to_do(dvfs: Program, source: Path) -> None:
    deep = dvfs.ok("create", "--project", "p/deep", "--name", "e", "-q").strip()
    first = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", "--files", source, "--max-workers", "3")
    dvfs.ok("close")
    search = ["search", "--not-only-completed", "--json", "--project", "p"]
    assert [item["id"] for item in json.loads(dvfs.ok(*search))] == [deep, first]
    assert [item["id"] for item in json.loads(dvfs.ok(*search, "--non-recursive-project-search"))] == [first]
    assert dvfs.ok("squash", "--name", "flat", "--ids", first, "--verbose").startswith("Squashing completed")
