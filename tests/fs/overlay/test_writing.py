"""Writing: only what is touched is stored, and whatever is read afterwards is what a plain file would hold."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfs.fs.errno import Refused
from dvfs.store.catalog.pages import NotCached
from tests.overlay_kit import CELL, FILES, NOW, Base, Client, Live, Outcome, living
from tests.store.noise import noise

CELLS = FILES[b"d/cells"]
LARGE = FILES[b"d/large"]


def held(live: Live, path: bytes) -> set[int]:
    """Return the cells of the file at *path* that the top layer holds."""
    node = live.client.node(path)
    cells = live.editing.files.get(node.ino, node.layer).cells
    return {cell for cell in range(100) if cells.has(cell)}


def stored_bytes(live: Live) -> int:
    """Return the bytes that all data files take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in (live.path / "data").rglob("*.*") if path.suffix != ".cells")


def patched(data: bytes, start: int, new: bytes) -> bytes:
    grown = data.ljust(start, b"\0")
    return grown[:start] + new + grown[start + len(new) :]


@pytest.mark.parametrize("edge", [CELL, 2 * CELL, 3 * CELL, 3 * CELL + 100])
@pytest.mark.parametrize("before", [-1, 0, 1])
@pytest.mark.parametrize("length", [1, 2, CELL - 1, CELL, CELL + 1])
def test_a_write_around_a_boundary(live: Live, client: Client, edge: int, before: int, length: int) -> None:
    data = noise(length, edge + before)
    client.write(b"d/cells", edge + before, data)

    assert client.read(b"d/cells") == patched(CELLS, edge + before, data)
    live.kill()
    assert live.client.read(b"d/cells") == patched(CELLS, edge + before, data)


def test_a_write_stores_the_cells_that_it_touches(live: Live, client: Client) -> None:
    client.write(b"d/large", 100_000, b"abc")
    assert held(live, b"d/large") == {100_000 // CELL}
    client.write(b"d/large", CELL, noise(2 * CELL))
    assert held(live, b"d/large") == {1, 2, 100_000 // CELL}
    assert stored_bytes(live) == 3 * CELL
    assert client.read(b"d/large") == patched(patched(LARGE, 100_000, b"abc"), CELL, noise(2 * CELL))


def test_whole_cells_are_not_filled(live: Live, client: Client) -> None:
    ino = client.node(b"d/cells").ino
    assert client.do(lambda: client.writing.prepare_write(ino, CELL, 2 * CELL)) == []
    assert client.do(lambda: client.writing.prepare_write(ino, 3 * CELL, 100)) == []  # to the end of the file
    fills = client.do(lambda: client.writing.prepare_write(ino, CELL - 1, CELL + 2))
    assert [start for _, start in fills] == [0, 2 * CELL]


def test_a_file_of_the_version_is_told_from_one_with_edits(live: Live, client: Client) -> None:
    ino = client.node(b"one").ino
    assert client.writing.is_of_version(ino)
    client.chmod(b"one", 0o600)
    assert client.writing.is_of_version(ino)
    client.write(b"one", 0, b"2")
    assert not client.writing.is_of_version(ino)
    live.freeze()
    client.chmod(b"one", 0o644)
    assert not client.writing.is_of_version(ino)
    assert not client.writing.is_of_version(client.mknod(b"new").ino)


@pytest.mark.parametrize("down", [0, 1, CELL - 1, CELL, CELL + 1, 3 * CELL + 99])
@pytest.mark.parametrize("up", [1, CELL, 4 * CELL])
@pytest.mark.parametrize("written", [False, True])
def test_what_was_cut_off_comes_back_as_zeros(live: Live, client: Client, down: int, up: int, written: bool) -> None:
    expected = CELLS
    if written:
        client.write(b"d/cells", CELL - 5, noise(CELL))
        expected = patched(expected, CELL - 5, noise(CELL))
    client.truncate(b"d/cells", down)
    assert client.read(b"d/cells") == expected[:down]
    client.truncate(b"d/cells", down + up)
    assert client.read(b"d/cells") == expected[:down] + bytes(up)
    client.write(b"d/cells", down + up - 1, b"x")
    live.kill()
    assert live.client.read(b"d/cells") == expected[:down] + bytes(up - 1) + b"x"


def test_a_file_grows_by_zeros(live: Live, client: Client) -> None:
    client.truncate(b"one", 3 * CELL)
    client.write(b"one", 5 * CELL, b"end")
    assert client.read(b"one") == b"1" + bytes(5 * CELL - 1) + b"end"
    assert stored_bytes(live) == CELL


def test_truncating_to_the_same_size_changes_nothing(live: Live, client: Client) -> None:
    client.truncate(b"d/cells", len(CELLS))
    assert client.node(b"d/cells").floor is None


@pytest.mark.parametrize(("path", "number"), [(b"d", errno.EISDIR), (b"link", errno.EINVAL), (b"pipe", errno.EINVAL)])
def test_only_files_have_bytes(live: Live, client: Client, path: bytes, number: int) -> None:
    client.mknod(b"pipe", stat.S_IFIFO | 0o644)
    ino = client.node(path).ino
    attempts: list[Callable[[], object]] = [
        lambda: client.writing.stack(ino),
        lambda: client.writing.prepare_write(ino, 0, 1),
        lambda: client.overlay.setattr(ino, resize=lambda change, node: client.writing.truncate(change, node, 0)),
    ]
    for attempt in attempts:
        with pytest.raises(Refused) as refused:
            attempt()
        assert refused.value.errno == number


def test_times_are_set_unless_the_kernel_keeps_them(live: Live, client: Client) -> None:
    ino, before = client.node(b"d/cells").ino, client.node(b"d/cells")
    client.pwrite(ino, 0, b"abc", set_times=False)
    assert client.node(b"d/cells").mtime_ns == before.mtime_ns
    client.pwrite(ino, len(CELLS), b"abc", set_times=False)
    assert client.node(b"d/cells")[5:8] == (len(CELLS) + 3, before.atime_ns, before.mtime_ns)
    now = live.clock.now_ns()
    client.pwrite(ino, 0, b"abc")
    assert client.node(b"d/cells").mtime_ns >= now


# --- kills


def test_what_was_written_is_there_after_a_kill(live: Live, client: Client) -> None:
    client.mknod(b"new")
    for number in range(10):
        client.write(b"new", number * 1000, noise(1000, number))
        client.write(b"d/cells", number * 2000, noise(500, number))
    before = client.tree()
    live.kill()
    assert live.client.tree() == before
    live.kill()
    assert live.client.tree() == before


def test_after_a_kill_a_file_that_was_written_in_place_has_another_time(live: Live, client: Client) -> None:
    client.write(b"d/cells", 0, b"abc")
    client.utime(b"d/cells", 5)
    live.kill()
    assert live.client.node(b"d/cells").mtime_ns == 5
    live.client.write(b"d/cells", 0, b"abd")
    live.kill()
    assert live.client.tree()[b"d/cells"].mtime_ns == NOW
    assert live.client.node(b"d/cells").size == len(CELLS)


def test_after_a_kill_a_file_that_was_only_read_has_its_time(live: Live, client: Client) -> None:
    client.truncate(b"one", 3 * CELL)
    client.utime(b"one", 5)
    assert client.read(b"one") == b"1" + bytes(3 * CELL - 1)
    live.kill()
    assert live.client.node(b"one").mtime_ns == 5


def test_a_kill_between_bytes_and_cells_leaves_what_was_there(live: Live, client: Client) -> None:
    ino = client.node(b"d/cells").ino
    for stack, start in client.do(lambda: client.writing.prepare_write(ino, 10, 5)):
        client.writing.fill(stack, start, wait=True)
    os.pwrite(client.writing.target(ino).handle, b"torn!", 10)
    live.kill()
    assert live.client.read(b"d/cells") == CELLS


# --- failures


def test_bytes_of_a_write_that_failed_do_not_show_when_the_file_grows(
    live: Live, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.mknod(b"new")
    client.write(b"new", 0, b"abc")
    whole = os.pwrite

    def half(handle: int, data: bytes, start: int) -> int:
        if handle == live.rows.log.fileno():
            return whole(handle, data, start)
        if len(data) < 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(handle, data[:1000], start)

    for path, data in ((b"new", b"abc"), (b"d/cells", CELLS)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", half)
            with pytest.raises(OSError, match="No space"):
                client.write(path, len(data), noise(1500))
        assert client.read(path) == data
        client.truncate(path, len(data) + 2000)
        assert client.read(path) == data + bytes(2000)
    live.kill()
    assert live.client.read(b"new") == b"abc" + bytes(2000)


def make(client: Client, number: int) -> None:
    client.mknod(b"new%d" % number)
    client.write(b"new%d" % number, 0, noise(100_000, number))


def test_on_a_full_disk_writes_fail_and_what_was_written_stays(
    base: Base, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with living(base, small_disk / "overlay") as live:
        client = live.client
        made = 0
        while not (outcome := Outcome.of(partial(make, client, made))).errno:
            made += 1
        assert outcome.errno == errno.ENOSPC
        names = [b"new%d" % number for number in range(made)]
        assert all(client.read(name) == noise(100_000, number) for number, name in enumerate(names))
        for name in [*names[1:], *([b"new%d" % made] if client.exists(b"new%d" % made) else [])]:
            client.unlink(name)
        live.rows.log.sync()
        live.editing.files.bury(live.rows.log.synced)
        client.write(b"new0", 0, b"room again")
        before = client.tree()
        live.kill()
        assert live.client.tree() == before


# --- the store


@pytest.mark.parametrize("has_row", [False, True])
def test_what_is_not_cached_is_asked_for_before_anything_is_changed(live: Live, client: Client, has_row: bool) -> None:
    ino = client.node(b"d/large").ino
    if has_row:
        client.chmod(b"d/large", 0o600)
    live.kill()
    client, writing = live.client, live.client.writing
    serial = live.rows.log.serial
    with pytest.raises(NotCached):
        writing.prepare_write(ino, 5, 10)
    if not has_row:
        with pytest.raises(NotCached):
            client.overlay.setattr(ino, resize=lambda change, node: writing.truncate(change, node, 7))
    assert live.rows.log.serial == serial
    client.pwrite(ino, 5, b"abc")
    assert client.pread(ino) == patched(LARGE, 5, b"abc")


def test_sync_covers_all_layers_that_hold_bytes(live: Live, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.write(b"d/cells", 0, b"abc")
    live.freeze()
    client.write(b"d/cells", 2 * CELL, b"abc")
    synced: list[str] = []
    real = os.fdatasync

    def note(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", note)
    ino = client.node(b"d/cells").ino
    client.writing.sync(ino)()
    assert set(synced) == {f"{ino}.{layer}{end}" for layer in (1, 2) for end in ("", ".cells")} | {"log"}
    synced.clear()
    client.chmod(b"d/cells", 0o600)
    live.freeze()
    synced.clear()
    client.chmod(b"d/cells", 0o644)
    client.writing.sync(ino)()
    assert set(synced) == {f"{ino}.{layer}{end}" for layer in (1, 2) for end in ("", ".cells")} | {"log"}
    synced.clear()
    client.writing.sync(client.node(b"one").ino)()
    assert synced == ["log"]


POSITIONS = st.one_of(
    st.integers(0, 5 * CELL),
    st.builds(lambda cell, off: max(0, cell * CELL + off), st.integers(0, 5), st.integers(-2, 2)),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "write", "truncate", "freeze", "kill"]), POSITIONS, POSITIONS),
    max_size=12,
)


@settings(max_examples=60)
@given(steps=STEPS, path=st.sampled_from([b"d/cells", b"cell", b"cell+1", b"empty", b"new"]))
def test_any_edits_of_a_file(
    base: Base, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], path: bytes
) -> None:
    folder = tmp_path_factory.mktemp("edits")
    with living(base, folder / "overlay") as live:
        expected = FILES.get(path, b"")
        if path == b"new":
            live.client.mknod(path)
        for number, (kind, start, length) in enumerate(steps):
            if kind == "write":
                data = noise(length or 1, number)
                live.client.write(path, start, data)
                expected = patched(expected, start, data)
            elif kind == "truncate":
                live.client.truncate(path, start)
                expected = expected[:start].ljust(start, b"\0")
            elif kind == "freeze":
                live.freeze()
            else:
                live.kill()
            assert live.client.read(path) == expected
            assert live.client.read(path, start, length) == expected[start : start + length]
