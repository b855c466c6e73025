"""Layers: what is frozen stays as it was, and a commit that landed leaves every byte where it can be read."""

from __future__ import annotations

from contextlib import closing

import pytest

from dvfs.fs.overlay import committing, layers
from dvfs.fs.overlay.committing import CommitOptions, Frozen
from dvfs.fs.overlay.desk import LocalDesk
from dvfs.store.errors import NoSpace
from dvfs.store.record import Record
from dvfs.store.upload import UploadOptions
from tests.overlay_kit import CELL, FILES, Client, Live, kept_tree, version_tree
from tests.store.noise import noise

OPTIONS = CommitOptions(skip_special=True, upload=UploadOptions(pack_bytes=1 << 18, workers=1))
CELLS = FILES[b"d/cells"]


def land(live: Live) -> Record:
    """Make the version of what is frozen, and let nobody know."""
    with closing(Frozen(LocalDesk(live.editing), live.store, layers.state(live.rows))) as frozen:
        record = frozen.commit(OPTIONS, None)
    assert record is not None
    return record


def finish(live: Live, record: Record) -> None:
    """Take what is frozen as landed."""
    with closing(Frozen(LocalDesk(live.editing), live.store, layers.state(live.rows))) as frozen:
        frozen.complete(record)


def commit(live: Live) -> Record:
    record = committing.commit(LocalDesk(live.editing), live.store, OPTIONS)
    assert record is not None
    return record


def test_a_freeze_fixes_the_id_and_one_begun_before_goes_on_under_its_own(live: Live, client: Client) -> None:
    client.mkdir(b"new")
    first = layers.freeze(live.rows, "1" * 32)
    assert (first.committed, first.frozen, first.pending) == (0, 1, "1" * 32)
    second = layers.freeze(live.rows, "2" * 32)
    assert (second.committed, second.frozen, second.pending) == (0, 2, "1" * 32)
    live.kill()
    assert layers.state(live.rows) == second
    assert layers.abandon(live.rows) == second._replace(frozen=0, pending="")


def test_completed_what_was_frozen_is_committed(live: Live, client: Client) -> None:
    client.mkdir(b"new")
    layers.freeze(live.rows, "1" * 32)
    client.mkdir(b"newer")
    found = layers.complete(live.rows, layers.state(live.rows).pending)
    assert (found.committed, found.child, found.frozen, found.pending) == (1, "1" * 32, 0, "")
    assert live.rows.has_rows_above(1)


def test_without_room_no_layer_begins(live: Live, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.write(b"one", 0, b"abc")

    def refuse() -> None:
        raise NoSpace("no space")

    with monkeypatch.context() as patch:
        patch.setattr(live.rows, "checkpoint", refuse)
        with pytest.raises(NoSpace):
            live.freeze()
    assert live.rows.top == 1
    client.write(b"one", 3, b"d")
    assert client.read(b"one") == b"abcd"


def test_frozen_bytes_are_not_those_written_since(live: Live, client: Client) -> None:
    client.write(b"d/cells", 10, b"first")
    client.mknod(b"new")
    client.write(b"new", 0, b"new")
    state = live.freeze()
    before = client.tree()
    client.write(b"d/cells", 12, b"second")
    client.truncate(b"new", 1)
    client.truncate(b"new", 5)
    client.unlink(b"cell")

    with live.snapshot() as snapshot:
        assert live.tree_at(snapshot, state.frozen) == before
        assert live.tree_at(snapshot, live.rows.top) == client.tree()
    assert client.read(b"d/cells", 8, 12) == CELLS[8:10] + b"fi" + b"second" + CELLS[18:20]
    assert client.read(b"new") == b"n\0\0\0\0"


def test_bytes_of_many_layers_lie_on_each_other(live: Live, client: Client) -> None:
    expected = bytearray(CELLS)
    for number in range(8):
        start = number * 1500
        data = noise(2000, number)
        client.write(b"d/cells", start, data)
        expected[start : start + 2000] = data
        if number == 5:
            client.truncate(b"d/cells", 9000)
            del expected[9000:]
        live.rows.begin_layer()
        assert client.read(b"d/cells") == bytes(expected)
    live.kill()
    assert live.client.read(b"d/cells") == bytes(expected)


def test_what_was_cut_off_in_one_layer_does_not_come_back_in_another(live: Live, client: Client) -> None:
    for size in (100, 5 * CELL):
        client.truncate(b"d/cells", size)
        live.rows.begin_layer()
    client.write(b"d/cells", 2 * CELL + 7, b"x")
    assert client.read(b"d/cells") == CELLS[:100] + bytes(2 * CELL + 7 - 100) + b"x" + bytes(3 * CELL - 8)


def test_a_landed_commit_drops_the_bytes_and_reads_them_from_the_child(live: Live, client: Client) -> None:
    client.write(b"d/cells", 10, b"first")
    client.mknod(b"new")
    client.write(b"new", 0, noise(100_000))
    tree = client.tree()
    record = commit(live)

    assert list(live.editing.files.all()) == []
    assert version_tree(live.store, record) == kept_tree(tree)
    assert client.tree() == tree
    live.reopen(record)
    assert kept_tree(live.client.tree()) == kept_tree(tree)


def test_writing_goes_on_between_freeze_and_landing(live: Live, client: Client) -> None:
    client.write(b"d/cells", 10, b"first")
    client.mknod(b"new")
    client.write(b"new", 0, noise(10_000))
    live.freeze()
    frozen = client.tree()
    record = land(live)
    client.write(b"d/cells", 2 * CELL, b"second")
    client.write(b"new", 9_999, b"longer")
    client.write(b"one", 5, b"five")
    now = client.tree()
    finish(live, record)

    assert version_tree(live.store, record) == kept_tree(frozen)
    assert client.tree() == now
    live.kill()
    assert live.client.tree() == now
    second = commit(live)
    assert version_tree(live.store, second) == kept_tree(now)
    assert live.client.tree() == now


@pytest.mark.parametrize("step", ["landed", "completed", "repointed in part"])
@pytest.mark.parametrize("layered", [False, True])
def test_killed_while_a_commit_is_taken_as_done_it_keeps_all(
    live: Live, client: Client, step: str, layered: bool
) -> None:
    client.write(b"d/cells", 10, b"first")
    client.write(b"d/large", 100_000, b"large")
    if layered:
        live.freeze()
        client.write(b"d/cells", 2 * CELL, b"second")
        client.write(b"d/large", 10, b"large")
    state = live.freeze()
    frozen = client.tree()
    record = land(live)
    client.write(b"d/cells", CELL, b"third")
    now = client.tree()
    if step != "landed":
        with live.changes(0, state.frozen) as changes, closing(live.store.version(record)) as child:
            landed = list(changes.landed(child.tree))
            assert len(landed) == 2
            layers.complete(live.rows, layers.state(live.rows).pending)
            if step != "completed":
                layers.repoint(live.editing.overlay, state.frozen, landed[:1])
    live.kill()

    assert live.client.tree() == now
    found = committing.settle(LocalDesk(live.editing), live.store)
    assert (found is not None) == (step == "landed")
    assert live.client.tree() == now
    assert version_tree(live.store, record) == kept_tree(frozen)
    live.reopen()
    assert version_tree(live.store, commit(live)) == kept_tree(now)
    assert live.client.tree() == now


def test_an_open_file_without_a_name_keeps_its_bytes_through_a_commit(live: Live, client: Client) -> None:
    ino = client.open(b"d/cells")
    client.pwrite(ino, 10, b"first")
    live.freeze()
    client.pwrite(ino, 2 * CELL, b"second")
    client.unlink(b"d/cells")
    expected = client.pread(ino)
    commit(live)

    assert client.pread(ino) == expected
    client.close(ino)
    client.mkdir(b"new")
    live.reopen()
    assert list(live.editing.files.all()) == []
    assert live.rows.one("SELECT 1 FROM inodes WHERE ino = ?", ino) is None


def test_names_and_attributes_of_an_older_layer_can_be_asked_for_until_it_is_committed(
    live: Live, client: Client
) -> None:
    client.chmod(b"one", 0o600)
    client.rename(b"m", b"moved")
    first = live.freeze().frozen
    then = client.tree()
    client.chmod(b"one", 0o755)
    client.rename(b"moved", b"m")
    client.unlink(b"m/n")
    client.rmdir(b"m")

    with live.snapshot() as snapshot:
        assert live.tree_at(snapshot, first) == then
    live.kill()
    with live.snapshot() as snapshot:
        assert live.tree_at(snapshot, first) == then
    layers.abandon(live.rows)
    commit(live)
    assert live.rows.all("SELECT * FROM old_inodes") == live.rows.all("SELECT * FROM old_dentries") == []


def test_what_is_written_while_a_commit_is_taken_as_done_part_by_part_is_kept(live: Live, client: Client) -> None:
    client.mknod(b"new")
    client.write(b"new", 0, noise(10_000))
    client.write(b"d/cells", 10, b"first")
    state = live.freeze()
    record = land(live)
    with live.changes(0, state.frozen) as changes, closing(live.store.version(record)) as child:
        landed = list(changes.landed(child.tree))
    layers.complete(live.rows, layers.state(live.rows).pending)
    for row in landed:
        client.write(b"new", 9_999, noise(row[0] & 1023))
        client.write(b"d/cells", 5 * CELL, b"longer")
        now = client.tree()
        layers.repoint(live.editing.overlay, state.frozen, [row])
        assert client.tree() == now
    live.kill()
    assert live.client.tree() == now
