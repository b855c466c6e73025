"""Scanning: every kind of path, in catalog order, with nothing lost and nothing read."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.catalog.key import key_of
from dvfs.store.errors import InvalidInput
from dvfs.store.scan import Scan, ScanOptions, dataset_folder, expand
from dvfs.store.source import Kind, Source, open_source

NOBODY = 65534


def scan(*paths: Path | bytes, folder: bytes = b"", options: ScanOptions | None = None) -> dict[bytes, Source]:
    """Scan *paths*; check the order; return the sources by path."""
    found = list(Scan([os.fsencode(path) for path in paths], options or ScanOptions(), folder=folder))
    keys = [key_of(source.path) for source in found]
    assert keys == sorted(set(keys))
    return {source.path: source for source in found}


def kinds(found: dict[bytes, Source]) -> dict[bytes, Kind]:
    return {path: source.kind for path, source in found.items()}


def make(root: Path, *names: str) -> Path:
    """Make files (whose bytes are their names) and, where a name ends with /, directories."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(name))
    return root


def test_a_folders_content_goes_to_the_root_with_all_that_stat_tells(tmp_path: Path) -> None:
    make(tmp_path, "a", "d/b", "d/empty/")
    (tmp_path / "d/b").chmod(0o751)
    os.utime(tmp_path / "d/b", ns=(0, -86_400_000_000_123))
    (tmp_path / "l").symlink_to("d/../nowhere")
    os.utime(tmp_path / "d", ns=(0, 123_456_789))
    found = scan(tmp_path)
    assert kinds(found) == {
        b"": Kind.DIRECTORY,
        b"a": Kind.FILE,
        b"d": Kind.DIRECTORY,
        b"l": Kind.LINK,
        b"d/b": Kind.FILE,
        b"d/empty": Kind.DIRECTORY,
    }
    at = os.lstat(tmp_path / "d/b")
    assert found[b"d/b"] == Source(
        b"d/b",
        Kind.FILE,
        os.fsencode(tmp_path / "d/b"),
        stat.S_IFREG | 0o751,
        3,
        -86_400_000_000_123,
        at.st_ctime_ns,
        at.st_ino,
    )
    assert found[b"d/b"].fits(at)
    assert found[b"d"].mtime_ns == 123_456_789
    assert (found[b"l"].target, found[b"l"].size) == (b"d/../nowhere", 12)
    root = os.lstat(tmp_path)
    assert (found[b""].mode, found[b""].mtime_ns) == (root.st_mode, root.st_mtime_ns)


def test_names_of_all_bytes_come_in_catalog_order(tmp_path: Path) -> None:
    make(tmp_path, "x", "x-y/z", "x.d/z", "x!/z", "x d/new\nline", "y" * 255)
    names = [b"\xff\xfe", b"\x01", b"caf\xc3\xa9", b"\\", b"*"]
    for name in names:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_text("")
    found = scan(tmp_path)
    assert set(names) < set(found)
    assert found[b"x d/new\nline"].kind is Kind.FILE
    assert len(found) == 1 + 1 + 4 * 2 + 1 + len(names)


TREES = st.lists(st.lists(st.sampled_from(["a", "a-", "a.b", "b", "a\x01"]), min_size=1, max_size=4), max_size=12)


@given(TREES, st.sampled_from([b"", b"t", b"t/u"]))
def test_any_tree_is_found_whole_and_in_order(tree: list[list[str]], folder: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        for parts in tree:
            Path(name, *parts).mkdir(parents=True, exist_ok=True)
        found = scan(Path(name), folder=folder)
        walked = {os.path.relpath(at, name) for at, _, _ in os.walk(name)} - {"."}
    prefix = folder + b"/" if folder else b""
    expected = {prefix + os.fsencode(path) for path in walked} | {folder}
    assert {path for path, source in found.items() if source.kind is Kind.DIRECTORY} == expected
    parents = {path for path, source in found.items() if source.kind is Kind.PARENT}
    assert parents == ({b"t"} if folder == b"t/u" else set())


def test_files_are_kept_by_name_under_the_dataset_folder(tmp_path: Path) -> None:
    make(tmp_path, "deep/down/a", "b")
    found = scan(tmp_path / "deep/down/a", tmp_path / "b", folder=b"x/y")
    assert kinds(found) == {b"x": Kind.PARENT, b"x/y": Kind.PARENT, b"x/y/a": Kind.FILE, b"x/y/b": Kind.FILE}
    assert found[b"x/y/a"].source == os.fsencode(tmp_path / "deep/down/a")


def test_the_later_given_wins(tmp_path: Path) -> None:
    make(tmp_path, "1/a", "1/d/b", "1/c", "2/a", "2/d/b", "3/a", "3/only")
    found = scan(tmp_path / "1", tmp_path / "2", tmp_path / "3/a", tmp_path / "3/only")
    assert found[b"a"].source.endswith(b"3/a")
    assert found[b"d/b"].source.endswith(b"2/d/b")
    assert found[b"c"].source.endswith(b"1/c")
    assert found[b"only"].source.endswith(b"3/only")
    assert found[b""].mtime_ns == os.lstat(tmp_path / "2").st_mtime_ns
    assert scan(tmp_path / "3/a", tmp_path / "2")[b"a"].source.endswith(b"2/a")


def test_a_file_that_wins_over_a_folder_covers_what_is_below(tmp_path: Path) -> None:
    make(tmp_path, "1/x/y/z", "1/x-y", "2/x", "3/x/q")
    assert set(scan(tmp_path / "1", tmp_path / "2")) == {b"", b"x", b"x-y"}
    again = scan(tmp_path / "2", tmp_path / "3")
    assert kinds(again) == {b"": Kind.DIRECTORY, b"x": Kind.DIRECTORY, b"x/q": Kind.FILE}


def test_not_recursive_takes_the_folders_own_files(tmp_path: Path) -> None:
    make(tmp_path, "a", "d/b")
    assert set(scan(tmp_path, options=ScanOptions(recursive=False))) == {b"", b"a"}


def test_links_stay_links_also_those_to_folders(tmp_path: Path) -> None:
    make(tmp_path, "in/d/a", "out/b")
    (tmp_path / "in/to_dir").symlink_to(tmp_path / "out")
    (tmp_path / "in/to_file").symlink_to("d/a")
    found = scan(tmp_path / "in")
    assert found[b"to_dir"].target == os.fsencode(tmp_path / "out")
    assert found[b"to_file"].target == b"d/a"
    assert b"to_dir/b" not in found
    assert kinds(scan(tmp_path / "in/to_file")) == {b"to_file": Kind.LINK}


def test_a_folder_may_be_given_by_a_link(tmp_path: Path) -> None:
    make(tmp_path, "out/b")
    (tmp_path / "l").symlink_to("out")
    assert set(scan(tmp_path / "l")) == {b"", b"b"}


def test_followed_links_become_what_they_lead_to(tmp_path: Path) -> None:
    make(tmp_path, "in/d/a", "out/b", "out/c/e")
    (tmp_path / "in/to_dir").symlink_to(tmp_path / "out")
    (tmp_path / "in/to_file").symlink_to("d/a")
    (tmp_path / "in/dangling").symlink_to("nowhere")
    (tmp_path / "in/d/up").symlink_to("..")
    (tmp_path / "in/self").symlink_to("self")
    (tmp_path / "out/c/back").symlink_to(tmp_path / "in")
    found = scan(tmp_path / "in", options=ScanOptions(follow_links=True))
    assert kinds(found) == {
        b"": Kind.DIRECTORY,
        b"d": Kind.DIRECTORY,
        b"dangling": Kind.LINK,
        b"self": Kind.LINK,
        b"to_dir": Kind.DIRECTORY,
        b"to_file": Kind.FILE,
        b"d/a": Kind.FILE,
        b"d/up": Kind.LINK,
        b"to_dir/b": Kind.FILE,
        b"to_dir/c": Kind.DIRECTORY,
        b"to_dir/c/back": Kind.LINK,
        b"to_dir/c/e": Kind.FILE,
    }
    # What upload opens must not be a link itself.
    os.close(open_source(found[b"to_file"].source))
    os.close(open_source(found[b"to_dir/c/e"].source))


def test_excluded_paths_are_left_out_by_gitignore_rules(tmp_path: Path) -> None:
    make(tmp_path, "a.tmp", "keep.tmp", "build/x", "src/build", "src/b.tmp", "top", "src/top", "log/1/x", "log/2/y")
    exclude = ("*.tmp", "!keep.tmp", "build/", "/top", "log/**/x")
    found = scan(tmp_path, options=ScanOptions(exclude=exclude))
    assert set(found) == {b"", b"keep.tmp", b"src", b"src/build", b"src/top", b"log", b"log/1", b"log/2", b"log/2/y"}
    assert scan(tmp_path / "a.tmp", tmp_path / "top", options=ScanOptions(exclude=("*.tmp",))).keys() == {b"top"}


def test_ignore_files_hold_for_their_folder_and_deeper_ones_go_first(tmp_path: Path) -> None:
    make(tmp_path, "a.log", "b.txt", "d/a.log", "d/keep.log", "d/e/x.log", "d/e/only", "other/only", "d/caf\udce9")
    (tmp_path / ".dvfsignore").write_text("# logs\n*.log\n\n")
    (tmp_path / "d/.dvfsignore").write_bytes(b"!keep.log\n/e/only\ncaf\xe9\n")
    found = scan(tmp_path)
    files = {path for path, source in found.items() if source.kind is Kind.FILE}
    assert files == {b".dvfsignore", b"b.txt", b"d/.dvfsignore", b"d/keep.log", b"other/only"}
    without = scan(tmp_path, options=ScanOptions(exclude=("*.log", ".dvfsignore")))
    assert {path for path, source in without.items() if source.kind is Kind.FILE} == {b"b.txt", b"other/only"}


def test_an_ignore_file_that_is_not_one_is_data(tmp_path: Path) -> None:
    make(tmp_path, "d/.dvfsignore/x", "e/")
    os.mkfifo(tmp_path / "e/.dvfsignore")
    found = scan(tmp_path, options=ScanOptions(skip_special=True))
    assert found[b"d/.dvfsignore/x"].kind is Kind.FILE


def test_a_bad_pattern_is_named(tmp_path: Path) -> None:
    make(tmp_path, "d/")
    (tmp_path / "d/.dvfsignore").write_text("fine\n!\n")
    with pytest.raises(InvalidInput, match=r"d/\.dvfsignore"):
        scan(tmp_path)
    with pytest.raises(InvalidInput, match="exclude"):
        scan(tmp_path, options=ScanOptions(exclude=("!",)))


def open_to_all(path: Path) -> None:
    """Let everybody search the folders above *path* (pytest's own are private)."""
    for above in (path, *path.parents):
        if above.stat().st_uid == os.getuid() and not above.stat().st_mode & 0o001:
            above.chmod(0o755)


def test_what_cannot_be_read_fails_by_name_after_the_scan(tmp_path: Path) -> None:
    make(tmp_path, "good", "bad\n", "closed/x", "dir/bad2")
    for name in ("bad\n", "closed", "dir/bad2"):
        (tmp_path / name).chmod(0)
    open_to_all(tmp_path)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(InvalidInput) as caught:
            scan(tmp_path)
        lenient = Scan([os.fsencode(tmp_path)], ScanOptions(skip_unreadable=True))
        found = {source.path for source in lenient}
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (tmp_path / "closed").chmod(0o755)
    assert caught.value.message.startswith("3 files cannot be taken:")
    for name in (r"bad\n", "closed", "dir/bad2"):
        assert f"{tmp_path}/{name}: permission denied" in caught.value.message
    assert caught.value.hint is not None
    assert found == {b"", b"good", b"closed", b"dir"}
    assert lenient.skipped.count == 3
    text = lenient.skipped_text()
    assert text is not None
    assert text.startswith("3 files left out:")


def test_special_files_fail_by_name_and_many_are_counted(tmp_path: Path) -> None:
    for number in range(30):
        os.mkfifo(tmp_path / f"p{number:02}")
    (tmp_path / "file").write_text("")
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(tmp_path, os.O_DIRECTORY)
    listener.bind(f"/proc/self/fd/{here}/s")
    listener.close()
    os.close(here)
    with pytest.raises(InvalidInput) as caught:
        scan(tmp_path)
    assert caught.value.message.startswith("31 files cannot be taken:")
    assert caught.value.message.count("a fifo") == 20
    assert "and 11 more" in caught.value.message
    lenient = Scan([os.fsencode(tmp_path)], ScanOptions(skip_special=True))
    assert {source.path for source in lenient} == {b"", b"file"}
    assert lenient.skipped.count == 31
    with pytest.raises(InvalidInput, match="a fifo"):
        scan(tmp_path / "p01")


def test_depth_and_length_beyond_the_kernels_path(tmp_path: Path) -> None:
    """60 levels of 200-byte names: 12,000 bytes of path; found, and openable by the noted source."""
    name = "n" * 200
    top = os.open(tmp_path, os.O_DIRECTORY)
    handle = top
    for _ in range(60):
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_DIRECTORY, dir_fd=handle)
        os.close(handle)
        handle = inner
    leaf = os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=handle)
    os.write(leaf, b"down here")
    os.close(leaf)
    os.close(handle)
    found = scan(tmp_path)
    assert len(found) == 62
    path = b"/".join([name.encode()] * 60) + b"/leaf"
    handle = open_source(found[path].source)
    try:
        assert found[path].fits(os.fstat(handle))
        assert os.read(handle, 100) == b"down here"
    finally:
        os.close(handle)


def test_deeper_than_open_files_allow_is_one_clear_error(tmp_path: Path) -> None:
    import resource

    (tmp_path / "/".join(["d"] * 100)).mkdir(parents=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    try:
        with pytest.raises(InvalidInput, match="too many open files"):
            scan(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == used


def test_a_scan_given_up_closes_its_folders(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c/d/x")
    before = len(os.listdir("/proc/self/fd"))
    sources = iter(Scan([os.fsencode(tmp_path)], ScanOptions()))
    while next(sources).path != b"a/b/c":
        pass
    assert len(os.listdir("/proc/self/fd")) > before
    del sources
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_that_vanish_while_scanning_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a", "b", "d/x")
    sources = iter(Scan([os.fsencode(tmp_path)], ScanOptions()))
    assert next(sources).path == b""
    assert next(sources).path == b"a"
    (tmp_path / "b").unlink()
    assert [source.path for source in sources] == [b"d", b"d/x"]


def test_wildcards_are_expanded_where_no_such_path_is(tmp_path: Path) -> None:
    make(tmp_path, "a1", "a2", "b", "[x]", "d/e/a3", ".hidden")
    at = os.fsencode(tmp_path)
    assert expand([tmp_path / "a*"]) == [at + b"/a1", at + b"/a2"]
    assert expand([os.fspath(tmp_path / "**/a3")]) == [at + b"/d/e/a3"]
    assert expand([at + b"/[x]", at + b"/d/../b"]) == [at + b"/[x]", at + b"/b"]
    for missing in ("nothing*", "missing"):
        with pytest.raises(InvalidInput, match="nothing"):
            expand([tmp_path / missing.replace("missing", "nothing")])


def test_dataset_folders_are_checked() -> None:
    assert dataset_folder("/a/b/") == b"a/b"
    assert dataset_folder("") == dataset_folder("/") == dataset_folder(".") == b""
    for bad in ("a/../b", "..", "a//b", "a/./b", "a\0b", "x" * 256):
        with pytest.raises(InvalidInput):
            dataset_folder(bad)
