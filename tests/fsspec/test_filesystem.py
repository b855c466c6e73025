"""`dvfs://`: names, listings, bytes, errors."""

from __future__ import annotations

import errno
import gzip
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from dvfs.fsspec import DvfsFileSystem
from dvfs.store.errors import Corrupt
from dvfs.store.runs import noted
from dvfs.store.url import open_backend
from dvfs.surroundings import THIS_PROGRAM
from tests.fsspec.conftest import BIG, FILES, Published

TOP = "p/d@1.0.0"
LINKS = {"to-file": b"cat"}
OTHERS = {"to-folder", "dangling", "circle", "outside", "up"}
"""Links that lead to no file."""


# -- names


def test_every_form_of_a_url_names_the_version(fs: DvfsFileSystem, published: Published) -> None:
    nested = published.publish({"x": b"nested"}, name="n", project="a/b")
    for url in (
        "dvfs://p/d@1.0.0/img/cat@2x.png",
        "dvfs://p/d/img/cat@2x.png",
        f"dvfs://{published.record.id}/img/cat@2x.png",
    ):
        with fsspec.open(url) as file:
            assert file.read() == b"cat"
        assert fs.version_of(url) == published.record.id
    assert fs.cat("dvfs://a%2Fb/n@1.0.0/x") == b"nested"
    assert fs.version_of("dvfs://a%2Fb/n") == nested.id
    assert fs.cat("p/d/img/100%25.png") == b"percent"


def test_a_tag_names_its_newest_version(fs: DvfsFileSystem, published: Published) -> None:
    with published.kit.machine() as store:
        store.records.update(published.record.id, lambda record: record.with_fields(tags=("a/b", "gold")))
    assert fs.cat("dvfs://tag:gold/a.csv") == FILES["a.csv"]
    assert fs.cat("dvfs://tag:a%2Fb/a.csv") == FILES["a.csv"]


def test_a_name_is_resolved_once_by_each_file_system(fs: DvfsFileSystem, published: Published) -> None:
    assert not fs.exists("dvfs://p/d/new")
    published.publish({"new": b"1"})
    assert not fs.exists("dvfs://p/d/new")
    assert fs.exists("dvfs://p/d@1.0.1/new")
    assert fsspec.filesystem("dvfs", skip_instance_cache=True).cat("p/d/new") == b"1"


def test_another_store_is_an_option(fs: DvfsFileSystem, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVFS_STORE")
    with fsspec.open("dvfs://p/d/a.csv", "rt", store=store_url) as file:
        assert file.readline() == "x,y\n"


@pytest.mark.parametrize(
    "url", ["dvfs://", "dvfs://p", "dvfs://p/nothing", "dvfs://p/d@7.0.0/x", "dvfs://" + "0" * 32, "dvfs://tag:none"]
)
def test_what_names_no_dataset_is_not_found(fs: DvfsFileSystem, url: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fs.info(url)
    assert "dvfs://project/name@version/path" in str(caught.value)
    assert not fs.exists(url)
    assert fs.find(url) == []


def test_an_open_version_cannot_be_read(fs: DvfsFileSystem, published: Published) -> None:
    with published.kit.machine() as store:
        draft = store.create(project="p", name="open")
    with pytest.raises(OSError, match="is not finished"):
        fs.ls(f"dvfs://{draft.record.id}")


# -- listings


def test_directories_are_listed(fs: DvfsFileSystem) -> None:
    assert fs.ls("dvfs://p/d/img", detail=False) == ["p/d/img/100%25.png", "p/d/img/cat@2x.png", "p/d/img/deep"]
    assert fs.ls(f"{TOP}/hollow/inside") == []
    assert fs.ls(f"{TOP}/a.csv", detail=False) == [f"{TOP}/a.csv"]
    assert fs.ls(f"{TOP}/to-folder", detail=False) == [f"{TOP}/to-folder/er"]
    tops = {name.partition("/")[0] for name in FILES} | OTHERS | {"to-file", "hollow"}
    assert fs.ls(TOP, detail=False) == sorted(f"{TOP}/{name}" for name in tops)
    infos: list[dict[str, str]] = fs.ls(TOP)  # type: ignore[assignment]
    types = {info["name"].removeprefix(f"{TOP}/"): info["type"] for info in infos}
    assert {name for name, kind in types.items() if kind == "link"} == OTHERS
    assert types["to-file"] == "file"


def test_info_tells_what_a_file_is(fs: DvfsFileSystem, published: Published) -> None:
    info = fs.info("dvfs://p/d/img/cat@2x.png")
    source = published.folder / "first/img/cat@2x.png"
    assert (info["name"], info["size"], info["type"]) == ("p/d/img/cat@2x.png", 3, "file")
    assert info["mode"] == source.stat().st_mode
    assert fs.modified("p/d/img/cat@2x.png").timestamp() == pytest.approx(source.stat().st_mtime, abs=1e-5)
    assert (fs.isfile(TOP), fs.isdir(TOP), fs.isdir(f"{TOP}/to-folder"), fs.isfile(f"{TOP}/to-file")) == (
        False,
        True,
        True,
        True,
    )
    assert fs.size(f"{TOP}/to-file") == 3
    assert fs.ukey("p/d/a.csv") != fs.ukey("p/d/lines.txt")
    for name in ("nothing", "a.csv/x", "dangling", "circle", "outside", "../d@1.0.0/a.csv", "a\0b"):
        assert not fs.exists(f"{TOP}/{name}"), name


def test_trees_are_found_as_walking_finds_them(fs: DvfsFileSystem) -> None:
    expected = sorted(f"{TOP}/{name}" for name in {*FILES, *LINKS, *OTHERS})
    assert fs.find(TOP) == expected
    walked = [f"{folder}/{name}" for folder, _, names in fs.walk(TOP) for name in names]
    assert sorted(walked) == expected
    with_directories = super(DvfsFileSystem, fs).find(TOP, withdirs=True, detail=True)
    assert fs.find(TOP, withdirs=True, detail=True) == with_directories
    assert fs.find(f"{TOP}/img", maxdepth=1) == [f"{TOP}/img/100%25.png", f"{TOP}/img/cat@2x.png"]
    assert fs.find(f"{TOP}/a.csv") == [f"{TOP}/a.csv"]
    assert fs.find(f"{TOP}/to-folder") == [f"{TOP}/to-folder/er/dog.png"]
    assert fs.find(f"{TOP}/nothing") == []
    assert fs.glob(f"dvfs://{TOP}/img/**/*.png") == [name for name in expected if name.endswith(".png")]
    assert fs.glob(f"{TOP}/many/f00?") == [f"{TOP}/many/f{number:03}" for number in range(10)]
    assert fs.du(f"{TOP}/img") == sum(len(data) for name, data in FILES.items() if name.startswith("img/"))


# -- bytes


def test_files_read_as_they_were_written(fs: DvfsFileSystem, tmp_path: Path) -> None:
    for name, data in (FILES | LINKS).items():
        assert fs.cat_file(f"{TOP}/{name}") == data
        with fs.open(f"{TOP}/{name}") as file:
            assert file.size == len(data)
            assert file.read() == data
            assert file.read(1) == b""
    assert fs.cat(f"{TOP}/img/*.png") == {
        f"{TOP}/img/{name}.png": FILES[f"img/{name}.png"] for name in ("100%25", "cat@2x")
    }
    fs.get(f"{TOP}/img", f"{tmp_path}/img", recursive=True)
    assert (tmp_path / "img/deep/er/dog.png").read_bytes() == b"dog"
    fs.get(f"{TOP}/big.bin", f"{tmp_path}/big")
    assert (tmp_path / "big").read_bytes() == BIG
    assert fsspec.get_mapper(f"dvfs://{TOP}/img")["deep/er/dog.png"] == b"dog"


def test_urls_go_through_other_file_systems(fs: DvfsFileSystem, published: Published, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in/x", b"zipped")
    record = published.publish({"a.zip": packed.getvalue(), "b.gz": gzip.compress(b"text\n")}, name="packed")
    with fsspec.open(f"zip://in/x::dvfs://{record.id}/a.zip") as file:
        assert file.read() == b"zipped"
    with fsspec.open(f"dvfs://{record.id}/b.gz", "rt", compression="infer") as file:
        assert file.read() == "text\n"
    local = fsspec.open_local(f"simplecache::dvfs://{TOP}/a.csv", simplecache={"cache_storage": str(tmp_path / "kept")})
    assert Path(local).read_bytes() == FILES["a.csv"]
    many = fsspec.open_files(f"dvfs://{TOP}/img/*.png")
    assert [file.path for file in many] == [f"{TOP}/img/100%25.png", f"{TOP}/img/cat@2x.png"]


def test_files_are_read_at_any_place_in_any_piece(fs: DvfsFileSystem) -> None:
    with fs.open(f"{TOP}/big.bin", block_size=1000) as file:
        for offset, length in [(0, 10), (500_000, 70_000), (500_100, 5), (999_999, 10**6), (17, 300_000), (1 << 21, 5)]:
            file.seek(offset)
            assert file.read(length) == BIG[offset : offset + length]
        assert file.seek(-5, os.SEEK_END) == len(BIG) - 5
        assert file.read() == BIG[-5:]
        with pytest.raises(ValueError, match="negative seek"):
            file.seek(-1)
    with pytest.raises(ValueError):
        file.read()
    with fs.open(f"{TOP}/lines.txt", "rt") as text:
        assert list(text) == FILES["lines.txt"].decode().splitlines(keepends=True)
    assert fs.cat_file(f"{TOP}/big.bin", 1000, 2000) == BIG[1000:2000]
    assert fs.cat_file(f"{TOP}/big.bin", -5) == BIG[-5:]
    assert fs.cat_file(f"{TOP}/big.bin", 5, -5) == BIG[5:-5]
    assert fs.cat_file(f"{TOP}/big.bin", 7, 3) == b""
    assert fs.head(f"{TOP}/lines.txt", 6) == b"line 0"
    assert fs.read_block(f"{TOP}/lines.txt", 3, 10, b"\n") == b"line 1\n"


def test_ranges_are_read_together(fs: DvfsFileSystem) -> None:
    paths = [f"{TOP}/big.bin", f"{TOP}/nothing", f"{TOP}/a.csv", f"{TOP}/big.bin", f"{TOP}/img"]
    found = fs.cat_ranges(paths, [5, 0, 1, 900_000, 0], [10, 5, None, 900_100, 1])
    assert found[0] == BIG[5:10]
    assert isinstance(found[1], FileNotFoundError)
    assert found[2:4] == [FILES["a.csv"][1:], BIG[900_000:900_100]]
    assert isinstance(found[4], IsADirectoryError)
    assert fs.cat_ranges(paths[:1] * 2, 1, 3) == [BIG[1:3]] * 2
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, 0, 1, on_error="raise")
    with pytest.raises(ValueError):
        fs.cat_ranges(paths, [1], [2])


def test_what_is_read_is_fetched_and_no_more(fs: DvfsFileSystem, fetched: Callable[[], int]) -> None:
    fs.ls(TOP)
    fs.info(f"{TOP}/big.bin")
    with fs.open(f"{TOP}/big.bin") as file:
        pages = fetched()
        file.seek(600_000)
        assert file.read(10) == BIG[600_000:600_010]
    assert 10 <= fetched() - pages <= 128 << 10
    before = fetched()
    assert fs.cat_file(f"{TOP}/big.bin", 600_000, 600_020) == BIG[600_000:600_020]
    assert fetched() == before


def test_the_cache_is_that_of_everybody(fs: DvfsFileSystem, settings: dict[str, str], published: Published) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvfs", "warm", published.record.id, "--quiet"],
        env=os.environ | settings | {"DVFS_PROVENANCE": "no"},
        check=True,
        capture_output=True,
    )
    assert done.stderr == b""
    assert fs.cat_file(f"{TOP}/big.bin") == BIG
    assert fs._opened(published.record).version.fetcher.stats().requests == 0


def test_there_is_no_fuse_in_it(published: Published, settings: dict[str, str]) -> None:
    code = (
        "import fsspec, sys\n"
        "print(fsspec.open('dvfs://p/d/a.csv').open().read())\n"
        "print(sorted({'trio', 'pyfuse3', 'dvfs.fs.serve'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(FILES["a.csv"]), "[]"]
    backend = open_backend(settings["DVFS_STORE"])
    runs = noted(backend, published.record.id)
    backend.close()
    assert [(run.did, run.origin.command) for run in runs] == [("fsspec", "-c")]


def test_reading_is_noted_once(fs: DvfsFileSystem, published: Published) -> None:
    for _ in range(3):
        assert fs.cat(f"{TOP}/a.csv") == FILES["a.csv"]
    THIS_PROGRAM.wait_for_notes()
    backend = THIS_PROGRAM.stores.open(fs._settings).backend
    assert [run.did for run in noted(backend, published.record.id)] == ["fsspec"]


# -- errors


def test_nothing_can_be_changed(fs: DvfsFileSystem, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    changes: list[Callable[[], object]] = [
        lambda: fs.open(f"{TOP}/new", "wb"),
        lambda: fs.open(f"{TOP}/a.csv", "ab"),
        lambda: fs.pipe(f"{TOP}/new", b"x"),
        lambda: fs.put(str(tmp_path / "local"), f"{TOP}/new"),
        lambda: fs.rm(f"{TOP}/a.csv"),
        lambda: fs.mkdir(f"{TOP}/new"),
        lambda: fs.makedirs(f"{TOP}/new"),
        lambda: fs.touch(f"{TOP}/new"),
        lambda: fs.cp(f"{TOP}/a.csv", f"{TOP}/b.csv"),
        lambda: fs.mv(f"{TOP}/a.csv", f"{TOP}/b.csv"),
    ]
    for change in changes:
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    assert fs.cat(f"{TOP}/a.csv") == FILES["a.csv"]


def test_directories_and_missing_files_are_told_apart(fs: DvfsFileSystem) -> None:
    for read in (fs.cat_file, fs.open):
        with pytest.raises(IsADirectoryError):
            read(f"{TOP}/img")
        with pytest.raises(FileNotFoundError, match=r"dataset p/d@1\.0\.0 has no such file"):
            read(f"{TOP}/img/nothing")


def test_a_store_that_fails_is_an_error_and_no_empty_listing(
    fs: DvfsFileSystem, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> object:
        raise Corrupt("page is damaged", hint="repair it")

    with fs.open(f"{TOP}/big.bin") as file:
        version = fs._opened(published.record).version
        monkeypatch.setattr(version.fetcher, "readinto", broken)
        with pytest.raises(OSError, match=r"page is damaged \(repair it\).*big.bin") as caught:
            file.read()
        assert caught.value.errno == errno.EIO
    monkeypatch.setattr(version.tree, "load", broken)
    for ask in (
        fs.find,
        fs.exists,
        fs.isdir,
        fs.ls,
        lambda path: list(fs.walk(path)),
        lambda path: fs.glob(path + "/*"),
    ):
        with pytest.raises(OSError, match="page is damaged"):
            ask(f"{TOP}/img")
