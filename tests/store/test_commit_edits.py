"""Files edited in place: what comes out is what adding the edited file anew gives, and little is read and sent."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.catalog.blocktree import pages_of
from dvfs.store.catalog.entry import BlockTreeRef, Entry
from dvfs.store.commit import Change, Edited
from dvfs.store.cut import cut
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.packing import PackingOptions
from dvfs.store.record import Record
from dvfs.store.store import Store
from tests.commit_kit import Committer, MemoryFiles, entries, file_entry, gone, write
from tests.fault_kit import TINIEST
from tests.memory_backend import MemoryBackend
from tests.store.noise import noise
from tests.store_kit import Kit

CUTTING = TINIEST.cutting
BIG = noise(600_000, 1)
MIDDLING = noise(60_000, 2)
ZEROS = bytes(200_000)
FILES = {"big": BIG, "middling": MIDDLING, "zeros": ZEROS, "small": noise(3000, 3)}


class Edits:
    """A store with a version of FILES, its entries, and one machine that commits to it."""

    def __init__(self, store: Store, parent: Record) -> None:
        self.store = store
        self.parent = parent
        self.before = entries(store, parent)

    def commit(self, path: str, data: bytes, written: list[tuple[int, int]], floor: int | None = None) -> MemoryFiles:
        """Commit *path* edited to *data*, and check all of the outcome; return what was read."""
        files = MemoryFiles()
        change = files.edit(path, data, self.before[path], written, floor=floor)
        record = Committer(self.parent, files)(self.store, [change])
        if data == FILES[path]:
            assert record is None
        else:
            assert record is not None
            self.check(record, path, data)
        return files

    def check(self, record: Record, path: str, data: bytes) -> Entry:
        """*path* of *record* is what adding *data* anew gives."""
        with closing(self.store.version(record)) as version:
            found = version.tree.find(path.encode())
            assert found is not None
            entry = found[1]
            assert version.read(entry) == data
            digests = [block.digest for block in version.blocks(entry)]
        blocks = [block_digest(raw) for raw in pieces(data)]
        assert digests == blocks
        assert entry.digest == (file_digest(len(data), blocks) if len(blocks) > 1 else block_digest(data))
        return entry


def pieces(data: bytes) -> list[bytes]:
    """The blocks of a file of *data* by itself."""
    if len(data) <= CUTTING.small_file_bytes:
        return [data] if data else []
    return list(cut(io.BytesIO(data).readinto, CUTTING))


@pytest.fixture(params=["read whole", "streamed"])
def edits(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edits]:
    if request.param == "streamed":
        streaming = functools.partial(PackingOptions, whole_bytes=5000)
        monkeypatch.setattr("dvfs.store.commit.PackingOptions", streaming)
    backend = MemoryBackend()
    kit = Kit(lambda: backend, tmp_path, TINIEST)
    parent = kit.publish(write(tmp_path / "source", FILES))
    with kit.machine() as store:
        yield Edits(store, parent)


def patched(data: bytes, start: int, new: bytes) -> bytes:
    return data[:start] + new + data[start + len(new) :]


@pytest.mark.parametrize("path", ["big", "middling"])
def test_one_byte_reads_and_sends_what_is_around_it(edits: Edits, path: str) -> None:
    old = FILES[path]
    cuts = [0]
    for raw in pieces(old):
        cuts.append(cuts[-1] + len(raw))
    near = 0
    for at in range(100, len(old), len(old) // 12):
        packs = stored_bytes(edits.store)
        files = edits.commit(path, patched(old, at, b"!"), [(at, at + 1)])
        touched = {block for _, start, stop in files.reads for block in blocks_touched(cuts, start, stop)}
        here = blocks_touched(cuts, at, at + 1)[0]
        assert min(touched) >= here - 1
        near += max(touched) <= here + 2
        assert len(touched) <= 6
        assert stored_bytes(edits.store) - packs < 4 * CUTTING.max_bytes
    assert near >= 9


def blocks_touched(cuts: list[int], start: int, stop: int) -> list[int]:
    return [number for number in range(len(cuts) - 1) if cuts[number] < stop and start < cuts[number + 1]]


def stored_bytes(store: Store) -> int:
    return sum(item.size for item in store.backend.list("packs/"))


def test_the_pages_of_a_long_list_of_blocks_are_shared(edits: Edits) -> None:
    files = MemoryFiles()
    change = files.edit("big", patched(BIG, 300_000, b"!"), edits.before["big"], [(300_000, 300_001)])
    record = Committer(edits.parent, files).child(edits.store, [change])
    entry = entries(edits.store, record)["big"]
    assert isinstance(entry.content, BlockTreeRef)
    with closing(edits.store.version(record)) as version:
        old, new = (set(pages_of(one.content, version.pages.load_blocks)) for one in (edits.before["big"], entry))
    assert len(old) > 20
    assert len(new - old) <= 3 * (entry.content.level + 1)
    assert all(page.pack[:16].hex() == record.id for page in new - old)


def test_lengths(edits: Edits) -> None:
    for path, old in (("big", BIG), ("middling", MIDDLING)):
        grown = old + noise(20_000, 9)
        files = edits.commit(path, grown, [(len(old), len(grown))])
        assert files.read_bytes(path.encode()) <= 20_000 + 3 * CUTTING.max_bytes
        files = edits.commit(path, old[:-10_000], [], floor=len(old) - 10_000)
        assert files.read_bytes(path.encode()) <= 3 * CUTTING.max_bytes
        edits.commit(path, old[:-10_000] + bytes(10_000), [(len(old) - 10_000, len(old))], floor=len(old) - 10_000)
        edits.commit(path, old[:4097], [], floor=4097)
        edits.commit(path, old[:4096], [], floor=4096)
        edits.commit(path, b"", [], floor=0)
        edits.commit(path, old, [(0, len(old))], floor=0)
    edits.commit("small", FILES["small"] + noise(9000, 10), [(3000, 12_000)])
    edits.commit("small", patched(FILES["small"], 5, b"!"), [(5, 6)])


def test_the_same_bytes_written_again_send_nothing(edits: Edits) -> None:
    packs = stored_bytes(edits.store)
    for path in FILES:
        edits.commit(path, FILES[path], [(1, 3), (2500, 3000)])
    assert stored_bytes(edits.store) == packs


def test_a_file_edited_and_moved(edits: Edits) -> None:
    """What lies under it is known, though it has another path."""
    files = MemoryFiles()
    data = patched(BIG, 1000, noise(100, 4))
    files.data[b"h"] = data
    moved = Change(b"moved", file_entry(len(data)), Edited(b"h", edits.before["big"], len(BIG), [(1000, 1100)]))
    small = Change(b"too", file_entry(3000), Edited(b"s", edits.before["small"], 3000, [(0, 1)]))
    files.data[b"s"] = FILES["small"]
    packs = stored_bytes(edits.store)
    record = Committer(edits.parent, files).child(edits.store, [gone("big"), moved, gone("small"), small])
    entry = edits.check(record, "moved", data)
    assert entry.size == len(BIG)
    assert stored_bytes(edits.store) - packs < 100_000
    assert entries(edits.store, record)["too"].content == edits.before["small"].content


def test_many_ranges_far_and_near(edits: Edits) -> None:
    data = bytearray(BIG)
    written = []
    for start in [*range(10_000, 40_000, 100), *range(100_000, 600_000, 50_000)]:
        data[start : start + 3] = b"xyz"
        written.append((start, start + 3))
    files = edits.commit("big", bytes(data), written)
    assert files.read_bytes(b"big") < len(BIG) // 2


OPERATIONS = st.tuples(
    st.sampled_from(["write", "write", "zeros", "truncate", "grow"]),
    st.integers(0, 200),
    st.integers(-2, 2),
    st.one_of(st.integers(1, 3), st.integers(1, 30_000)),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edits]:
    """One store for many examples: each commits to the same parent."""
    top = tmp_path_factory.mktemp("edits")
    backend = MemoryBackend()
    kit = Kit(lambda: backend, top, TINIEST)
    parent = kit.publish(write(top / "source", FILES))
    with kit.machine() as store:
        yield Edits(store, parent)


@given(
    path=st.sampled_from(sorted(FILES)),
    operations=st.lists(OPERATIONS, min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_any_edits_give_what_adding_the_file_anew_gives(
    shared: Edits, path: str, operations: list[tuple[str, int, int, int]], seed: int
) -> None:
    old = FILES[path]
    cuts = [0]
    for raw in pieces(old):
        cuts.append(cuts[-1] + len(raw))
    data = bytearray(old)
    floor = len(old)
    written: list[tuple[int, int]] = []
    for what, number, near, length in operations:
        at = max(0, cuts[number % len(cuts)] + near)
        if what == "truncate":
            floor = min(floor, at)
            del data[at:]
            continue
        if what == "grow":
            at = len(data)
        if at > len(data):
            written.append((len(data), at))
            data += bytes(at - len(data))
        data[at : at + length] = bytes(length) if what == "zeros" else noise(length, seed)
        written.append((at, at + length))
    shared.commit(path, bytes(data), merged(written, len(data)), floor)


def merged(written: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Return *written* sorted and disjoint, below *size*."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(written):
        stop = min(stop, size)
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        elif start < stop:
            found.append((start, stop))
    return found
