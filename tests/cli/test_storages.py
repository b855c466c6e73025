"""`--storage`: data in another place than the record, also of another kind, from the commands to the mount."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.url import open_backend
from tests.cli.conftest import Program, tree
from tests.store_kit import tree_of

EDITED = b"edited\n"


@pytest.fixture
def unmounted(dvfs: Program) -> Iterator[None]:
    """What is mounted at the end is taken away."""
    yield
    assert dvfs("umount", "--all", "--lazy").code == 0


@pytest.fixture(params=["folder and s3", "s3 and folder", "folder and folder"])
def elsewhere(dvfs: Program, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage beside the store of *dvfs*, each of a kind."""
    kinds = request.param.split(" and ")
    urls = [
        f"{request.getfixturevalue('s3_url')}/{name}" if kind == "s3" else f"file://{tmp_path}/{name}"
        for kind, name in zip(kinds, ("store", "elsewhere"), strict=True)
    ]
    dvfs.environ |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    dvfs.environ["DVFS_STORE"] = urls[0]
    return urls[1]


def packs_in(url: str, version: str = "") -> set[str]:
    """Return the ids of the packs in the storage *url*, those of *version*."""
    with closing(open_backend(url)) as backend:
        found = {item.key.rpartition("/")[2] for item in backend.list("packs/")}
    return {pack for pack in found if pack.startswith(version)}


def remove_packs(url: str) -> None:
    with closing(open_backend(url)) as backend:
        for item in list(backend.list("packs/")):
            backend.delete(item.key)


def record_of(url: str, version: str) -> dict[str, object]:
    with closing(open_backend(url)) as backend:
        record: dict[str, object] = json.loads(backend.get(f"datasets/{version}.json").data)
    return record


def content(folder: Path) -> dict[bytes, object]:
    return {path: (row[0], row[3]) for path, row in tree_of(folder).items() if path}


# --- from create to the mount, and on


@pytest.mark.usefixtures("unmounted")
def test_a_version_elsewhere_is_like_any_other(dvfs: Program, elsewhere: str, source: Path) -> None:
    store = dvfs.environ["DVFS_STORE"]
    made = dvfs.ok("create", "--project", "p", "--name", "d", "--storage", elsewhere, "-q").strip()
    dvfs.ok("add", "--files", "source")
    dvfs.ok("upload")
    dvfs.ok("close")
    assert len(packs_in(elsewhere, made)) == 1
    assert set(record_of(store, made)["storages"].values()) == {".", elsewhere}  # type: ignore[attr-defined]

    shutil.rmtree(dvfs.environ["DVFS_CACHE_DIR"])
    dvfs.ok("get", "--id", made, "--copy", "copy")
    assert content(dvfs.folder / "copy") == content(source)
    assert dvfs("verify", made).code == 0
    assert "3 files" in dvfs.ok("list", made)

    shutil.rmtree(dvfs.environ["DVFS_CACHE_DIR"])
    ran = dvfs.process("mount", made, "mnt", "--rw")
    assert (ran.code, ran.err) == (0, "")
    mounted = dvfs.folder / "mnt"
    assert content(mounted) == content(source)
    (mounted / "a.txt").write_bytes(EDITED)
    (mounted / "sub/b.txt").rename(mounted / "moved")
    ran = dvfs.process("commit", "mnt", "-q")
    assert (ran.code, ran.err) == (0, "")
    child = ran.out.strip()
    assert (mounted / "moved").read_bytes() == (source / "sub/b.txt").read_bytes()
    assert (mounted / "a.txt").read_bytes() == EDITED
    dvfs.ok("umount", "mnt")
    assert packs_in(elsewhere, child) == set()
    assert len(packs_in(store, child)) == 2

    shutil.rmtree(dvfs.environ["DVFS_CACHE_DIR"])
    assert dvfs.process("mount", child, "mnt").code == 0
    expected = content(mounted)
    assert expected[b"moved"] == content(source)[b"sub/b.txt"]
    assert "1 files modified" in dvfs.ok("compare", made, child)
    assert dvfs.ok("diff", made, child)
    dvfs.ok("umount", "mnt")

    third = f"file://{dvfs.folder}/third"
    squashed = dvfs.ok("squash", "--name", "all", "--ids", child, "--storage", "third", "-q").strip()
    assert set(record_of(store, squashed)["storages"].values()) == {".", third}  # type: ignore[attr-defined]
    remove_packs(elsewhere)
    shutil.rmtree(dvfs.environ["DVFS_CACHE_DIR"])
    assert dvfs("verify", child).code == 5
    assert dvfs("verify", squashed).code == 0
    assert dvfs.process("mount", squashed, "mnt").code == 0
    assert content(mounted) == expected


def test_the_former_name_of_the_option(dvfs: Program, source: Path, tmp_path: Path) -> None:
    words = ["--project", "p", "--name", "d", "--output-uri", str(tmp_path / "elsewhere")]
    dvfs.ok("create", *words)
    dvfs.ok("add", "--files", source / "a.txt")
    dvfs.ok("close")
    dvfs.ok("sync", *words, "--folder", source, "--parents", "p/d")
    assert len(packs_in(str(tmp_path / "elsewhere"))) == 2


def test_a_sync_remembers_it_for_the_close(dvfs: Program, elsewhere: str, source: Path) -> None:
    words = ["sync", "--project", "p", "--name", "d", "--folder", "source", "--storage", elsewhere]
    dvfs.ok(*words, "--skip-close", "-q")
    (source / "more").write_bytes(b"more")
    dvfs.ok("add", "--files", "source/more")
    made = json.loads(dvfs.ok("close", "--json"))["id"]
    assert len(packs_in(elsewhere, made)) == 2
    said = dvfs.ok(*words, "--parents", made)
    assert said == "Zero modifications on local copy, reverting dataset creation.\n"


@pytest.mark.parametrize("command", ["upload", "close", "sync"])
def test_the_one_that_uploads_says_where(dvfs: Program, source: Path, command: str) -> None:
    made = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", "--files", "source/a.txt")
    dvfs.ok("upload")
    dvfs.ok("add", "--files", "source")
    words = ["--folder", "source"] if command == "sync" else []
    dvfs.ok(command, "--storage", "~/elsewhere", *words)
    if command == "upload":
        dvfs.ok("close")
    assert len(packs_in(dvfs.environ["HOME"] + "/elsewhere", made)) == 1
    dvfs.ok("get", "--id", made, "--copy", "copy")
    assert content(dvfs.folder / "copy") == content(source)


# --- squash


def test_a_squash_moves_no_bytes_unless_a_storage_is_named(dvfs: Program, source: Path, tmp_path: Path) -> None:
    one = dvfs.ok("create", "--project", "p", "--name", "one", "--storage", tmp_path / "one", "-q").strip()
    dvfs.ok("add", "--files", "source")
    dvfs.ok("close")
    dvfs.ok("sync", "--parents", one, "--name", "two", "--folder", tree(dvfs.folder / "x"), "--dataset-folder", "x")
    before = {url: packs_in(str(tmp_path / url)) for url in ("one", "store")}
    dvfs.ok("squash", "--name", "s", "--ids", "p/two", "-q")
    assert {url: packs_in(str(tmp_path / url)) for url in ("one", "store")} == before
    ran = dvfs("squash", "--name", "s", "--ids", "p/two", "--storage", tmp_path / "target", "-v", "--json")
    assert (ran.code, sorted(ran.err.splitlines())) == (
        0, ["a.txt", "run.sh", "sub/b.txt", "x/a.txt", "x/run.sh", "x/sub/b.txt"]
    )  # fmt: skip
    assert ran.json["version"] == "1.0.1"
    assert len(packs_in(str(tmp_path / "target"), ran.json["id"])) == 1


# --- what does not work


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/prefix", "a store URL holds no credentials"),
        ("ftp://host/x", "unsupported store URL ftp://host/x"),
        ("s3://", "s3:// names no bucket"),
        ("", "the store URL is empty or holds a NUL byte"),
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        lambda made: ["create", "--project", "p", "--name", "d"],
        lambda made: ["upload", "--id", made],
        lambda made: ["close", "--id", made],
        lambda made: ["sync", "--project", "p", "--name", "d", "--folder", "source"],
        lambda made: ["sync", "--id", made, "--folder", "source"],
        lambda made: ["squash", "--name", "d", "--ids", "p/done"],
    ],
)
@pytest.mark.usefixtures("source")
def test_what_is_no_storage_is_refused(dvfs: Program, url: str, said: str, words: Callable[[str], list[str]]) -> None:
    dvfs.ok("sync", "--project", "p", "--name", "done", "--folder", "source")
    made = dvfs.ok("create", "--project", "p", "--name", "open", "-q").strip()
    before = dvfs.ok("search", "--not-only-completed", "--json")
    ran = dvfs(*words(made), "--storage", url)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == f"error: {said}"
    assert "secret" not in ran.err
    assert dvfs.ok("search", "--not-only-completed", "--json") == before
