"""Staging: the last word on a path, a serial for who uploads meanwhile, and several processes at one database."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.block import BlockRef, Extent
from dvfs.store.catalog.key import key_of
from dvfs.store.errors import Corrupt, Unavailable, UnsupportedFormat
from dvfs.store.ids import PackId
from dvfs.store.source import Kind, Source, parent_source, removal
from dvfs.store.staging import PackedFile, Pending, Staged, Staging, decode_extents, encode_extents


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    opened = Staging(tmp_path / "staging.db")
    yield opened
    opened.close()


def file(path: bytes, size: int = 10, *, mtime_ns: int = 1, source: bytes | None = None) -> Source:
    mode = stat.S_IFREG | 0o644
    return Source(path, Kind.FILE, b"/src/" + path if source is None else source, mode, size, mtime_ns, 2, 3)


def folder(path: bytes, mtime_ns: int = 1) -> Source:
    return Source(path, Kind.DIRECTORY, b"/src/" + path, stat.S_IFDIR | 0o755, 0, mtime_ns)


def block(number: int) -> BlockRef:
    return BlockRef(0, PackId(bytes(23) + bytes([number])), number, 20, 30, 1, bytes([number]) * 32)


def packed(staged: Staged, number: int = 7, source: Source | None = None) -> PackedFile:
    run = Extent(block(number), 0, staged.source.size)
    return PackedFile(staged.source.path, staged.serial, bytes([number]) * 32, (run,), source)


def pack_all(staging: Staging) -> None:
    staging.mark_packed([packed(staged) for staged in staging.unpacked()])


def rows(staging: Staging) -> list[tuple[bytes, Kind]]:
    return [(staged.source.path, staged.source.kind) for staged in staging.edits()]


def test_what_is_staged_comes_back_whole_in_catalog_order(staging: Staging, tmp_path: Path) -> None:
    names = [b"b", b"a/\xff\xfe", b"a-b/c", b"a", b"a/b/c", b"a b\n", b"", b"a/b"]
    sources = [file(name, 2**63 - 1, mtime_ns=-5) for name in names]
    sources.append(Source(b"l", Kind.LINK, b"/src/l", stat.S_IFLNK | 0o777, 4, 1, 2, 2**63 - 1, b"\xfe/.."))
    assert staging.stage(iter(sources)) == len(sources)
    staging.close()
    again = Staging(tmp_path / "staging.db")
    found = [staged.source for staged in again.edits()]
    again.close()
    assert found == sorted(sources, key=lambda source: key_of(source.path))


def test_the_last_word_wins(staging: Staging) -> None:
    staging.stage([file(b"a", 1), file(b"a", 2), file(b"b", 3)])
    staging.stage([removal(b"a")])
    assert rows(staging) == [(b"a", Kind.REMOVED), (b"b", Kind.FILE)]
    staging.stage([file(b"a", 4)])
    assert rows(staging) == [(b"a", Kind.FILE), (b"b", Kind.FILE)]
    assert staging.pending() == Pending(2, 7)


def test_a_needed_directory_replaces_no_directory(staging: Staging) -> None:
    staging.stage([folder(b"d", 77), removal(b"e"), file(b"f")])
    staging.stage([parent_source(b"d"), parent_source(b"e"), parent_source(b"f"), parent_source(b"g")])
    kinds = dict(rows(staging))
    assert kinds == {b"d": Kind.DIRECTORY, b"e": Kind.PARENT, b"f": Kind.PARENT, b"g": Kind.PARENT}
    staging.stage([folder(b"g")])
    assert dict(rows(staging))[b"g"] == Kind.DIRECTORY


def test_a_file_in_place_of_a_directory_drops_what_was_below(staging: Staging) -> None:
    staging.stage([folder(b"d"), file(b"d/x"), folder(b"d/e"), file(b"d/e/y"), file(b"d-e"), file(b"d.x/z")])
    pack_all(staging)
    staging.stage([file(b"d")])
    assert [path for path, _ in rows(staging)] == [b"d", b"d-e", b"d.x/z"]
    assert [staged.source.path for staged in staging.unpacked()] == [b"d"]


def test_nothing_is_staged_when_the_sources_end_in_an_error(staging: Staging) -> None:
    def broken() -> Iterator[Source]:
        for number in range(5000):
            yield file(b"%d" % number)
        raise Unavailable("the disk is gone")

    with pytest.raises(Unavailable, match="the disk is gone"):
        staging.stage(broken())
    assert staging.is_empty()
    assert staging.stage([file(b"a")]) == 1


def test_saying_the_same_again_keeps_what_was_packed(staging: Staging) -> None:
    staging.stage([file(b"a"), file(b"b")])
    pack_all(staging)
    assert staging.stage([file(b"a"), file(b"b", mtime_ns=2)]) == 1
    assert [staged.source.path for staged in staging.unpacked()] == [b"b"]
    found = staging.find(b"a")
    assert found is not None
    assert (found.digest, found.extents) == (bytes([7]) * 32, packed(found).extents)
    after = staging.find(b"b")
    assert after is not None
    assert after.digest is None


@pytest.mark.parametrize("change", ["mode", "size", "mtime_ns", "ctime_ns", "ino", "source"])
def test_any_change_of_the_source_unpacks_it(staging: Staging, change: str) -> None:
    before = file(b"a")
    staging.stage([before])
    pack_all(staging)
    old = getattr(before, change)
    staging.stage([before._replace(**{change: old + (b"x" if change == "source" else 1)})])
    assert staging.pending().files == 1


def test_a_file_staged_anew_while_it_was_packed_stays_unpacked(staging: Staging) -> None:
    staging.stage([file(b"a", 1), file(b"b", 1)])
    work = list(staging.unpacked())
    staging.stage([file(b"a", 2), removal(b"b")])
    staging.mark_packed([packed(staged) for staged in work])
    assert [staged.source for staged in staging.unpacked()] == [file(b"a", 2)]
    assert rows(staging) == [(b"a", Kind.FILE), (b"b", Kind.REMOVED)]


def test_refreshed_files_get_the_stat_of_what_was_read(staging: Staging) -> None:
    staging.stage([file(b"a", 1)])
    (staged,) = staging.unpacked()
    staging.mark_packed([packed(staged, source=file(b"a", 99, mtime_ns=5))])
    (found,) = staging.edits()
    assert found.source == file(b"a", 99, mtime_ns=5)
    assert found.digest == bytes([7]) * 32
    assert staging.stage([file(b"a", 99, mtime_ns=5)]) == 0


def test_dropping_leaves_no_word(staging: Staging) -> None:
    staging.stage([file(b"a"), removal(b"b"), file(b"c")])
    pack_all(staging)
    staging.drop([b"a", b"b", b"never staged"])
    assert rows(staging) == [(b"c", Kind.FILE)]
    staging.stage([file(b"a")])
    assert [staged.source.path for staged in staging.unpacked()] == [b"a"]


def test_clear_forgets_what_was_applied_and_nothing_else(staging: Staging) -> None:
    staging.stage([file(b"a"), file(b"b"), file(b"failed"), folder(b"d"), removal(b"r")])
    staging.mark_packed([packed(staged) for staged in staging.unpacked() if staged.source.path in b"ab"])
    upto = staging.serial
    staging.stage([file(b"new"), file(b"b", 5), folder(b"d", 99)])
    staging.mark_packed([packed(staged) for staged in staging.unpacked() if staged.source.path == b"failed"])
    applied = {staged.source.path: staged.digest for staged in staging.edits(upto)}
    assert applied == {b"a": bytes([7]) * 32, b"failed": None, b"r": None}
    staging.clear(upto)
    assert rows(staging) == [
        (b"b", Kind.FILE),
        (b"d", Kind.DIRECTORY),
        (b"failed", Kind.FILE),
        (b"new", Kind.FILE),
    ]
    assert [staged.source.path for staged in staging.unpacked()] == [b"b", b"new"]
    staging.mark_packed([packed(staged) for staged in staging.unpacked()])
    staging.clear(staging.serial)
    assert staging.is_empty()


def test_rows_may_change_while_they_are_iterated(staging: Staging) -> None:
    staging.stage(file(b"%05d" % number) for number in range(5000))
    seen = 0
    for staged in staging.unpacked():
        staging.mark_packed([packed(staged)]) if seen % 500 == 0 else None
        seen += 1
    assert seen == 5000
    assert staging.pending().files == 4990


def test_removals_are_told_by_themselves(staging: Staging) -> None:
    staging.stage([file(b"a"), removal(b"b"), folder(b"c"), removal(b"c/d")])
    assert [staged.source for staged in staging.removed()] == [removal(b"b"), removal(b"c/d")]


def test_sent_blocks_are_remembered(staging: Staging) -> None:
    staging.mark_packed([], [block(1), block(2)])
    staging.mark_packed([], [block(2), block(3)])
    assert list(staging.sent_blocks()) == [block(1), block(2), block(3)]


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32)), max_size=5))
def test_extents_come_back(values: list[tuple[int, bytes]]) -> None:
    extents = tuple(
        Extent(BlockRef(number, PackId(digest[:24]), number, number, number, number % 256, digest), number, number)
        for number, digest in values
    )
    assert decode_extents(encode_extents(extents)) == extents
    if extents:
        with pytest.raises(Corrupt):
            decode_extents(encode_extents(extents)[1:])


PATHS = st.sampled_from([b"a", b"b", b"d", b"d/x", b"d/y", b"d/e", b"d/e/z"])
CHANGES = st.one_of(
    st.tuples(st.just("file"), PATHS, st.integers(0, 3)),
    st.tuples(st.just("folder"), PATHS, st.integers(0, 1)),
    st.tuples(st.just("remove"), PATHS, st.just(0)),
    st.tuples(st.just("drop"), PATHS, st.just(0)),
    st.tuples(st.just("pack"), PATHS, st.just(0)),
)


@given(st.lists(CHANGES, max_size=25))
def test_staging_does_what_a_dict_would(changes: list[tuple[str, bytes, int]]) -> None:
    staging = Staging(Path(":memory:"))
    model: dict[bytes, tuple[Source, bool]] = {}
    for what, path, value in changes:
        if what == "drop":
            staging.drop([path])
            model.pop(path, None)
        elif what == "pack":
            work = [staged for staged in staging.unpacked() if staged.source.path == path]
            staging.mark_packed([packed(staged) for staged in work])
            model.update({staged.source.path: (staged.source, True) for staged in work})
        else:
            source = {"file": file(path, value), "folder": folder(path, value), "remove": removal(path)}[what]
            staging.stage([source])
            was = model.get(path)
            if what == "file" and was is not None and was[0].kind is Kind.DIRECTORY:
                model = {key: kept for key, kept in model.items() if not key.startswith(path + b"/")}
            if was is None or was[0] != source:
                model[path] = (source, False)
    found = {staged.source.path: (staged.source, staged.digest is not None) for staged in staging.edits()}
    staging.close()
    assert found == model


def test_another_thread_or_process_may_stage_at_the_same_time(staging: Staging, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dvfs.store.staging import Staging\n"
        "from dvfs.store.source import Kind, Source\n"
        "staging = Staging(Path(sys.argv[1]))\n"
        "for turn in range(20):\n"
        "    staging.stage(Source(b'%s/%d/%d' % (sys.argv[2].encode(), turn, n), Kind.FILE) for n in range(50))\n"
    )
    arguments = [sys.executable, "-c", script, os.fspath(tmp_path / "staging.db")]
    writers = [subprocess.Popen([*arguments, name]) for name in ("one", "two", "three")]
    staging.stage(file(b"mine/%d" % number) for number in range(1000))
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert staging.pending().files == 4000


def test_a_database_held_for_too_long_is_unavailable(tmp_path: Path) -> None:
    import sqlite3

    first = Staging(tmp_path / "staging.db")
    first.stage([file(b"a")])
    holder = sqlite3.connect(tmp_path / "staging.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="held by another process") as caught:
        Staging(tmp_path / "staging.db", timeout=0.0)
    assert caught.value.hint is not None
    holder.execute("ROLLBACK")
    holder.close()
    first.close()


def test_what_is_no_staging_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"no database " * 1000)
    with pytest.raises(Corrupt, match="is damaged"):
        Staging(tmp_path / "junk")
    import sqlite3

    other = sqlite3.connect(tmp_path / "later")
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(UnsupportedFormat, match="99"):
        Staging(tmp_path / "later")


def test_what_is_staged_instead_takes_the_place_of_all(staging: Staging) -> None:
    staging.stage([folder(b"d"), file(b"d/a"), file(b"d/b"), file(b"d/c"), file(b"e")])
    pack_all(staging)
    assert list(staging.left_over()) == []
    assert staging.replace([file(b"d"), file(b"d/a"), file(b"d/b", 11), file(b"new"), file(b"new", 12)]) == 4
    assert rows(staging) == [
        (b"d", Kind.FILE),
        (b"new", Kind.FILE),
        (b"d/a", Kind.FILE),
        (b"d/b", Kind.FILE),
    ]
    assert [staged.source.path for staged in staging.unpacked()] == [b"d", b"new", b"d/b"]
    assert sorted(path for path, _ in staging.left_over()) == [b"d/b", b"d/c", b"e"]
    assert staging.packed_at(b"d/c") == (block(7).digest, (Extent(block(7), 0, 10),))
    assert staging.packed_at(b"new") is None
    assert staging.replace([]) == 0
    assert staging.is_empty()


def test_what_is_staged_instead_is_all_or_nothing(staging: Staging) -> None:
    def broken() -> Iterator[Source]:
        yield file(b"b")
        raise Unavailable("no more")

    staging.stage([file(b"a")])
    with pytest.raises(Unavailable):
        staging.replace(broken())
    assert rows(staging) == [(b"a", Kind.FILE)]
