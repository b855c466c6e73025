"""Links to files that stay where they are: added, listed, read, verified, compared and removed by the commands."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dvfs.store.url import open_backend
from tests.cli.conftest import Program
from tests.cli.test_content import FINE, made, paths, write
from tests.http_server import HttpServer
from tests.store.noise import noise

DATA = noise(3_000_000, 1)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as running:
        yield running


@pytest.fixture
def dvfs(dvfs: Program) -> Program:
    """The program, allowed to read files in `here`."""
    (dvfs.folder / "here").mkdir()
    dvfs.environ["DVFS_FILE_LINKS"] = str(dvfs.folder / "here")
    dvfs.environ["DVFS_RETRY_DEADLINE"] = "0.001"
    return dvfs


def linked(dvfs: Program, *words: str) -> str:
    """Make a finished version of what `add` takes by *words*; return its id."""
    made = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", *words)
    dvfs.ok("close", "-q")
    return made


def listed(dvfs: Program, *words: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in dvfs.ok("list", "--json", *words).splitlines()]
    return {line["path"]: line for line in lines if line["kind"] != "directory"}


def copied(dvfs: Program, dataset: str = "p/d", cache: str = "fresh cache") -> dict[str, bytes]:
    target = dvfs.folder / "copied"
    dvfs.ok("get", dataset, "--copy", target, "--overwrite", "-q", environ={"DVFS_CACHE_DIR": str(dvfs.folder / cache)})
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_links_of_every_kind_are_read_like_files(dvfs_anywhere: Program, server: HttpServer, s3_url: str) -> None:
    dvfs = dvfs_anywhere
    dvfs.environ |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    dvfs.environ["DVFS_FILE_LINKS"] = str(dvfs.folder)
    write(dvfs.folder / "here", {"sub/x": "local"})
    write(dvfs.folder / "own", {"own": "own", "away/page": "hidden by the link"})
    with closing(open_backend(s3_url)) as bucket:
        bucket.put_if_absent("data/one.bin", DATA)
        bucket.put_if_absent("data/deep/two.txt", b"two")
    page = server.put("/page", b"of http")
    dvfs.ok("create", "--project", "p", "--name", "d")
    dvfs.ok("add", "--files", "own")
    dvfs.ok("upload")
    urls = (f"file://{dvfs.folder}/here", f"{s3_url}/data", page)
    assert dvfs.ok("add", "--links", *urls, "--dataset-folder", "away") == "3 files added\n1 file modified\n"
    expected = {
        "own": b"own",
        "away/sub/x": b"local",
        "away/one.bin": DATA,
        "away/deep/two.txt": b"two",
        "away/page": b"of http",
    }
    assert paths(dvfs) == set(expected)
    dvfs.ok("close")
    assert copied(dvfs) == expected
    assert {path: line.get("link") for path, line in listed(dvfs).items()} == {
        "own": None,
        "away/sub/x": f"file://{dvfs.folder}/here/sub/x",
        "away/one.bin": f"{s3_url}/data/one.bin",
        "away/deep/two.txt": f"{s3_url}/data/deep/two.txt",
        "away/page": page,
    }
    assert dvfs.ok("verify") == FINE
    assert dvfs.ok("verify", "--folder", "copied") == FINE
    assert dvfs.ok("list").splitlines()[-1] == f"Total 5 files, {sum(map(len, expected.values()))} bytes"


def test_adding_reads_no_content(dvfs: Program, server: HttpServer) -> None:
    url = server.put("/a", DATA)
    dvfs.ok("create", "--project", "p", "--name", "d")
    assert dvfs.ok("add", "--links", url) == "1 file added\n"
    assert dvfs.ok("add", "--links", url, "--dataset-folder", "again", "--json")
    dvfs.ok("close")
    assert {request.method for request in server.requests} == {"HEAD"}
    assert copied(dvfs) == {"a": DATA, "again/a": DATA}
    assert len(server.asked("GET")) == 1  # of one target, whatever its paths are


def test_adding_again_tells_what_changed(dvfs: Program, server: HttpServer) -> None:
    url = server.put("/a", b"one")
    linked(dvfs, "--links", url)
    digest = dvfs.ok("use", "--json")
    dvfs.ok("create", "--project", "p", "--name", "d", "--parents", "p/d")
    assert json.loads(dvfs.ok("add", "--links", url, "--json")) | {"id": ""} == {
        "id": "", "added": 0, "modified": 0, "unchanged": 1, "skipped": 0,
    }  # fmt: skip
    dvfs.ok("close")
    records = [json.loads(dvfs.ok("list", "--json", f"p/d@1.0.{n}").splitlines()[1]) for n in (0, 1)]
    assert records[0] == records[1]  # the time of adding stays as well
    assert dvfs.ok("compare", "p/d@1.0.0", "p/d@1.0.1", "-q").startswith("Comparison summary: 0 files removed, 0 ")
    server.put("/a", b"two")
    dvfs.ok("create", "--project", "p", "--name", "d", "--parents", "p/d")
    assert dvfs.ok("add", "--links", url) == "0 files added\n1 file modified\n"
    dvfs.ok("close")
    assert copied(dvfs) == {"a": b"two"}
    assert dvfs.ok("compare", "p/d@1.0.1", "p/d@1.0.2").splitlines()[1] == "modified: a (3 bytes -> 3 bytes)"
    assert digest


def test_same_links_are_the_same_digest(dvfs: Program, server: HttpServer) -> None:
    """Whoever adds them, and whenever."""
    url = server.put("/a", b"one")
    digests = []
    for _ in range(2):
        made = linked(dvfs, "--links", url)
        digests.append(listed(dvfs, made)["a"]["digest"])
    assert len(set(digests)) == 1
    assert dvfs.ok("compare", "p/d@1.0.0", "p/d@1.0.1") == (
        "Comparison summary: 0 files removed, 0 files modified, 0 files added\n"
    )


def test_wildcards_and_folders(dvfs: Program) -> None:
    write(dvfs.folder / "here", {"a.txt": "1", "b.bin": "2", "sub/c.txt": "3"})
    url = f"file://{dvfs.folder}/here"
    dvfs.ok("create", "--project", "p", "--name", "d")
    assert dvfs.ok("add", "--links", url, "--wildcard", "*.txt", "--json")
    assert paths(dvfs) == {"a.txt", "sub/c.txt"}
    dvfs.ok("remove", "--files", "*")
    dvfs.ok("add", "--links", url, "--non-recursive", "--dataset-folder", "x")
    assert paths(dvfs) == {"x/a.txt", "x/b.bin"}
    ran = dvfs("add", "--links", f"{url}/sub/c.txt", "-v")
    assert (ran.code, ran.err) == (0, "c.txt\n")


def test_links_are_removed_by_path_and_by_url(dvfs: Program, server: HttpServer) -> None:
    urls = [server.put(f"/{name}", name.encode()) for name in ("a", "b", "c.txt")]
    linked(dvfs, "--links", *urls)
    dvfs.ok("create", "--project", "p", "--name", "d", "--parents", "p/d")
    dvfs.ok("add", "--links", server.put("/staged", b"x"), "--dataset-folder", "s")
    assert dvfs.ok("remove", "--files", urls[0]) == "1 file removed\n"
    assert dvfs.ok("remove", "--files", f"{server.url}/*.txt") == "1 file removed\n"
    assert dvfs.ok("remove", "--files", f"{server.url}/staged") == "1 file removed\n"
    assert dvfs.ok("remove", "--files", "http://elsewhere/*") == "0 files removed\n"
    assert paths(dvfs) == {"b"}
    dvfs.ok("remove", "--files", "b")
    dvfs.ok("close")
    assert copied(dvfs) == {}


def test_links_and_files_take_each_others_place(dvfs: Program, server: HttpServer) -> None:
    url = server.put("/a", b"linked")
    made(dvfs, {"a": "own", "b": "own too"})
    dvfs.ok("create", "--project", "p", "--name", "d", "--parents", "p/d")
    dvfs.ok("add", "--links", url)
    dvfs.ok("close")
    assert copied(dvfs) == {"a": b"linked", "b": b"own too"}
    dvfs.ok("create", "--project", "p", "--name", "d", "--parents", "p/d")
    dvfs.ok("add", "--links", url, "--dataset-folder", "b")  # a folder where a file was
    dvfs.ok("add", "--files", write(dvfs.folder / "own", {"a": "own again"}))
    dvfs.ok("close")
    assert copied(dvfs) == {"a": b"own again", "b/a": b"linked"}
    assert [line.get("link") for line in listed(dvfs).values()] == [None, url]


def test_links_are_inherited_merged_and_squashed(dvfs: Program, server: HttpServer) -> None:
    one = linked(dvfs, "--links", server.put("/a", b"one"), server.put("/b", b"b"))
    server_two = server.put("/two/a", b"two")
    two = linked(dvfs, "--links", server_two)
    dvfs.ok("create", "--project", "p", "--name", "merged", "--parents", one, two)
    dvfs.ok("close")
    assert copied(dvfs, "p/merged") == {"a": b"two", "b": b"b"}
    dvfs.ok("squash", "--name", "squashed", "--ids", one, two)
    assert copied(dvfs, "p/squashed") == {"a": b"two", "b": b"b"}
    assert listed(dvfs, "p/squashed")["a"]["link"] == server_two
    assert dvfs.ok("verify", "p/squashed") == FINE


def test_a_squash_into_a_storage_leaves_links_where_they_are(dvfs: Program, server: HttpServer) -> None:
    url = server.put("/a", DATA)
    write(dvfs.folder / "own", {"own": "own"})
    made = linked(dvfs, "--files", "own", "--links", url)
    before = len(server.requests)
    dvfs.ok("squash", "--ids", made, "--project", "p", "--name", "all", "--storage", "elsewhere", "-q")
    assert len(server.requests) == before
    assert listed(dvfs, "p/all")["a"]["link"] == url
    assert copied(dvfs, "p/all") == {"own": b"own", "a": DATA}
    expected = "Comparison summary: 0 files removed, 0 files modified, 0 files added\n"
    assert dvfs.ok("compare", made, "p/all") == expected


def test_sync_puts_files_in_the_place_of_links(dvfs: Program, server: HttpServer) -> None:
    linked(dvfs, "--links", server.put("/a", b"one"), server.put("/b", b"b"))
    dvfs.ok("get", "p/d", "--copy", "copy", "-q")
    assert "Zero modifications" in dvfs.ok("sync", "--parents", "p/d", "--folder", "copy")
    write(dvfs.folder / "copy", {"a": "changed"})
    (dvfs.folder / "copy" / "b").unlink()
    assert "1 files removed, 0 added, 1 modified" in dvfs.ok("sync", "--parents", "p/d", "--folder", "copy")
    server.stop()
    assert copied(dvfs) == {"a": b"changed"}
    server.start_again()


@pytest.mark.parametrize("change", ["same size", "longer", "gone"])
def test_a_target_that_changed_is_named(dvfs: Program, server: HttpServer, change: str) -> None:
    url = server.put("/a", b"before")
    pin = server.objects["/a"].etag
    linked(dvfs, "--links", url, server.put("/b", b"b"))
    if change == "gone":
        del server.objects["/a"]
        why = f"{url} is gone; it was added as {pin}, 6 bytes"
    else:
        data = b"after!" if change == "same size" else b"before and after"
        server.put("/a", data)
        why = (
            f"{url} has changed: it was added as {pin}, 6 bytes, and is {server.objects['/a'].etag}, {len(data)} bytes"
        )
    ran = dvfs("get", "p/d", "--copy", "out")
    assert ran.code == 5
    assert f"error: a: {why}\nhint: " in ran.err
    assert ran.err.count("warning:") == 1
    assert not (dvfs.folder / "out").exists()
    for words in (("verify",), ("verify", "--filesize")):
        ran = dvfs(*words)
        assert (ran.code, ran.out) == (5, f"a: {why}\nDataset verification completed, 1 error found!\n")


def test_a_server_that_does_not_answer_is_no_damage(dvfs: Program, server: HttpServer) -> None:
    linked(dvfs, "--links", server.put("/a", b"a"))
    server.stop()
    for words in (("get", "--copy", "out"), ("verify",)):
        ran = dvfs(*words)
        assert ran.code == 6
        assert f"{server.url}/a" in ran.err
    server.start_again()
    server.statuses["/a"] = 403
    assert dvfs("verify").code == 6
    server.statuses.clear()
    assert dvfs.ok("verify") == FINE


def test_a_copy_is_verified_by_its_bytes(dvfs: Program, server: HttpServer) -> None:
    linked(dvfs, "--links", server.put("/a", DATA), server.put("/empty", b""))
    copied(dvfs)
    local = dvfs.folder / "copied" / "a"
    local.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    ran = dvfs("verify", "--folder", "copied")
    assert (ran.code, ran.out.splitlines()[0]) == (5, "a: its bytes are not those of the external file")
    assert dvfs.ok("verify", "--folder", "copied", "--filesize") == FINE
    local.write_bytes(DATA[:-1])
    assert dvfs("verify", "--folder", "copied").out.startswith("a: it has 2999999 bytes, not 3000000\n")


def test_warm_brings_links_into_the_cache(dvfs: Program, server: HttpServer) -> None:
    linked(dvfs, "--links", server.put("/a", DATA))
    dvfs.ok("warm", "-q")
    server.stop()
    assert copied(dvfs, cache=str(Path(dvfs.environ["DVFS_CACHE_DIR"]))) == {"a": DATA}
    server.start_again()


def test_files_of_this_machine_need_leave(dvfs: Program) -> None:
    write(dvfs.folder / "here", {"a": "mine"})
    (dvfs.folder / "here" / "up").symlink_to("..")
    write(dvfs.folder, {"secret": "secret"})
    dvfs.ok("create", "--project", "p", "--name", "d")
    for url in (f"file://{dvfs.folder}/secret", f"file://{dvfs.folder}/here/up/secret", "file:///etc/passwd"):
        ran = dvfs("add", "--links", url)
        assert ran.code == 6
        assert "file_links" in ran.err
        assert "hint: " in ran.err
    dvfs.ok("add", "--links", f"file://{dvfs.folder}/here/a")
    dvfs.ok("close")
    assert copied(dvfs) == {"a": b"mine"}
    for folders in ("", str(dvfs.folder / "elsewhere")):
        ran = dvfs("get", "--copy", "out", environ={"DVFS_FILE_LINKS": folders})
        assert ran.code == 6
        assert "file_links" in ran.err
        assert not (dvfs.folder / "out").exists()
    del dvfs.environ["DVFS_FILE_LINKS"]
    dvfs.ok("config", "file_links", f"/nowhere:{dvfs.folder}/here")
    assert copied(dvfs) == {"a": b"mine"}
    ran = dvfs("config", "file_links", "here")
    assert (ran.code, "no absolute paths" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("url", "code", "word"),
    [
        ("path", 2, "supported: s3://"),
        ("ftp://host/x", 2, "supported: s3://"),
        ("http://user:password@host/x", 2, "holds no credentials"),
        ("https://host/x?X-Amz-Signature=abc", 2, "holds a credential"),
        ("FOLDER/", 2, "name each file"),
        ("FOLDER/none", 1, "404"),
        ("FOLDER/unpinned", 2, "neither a strong ETag nor a Last-Modified"),
    ],
)
def test_what_cannot_be_linked_is_named(dvfs: Program, server: HttpServer, url: str, code: int, word: str) -> None:
    server.put("/unpinned", b"x", etag=None)
    fine = server.put("/fine", b"x")
    dvfs.ok("create", "--project", "p", "--name", "d")
    ran = dvfs("add", "--links", fine, url.replace("FOLDER", server.url))
    assert ran.code == code
    assert word in ran.err
    assert "password" not in ran.err
    assert paths(dvfs) == set()  # all or none


def test_add_names_something(dvfs: Program) -> None:
    dvfs.ok("create", "--project", "p", "--name", "d")
    ran = dvfs("add")
    assert (ran.code, "--files or --links" in ran.err) == (2, True)


# --- mounts


@pytest.fixture
def mounting(dvfs: Program) -> Iterator[Program]:
    """The program; what is mounted at the end is taken away."""
    yield dvfs
    assert dvfs("umount", "--all", "--lazy").code == 0


def test_a_mount_reads_links_as_they_are_asked_for(mounting: Program, server: HttpServer) -> None:
    dvfs = mounting
    write(dvfs.folder / "here", {"x": "local"})
    url = server.put("/a", DATA)
    linked(dvfs, "--links", url, f"file://{dvfs.folder}/here/x", server.put("/gone", b"g"), server.put("/e", b""))
    ran = dvfs.process("mount", "p/d", "mnt", "--prefetch", "none", "--json")
    assert (ran.code, ran.err) == (0, "")
    top = dvfs.folder / "mnt"
    assert {path.name: path.stat().st_size for path in top.iterdir()} == {"a": len(DATA), "x": 5, "gone": 1, "e": 0}
    assert server.asked("GET") == []
    assert os.getxattr(top / "a", "user.dvfs.link") == url.encode()
    assert os.getxattr(top / "a", "user.dvfs.digest").decode() == listed(dvfs)["a"]["digest"]
    assert "user.dvfs.link" in os.listxattr(top / "a")
    with (top / "a").open("rb") as file:
        file.seek(2_500_000)
        assert file.read(10) == DATA[2_500_000:2_500_010]
    assert [request.headers["range"] for request in server.asked("GET")] == ["bytes=2097152-2999999"]
    assert (top / "x").read_bytes() == b"local"
    assert (top / "e").read_bytes() == b""
    del server.objects["/gone"]
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            (top / "gone").read_bytes()
    assert (top / "a").read_bytes() == DATA
    told = [line for line in Path(ran.json["log"]).read_text().splitlines() if f"{server.url}/gone is gone" in line]
    found = [re.search(r"WARNING (\S+):", line) for line in told]
    assert [match and match[1] for match in found] == ["dvfs.store.fetch", "dvfs.fs.operations"]


def test_an_open_file_whose_target_changes_is_an_error_and_no_mixture(mounting: Program, server: HttpServer) -> None:
    dvfs = mounting
    url = server.put("/a", DATA)
    linked(dvfs, "--links", url)
    assert dvfs.process("mount", "p/d", "mnt", "--prefetch", "none").code == 0
    path = dvfs.folder / "mnt" / "a"
    handle = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(handle, 100, 2_900_000) == DATA[2_900_000:2_900_100]
        server.put("/a", DATA[::-1])
        with pytest.raises(OSError, match="Input/output"):
            os.pread(handle, 100, 100)
        server.stop()
        with pytest.raises(OSError, match="Input/output"):
            os.pread(handle, 100, 100)
        server.start_again()
        server.put("/a", DATA)
        assert os.pread(handle, 100, 100) == DATA[100:200]
    finally:
        os.close(handle)
    assert path.read_bytes() == DATA


def test_an_edited_link_becomes_a_file_by_commit(mounting: Program, server: HttpServer) -> None:
    dvfs = mounting
    names = ("edited", "cut", "renamed", "appended", "kept", "small", "mode")
    urls = [server.put(f"/{name}", b"small" if name == "small" else DATA + name.encode()) for name in names]
    linked(dvfs, "--links", *urls)
    assert dvfs.process("mount", "p/d", "mnt", "--rw").code == 0
    top = dvfs.folder / "mnt"
    expected = {name: DATA + name.encode() for name in names} | {"small": b"sMall"}
    with (top / "edited").open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"new bytes")
    expected["edited"] = DATA[:1_500_000] + b"new bytes" + DATA[1_500_009:] + b"edited"
    os.truncate(top / "cut", 2_000_000)
    expected["cut"] = DATA[:2_000_000]
    with (top / "appended").open("ab") as file:
        file.write(b"more")
    expected["appended"] += b"more"
    with (top / "small").open("r+b") as file:
        file.seek(1)
        file.write(b"M")
    (top / "renamed").rename(top / "moved")
    expected["moved"] = expected.pop("renamed")
    (top / "mode").chmod(0o600)
    assert os.getxattr(top / "moved", "user.dvfs.link") == f"{server.url}/renamed".encode()
    with pytest.raises(OSError, match="No data"):
        os.getxattr(top / "edited", "user.dvfs.link")
    ran = dvfs.process("commit", "mnt", "-m", "edits")
    assert (ran.code, ran.err) == (0, "")
    assert {path.name: path.read_bytes() for path in top.iterdir()} == expected
    assert os.getxattr(top / "moved", "user.dvfs.link") == f"{server.url}/renamed".encode()
    dvfs.ok("umount", "mnt")
    links = {path: line.get("link", "") for path, line in listed(dvfs, "p/d@1.0.1").items()}
    assert {path for path, link in links.items() if link} == {"kept", "moved", "mode"}
    assert links["moved"] == f"{server.url}/renamed"
    assert copied(dvfs, "p/d@1.0.1") == expected
    assert dvfs.ok("verify", "p/d@1.0.1") == FINE
    server.objects.clear()  # what was edited needs the targets no more
    assert dvfs.process("mount", "p/d@1.0.1", "again", environ={"DVFS_CACHE_DIR": str(dvfs.folder / "new")}).code == 0
    for name in ("edited", "cut", "appended", "small"):
        assert (dvfs.folder / "again" / name).read_bytes() == expected[name]
    with pytest.raises(OSError, match="Input/output"):
        (dvfs.folder / "again" / "kept").read_bytes()


def test_a_commit_that_cannot_read_a_target_fails_and_can_be_repeated(mounting: Program, server: HttpServer) -> None:
    dvfs = mounting
    url = server.put("/a", DATA)
    linked(dvfs, "--links", url)
    assert dvfs.process("mount", "p/d", "mnt", "--rw", "--prefetch", "none").code == 0
    with (dvfs.folder / "mnt" / "a").open("r+b") as file:
        file.write(b"X" * 4096)
    server.put("/a", DATA[::-1])
    ran = dvfs.process("commit", "mnt")
    assert ran.code == 5
    assert f"{url} has changed" in ran.err
    server.put("/a", DATA)
    assert dvfs.process("commit", "mnt").code == 0
    assert copied(dvfs, "p/d@1.0.1") == {"a": b"X" * 4096 + DATA[4096:]}


def test_a_mount_does_not_follow_links_of_others_to_files_of_this_machine(mounting: Program) -> None:
    """Somebody allowed it to himself; who mounts the version has not."""
    dvfs = mounting
    write(dvfs.folder / "here", {"a": "mine"})
    linked(dvfs, "--links", f"file://{dvfs.folder}/here/a")
    ran = dvfs.process("mount", "p/d", "mnt", "--json", environ={"DVFS_FILE_LINKS": ""})
    assert (ran.code, ran.err) == (0, "")
    with pytest.raises(OSError, match="Input/output"):
        (dvfs.folder / "mnt" / "a").read_bytes()
    assert "only from folders that the setting file_links names" in Path(ran.json["log"]).read_text()
    dvfs.ok("umount", "mnt")
    assert dvfs.process("mount", "p/d", "mnt").code == 0
    assert (dvfs.folder / "mnt" / "a").read_bytes() == b"mine"
