"""Stores in Google Cloud Storage and in Azure, from the command line: every command, real mounts, faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.url import open_backend
from tests.cli.conftest import Program, tree
from tests.store.noise import noise

BIG = noise(3 << 20)


@pytest.fixture
def dvfs_there(dvfs_cloud: Program) -> Iterator[Program]:
    """The program on a store of each kind; what is mounted at the end is taken away."""
    yield dvfs_cloud
    assert dvfs_cloud("umount", "--all", "--lazy").code == 0


def made(dvfs: Program) -> str:
    """Make the version p/d@1.0.0 of a small tree and a big file; return its id."""
    source = tree(dvfs.folder / "source")
    (source / "big.bin").write_bytes(BIG)
    version = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", "--files", "source")
    dvfs.ok("upload")
    dvfs.ok("close")
    return version


def files_in(top: Path) -> dict[str, bytes]:
    """Return path → bytes of all files below *top*."""
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def mounted(dvfs: Program, *words: str) -> Path:
    ran = dvfs.process("mount", *words, "mnt")
    assert (ran.code, ran.err) == (0, "")
    return dvfs.folder / "mnt"


def test_from_create_to_delete(dvfs_there: Program, cloud_url: str) -> None:
    dvfs = dvfs_there
    first = made(dvfs)
    source = files_in(dvfs.folder / "source")
    dvfs.environ["DVFS_CACHE_DIR"] = str(dvfs.folder / "empty-cache")
    mount = mounted(dvfs, "p/d")
    assert files_in(mount) == source
    assert os.readlink(mount / "sub" / "link") == "../a.txt"
    dvfs.ok("umount", "mnt")

    mount = mounted(dvfs, "p/d", "--rw")
    (mount / "a.txt").write_bytes(b"edited\n")
    (mount / "sub" / "b.txt").unlink()
    with open(mount / "big.bin", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"in place")
    edited = files_in(mount)
    committed = dvfs.process("commit", "mnt", "--json")
    assert (committed.code, committed.err) == (0, "")
    second = committed.json["id"]
    assert committed.json["version"] == "1.0.1"
    dvfs.ok("umount", "mnt")

    dvfs.environ["DVFS_CACHE_DIR"] = str(dvfs.folder / "another-cache")
    assert files_in(mounted(dvfs, second)) == edited
    dvfs.ok("umount", "mnt")
    dvfs.ok("get", "--id", second[:8], "--copy", "copy")
    assert files_in(dvfs.folder / "copy") == edited

    assert {row["id"] for row in json.loads(dvfs.ok("search", "--json"))} == {first, second}
    assert "sub/b.txt" in dvfs.ok("list", "--id", first)
    assert "sub/b.txt" not in dvfs.ok("list", "--id", second)
    assert "1" in dvfs.ok("compare", first, second)
    dvfs.ok("verify", "--id", second)
    dvfs.ok("tag", second, "+good")
    dvfs.ok("rename", "p/d", "--new-name", "e")
    assert [row["id"] for row in json.loads(dvfs.ok("search", "--tags", "good", "--name", "e", "--json"))] == [second]
    assert dvfs("delete", "--id", second, "--yes").code == 0
    assert [row["id"] for row in json.loads(dvfs.ok("search", "--json"))] == [first]
    assert files_in(mounted(dvfs, first)) == source
    assert [run["did"] for run in json.loads(dvfs.ok("runs", first, "--json"))] == 3 * ["mounted"] + ["made"]


def test_data_and_external_files_in_a_cloud(dvfs_there: Program, cloud_url: str) -> None:
    """The store is a folder; packs, and the objects that links name, are in the cloud."""
    dvfs = dvfs_there
    dvfs.environ["DVFS_STORE"] = str(dvfs.folder / "store")
    tree(dvfs.folder / "source")
    with closing(open_backend(cloud_url)) as bucket:
        bucket.put_if_absent("raw/one.bin", BIG)
        bucket.put_if_absent("raw/deep/two.txt", b"two")
    made = dvfs.ok("create", "--project", "p", "--name", "d", "--storage", f"{cloud_url}/packs", "-q").strip()
    dvfs.ok("add", "--files", "source")
    dvfs.ok("add", "--links", f"{cloud_url}/raw", "--dataset-folder", "raw")
    dvfs.ok("close")
    dvfs.ok("squash", "--ids", made, "--project", "p", "--name", "all", "--storage", f"{cloud_url}/copy", "-q")
    expected = files_in(dvfs.folder / "source") | {"raw/one.bin": BIG, "raw/deep/two.txt": b"two"}
    for number, dataset in enumerate(("p/d", "p/all")):
        dvfs.environ["DVFS_CACHE_DIR"] = str(dvfs.folder / f"cache-{number}")
        try:
            assert files_in(mounted(dvfs, dataset)) == expected
        finally:
            dvfs.ok("umount", "mnt")
        dvfs.ok("verify", dataset)
    with closing(open_backend(cloud_url)) as bucket:
        assert list(bucket.list("packs/packs/"))
        assert list(bucket.list("copy/packs/"))
        old = bucket.head("raw/one.bin")
        bucket.replace_if("raw/one.bin", BIG[::-1], old.etag)
    dvfs.environ["DVFS_CACHE_DIR"] = str(dvfs.folder / "cache-empty")
    ran = dvfs("get", "p/d", "--copy", "copy")
    assert ran.code == 5
    assert f"{cloud_url}/raw/one.bin" in ran.err


def test_doctor(dvfs_there: Program, cloud_url: str) -> None:
    found = {row["name"]: row for row in json.loads(dvfs_there("doctor", "--json").out)}
    for name in ("store read", "store write", "conditional writes", "clock"):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["store read"]["text"] == cloud_url


def test_a_missing_bucket_exits_3(dvfs_there: Program, cloud_url: str) -> None:
    nowhere = cloud_url.partition("://")[0] + "://no-such-bucket-here/p"
    for words in (["search"], ["create", "--project", "p", "--name", "d"]):
        ran = dvfs_there(*words, environ={"DVFS_STORE": nowhere})
        assert (ran.code, ran.out) == (3, "")
        assert ran.err.count("\n") == 2
        assert "no-such-bucket-here" in ran.err
        assert "hint: create the" in ran.err


@pytest.mark.parametrize("url", ["gs://bucket/x", "azure://container/x"])
def test_a_store_out_of_reach_exits_6(dvfs: Program, url: str) -> None:
    environ = {
        "DVFS_STORE": url,
        "DVFS_RETRY_DEADLINE": "0.5",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=c2VjcmV0;BlobEndpoint=http://127.0.0.1:1/a",
    }
    ran = dvfs("search", "--json", environ=environ)
    assert (ran.code, ran.out) == (6, "")
    assert json.loads(ran.err)["error"]["kind"] == "unavailable"


def test_no_credentials_exit_6_with_a_hint(dvfs: Program) -> None:
    nobody = {"NO_GCE_CHECK": "true", "AZURE_MSI_ENDPOINT": "http://127.0.0.1:1/"}
    for url, hint in (("gs://bucket/x", "gcloud auth"), ("azure://container/x", "AZURE_STORAGE_ACCOUNT_KEY")):
        ran = dvfs("search", environ=nobody | {"DVFS_STORE": url, "DVFS_AZURE_ACCOUNT_NAME": "a"})
        assert (ran.code, ran.out) == (6, "")
        assert hint in ran.err.splitlines()[-1]


def test_a_library_that_is_not_installed(dvfs: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    ran = dvfs("search", environ={"DVFS_STORE": "gs://bucket/x"})
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == "hint: pip install 'dvfs[gcs]'"


def test_help_loads_no_library_of_a_cloud(dvfs: Program) -> None:
    code = (
        "import sys; from dvfs.cli.main import run; import dvfs.store.url, dvfs.dataset; run(['--help']);"
        "sys.exit(any(name.split('.')[0] in ('google', 'obstore', 'requests', 'botocore') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dvfs.environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
