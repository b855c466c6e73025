"""Orders and traces from the command line, on real mounts: what is fetched before anybody reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Program
from tests.store.noise import noise
from tests.waiting import wait_until

FILES = 24
BYTES = 300_000  # three to a block


@pytest.fixture
def version(dvfs: Program) -> Iterator[str]:
    """The finished version p/d@1.0.0, of files that do not compress; mounts are taken away at the end."""
    source = dvfs.folder / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"f{number:02}").write_bytes(noise(BYTES, number))
    dvfs.ok("create", "--project", "p", "--name", "d", "-q")
    dvfs.ok("add", "--files", source)
    dvfs.ok("close")
    yield "p/d"
    assert dvfs("umount", "--all", "--lazy").code == 0


def mount(dvfs: Program, *words: str) -> Path:
    ran = dvfs.process("mount", "p/d", "mnt", "-q", *words)
    assert (ran.code, ran.err) == (0, "")
    return dvfs.folder / "mnt"


def is_read(mounted: Path, number: int) -> bool:
    return (mounted / f"f{number:02}").read_bytes() == noise(BYTES, number)


def cached_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file() and "blocks" in path.parts)


def without_store(dvfs: Program) -> None:
    """Take the store away: what is read from now on is in the cache."""
    store = Path(dvfs.environ["DVFS_STORE"])
    store.rename(store.with_name("away"))


def test_a_trace_is_kept_and_replayed_by_a_mount_with_an_empty_cache(dvfs: Program, version: str) -> None:
    mounted = mount(dvfs, "--record", "train", "--prefetch", "none")
    order = (20, 3, 11)
    assert all(is_read(mounted, number) for number in order)
    assert is_read(mounted, 20)
    dvfs.ok("umount", "mnt")
    traces = json.loads(dvfs.ok("traces", "p/d", "--json"))
    assert [(trace["name"], trace["files"]) for trace in traces] == [("train", 3)]
    assert "train                            | 20" in dvfs.ok("traces", "p/d")

    cache = dvfs.folder / "fresh"
    mounted = mount(dvfs, "--cache-dir", str(cache))
    wait_until(lambda: cached_bytes(cache) >= 3 * BYTES)
    without_store(dvfs)
    assert all(is_read(mounted, number) for number in order)
    with pytest.raises(OSError, match="Input/output error"):
        is_read(mounted, 7)


def test_a_trace_is_not_replayed_where_that_is_not_wanted(dvfs: Program, version: str) -> None:
    mounted = mount(dvfs, "--record", "train", "--prefetch", "none")
    assert is_read(mounted, 5)
    dvfs.ok("umount", "mnt")
    cache = dvfs.folder / "fresh"
    mounted = mount(dvfs, "--cache-dir", str(cache), "--no-replay")
    assert len(list(mounted.iterdir())) == FILES
    assert is_read(mounted, 9)
    without_store(dvfs)
    with pytest.raises(OSError, match="Input/output error"):
        is_read(mounted, 23)


def test_traces_have_names_and_are_removed_by_them(dvfs: Program, version: str) -> None:
    assert is_read(mount(dvfs, "--record", "one"), 0)
    dvfs.ok("umount", "mnt")
    for words, code, error in (
        (("--record", "one"), 4, "error: the version has a trace 'one' already\n"),
        (("--record", "a/b"), 2, "error: a trace cannot be named 'a/b'\n"),
        (("--replay", "two"), 3, "error: the version has no trace 'two'\n"),
        (("--replay", "one", "--no-replay"), 2, "error: --replay and --no-replay contradict each other\n"),
        (("--replay", "one", "--prefetch", "none"), 2, "error: --replay needs --prefetch auto\n"),
        (("--rw", "--record", "two"), 2, "error: --rw takes no --record and no --replay: traces are of versions\n"),
    ):
        ran = dvfs.process("mount", "p/d", "mnt", *words)
        assert (ran.out, ran.err[: len(error)]) == ("", error)
        assert ran.code == code, words
    assert dvfs.ok("traces", "p/d", "--remove", "one") == "Trace one removed from p/d@1.0.0\n"
    assert dvfs.ok("traces", "p/d", "--json") == "[]\n"
    ran = dvfs("traces", "p/d", "--remove", "one")
    assert (ran.code, ran.err) == (3, "error: the version has no trace 'one'\nhint: `dvfs traces` lists them\n")


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_files_of_an_order_are_fetched_before_they_are_read(dvfs: Program, version: str, end: str) -> None:
    mounted = mount(dvfs, "--prefetch", "none")
    order = dvfs.folder / "order"
    order.write_text(end.join(["f20", f"{mounted}/f03", "gone", str(dvfs.folder / "source" / "f00"), "f11", ""]))
    null = () if end == "\n" else ("-0",)
    ran = dvfs("prefetch", "--order", order, "mnt", *null, "--json")
    assert (ran.code, ran.json) == (0, {"files": 3, "others": 2})
    cache = Path(dvfs.environ["DVFS_CACHE_DIR"])
    wait_until(lambda: cached_bytes(cache) >= 3 * BYTES)
    without_store(dvfs)
    assert all(is_read(mounted, number) for number in (20, 3, 11))


def test_an_order_says_what_it_does_not_take(dvfs: Program, version: str) -> None:
    mounted = mount(dvfs)
    order = dvfs.folder / "order"
    order.write_text("f00\ngone\n")
    ran = dvfs("prefetch", "--order", order, "mnt")
    assert ran.code == 0
    assert ran.out == f"{mounted} fetches 1 files in that order\n"
    assert ran.err == f"warning: 1 paths of the order are not in {mounted}\n"
    order.write_text("gone\n")
    ran = dvfs("prefetch", "--order", order, "mnt")
    assert (ran.code, ran.out, ran.err) == (2, "", f"error: no path of the order is in {mounted}\n")
    ran = dvfs("prefetch", "--order", order, "source")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("error: source is in no mount of dvfs\nhint: ")
    ran = dvfs("prefetch", "--order", "nothing", "mnt")
    assert (ran.code, ran.out) == (2, "")
    dvfs.ok("umount", "mnt")
    mount(dvfs, "--rw")
    ran = dvfs("prefetch", "--order", order, "mnt")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {mounted} takes edits; an order needs a read-only mount\n")
