"""Packing: every byte read once and found again; failures by name; nothing counts as packed before it is there."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.codec import Compression
from dvfs.store.digest import Buffer
from dvfs.store.errors import InvalidInput, SourceChanged, Unavailable
from dvfs.store.packing import PackingOptions, PackingResult, Previous, Reuse
from dvfs.store.source import Source
from dvfs.store.staging import PackedFile
from tests.memory_backend import MemoryBackend
from tests.packing_bench import CUTTING, OPTIONS, PackingBench
from tests.store.noise import noise

HOLD_SECONDS = 60.0

TREE = {
    "empty": b"",
    "one": b"1",
    "small/a": noise(1000, 1),
    "small/b": noise(2000, 2),
    "small/c": noise(1500, 3),
    "small/full": noise(4096, 4),
    "small/text": b"words " * 600,
    "whole": noise(4097, 5),
    "whole-zeros": bytes(20_000),
    "whole-max": noise(32 << 10, 6),
    "large": noise(100_000, 7),
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[PackingBench]:
    made = PackingBench(tmp_path, MemoryBackend())
    yield made
    made.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("dvfs-")] == []


class Counting:
    """Progress that adds up."""

    def __init__(self, at: Callable[[int], None] = lambda count: None) -> None:
        self.bytes: dict[bytes, int] = {}
        self.partial = 0
        self.total = 0
        self.calls = 0
        self._at = at

    def on_bytes(self, size: int) -> None:
        self.partial += size
        self._count(size)

    def on_file(self, path: bytes, size: int) -> None:
        self.bytes[path] = self.partial + size
        self.partial = 0
        self._count(size)

    def _count(self, size: int) -> None:
        self.total += size
        self.calls += 1
        self._at(self.calls)


def sent(bench: PackingBench) -> int:
    """Bytes of blocks in the store, raw."""
    return sum(block.raw for block in bench.blocks())


@pytest.mark.parametrize("policy", ["auto", "none", "zstd:1"])
def test_all_kinds_of_files_come_back(bench: PackingBench, policy: str) -> None:
    bench.write(TREE)
    bench.add()
    counting = Counting()
    result = bench.pack(replace(OPTIONS, compression=Compression.parse(policy)), progress=counting)
    assert bench.contents() == TREE
    assert bench.staging.pending().files == 0
    assert (result.files, result.bytes) == (len(TREE), sum(map(len, TREE.values())))
    assert counting.bytes == {name.encode(): len(data) for name, data in TREE.items()}
    assert isinstance(bench.backend, MemoryBackend)
    assert result.packs == len(bench.backend.objects) > 3
    assert result.stored_bytes == sum(map(len, bench.backend.objects.values()))
    codecs = {block.codec for block in bench.blocks()}
    assert codecs == ({Codec.RAW} if policy == "none" else {Codec.RAW, Codec.ZSTD})


def test_small_files_lie_together_in_catalog_order(bench: PackingBench) -> None:
    files = {f"{'ab'[number // 20]}{number:02}": noise(700, number) for number in range(40)}
    bench.write(files)
    bench.add()
    bench.pack()
    blocks = bench.blocks()
    assert [block.raw for block in blocks] == [3500] * 8
    laid = [
        (blocks.index(row.extents[0].block), row.extents[0].start) for row in bench.packed().values() if row.extents
    ]
    assert laid == [(number // 5, number % 5 * 700) for number in range(40)]


def test_a_larger_file_ends_the_block_of_small_ones(bench: PackingBench) -> None:
    bench.write({"a": noise(10, 1), "b": noise(5000, 2), "c": noise(10, 3)})
    bench.add()
    bench.pack()
    assert [block.raw for block in bench.blocks()][:1] == [10]
    assert len(bench.blocks()) >= 4


def test_what_comes_out_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    stores = []
    for workers in (1, 2, 7):
        backend = MemoryBackend()
        root = tmp_path / str(workers)
        root.mkdir()
        bench = PackingBench(root, backend)
        bench.write(TREE)
        bench.write({f"many/{number}": noise(number * 13 % 3000, number % 40) for number in range(200)})
        bench.add()
        bench.pack(replace(OPTIONS, workers=workers, compression=Compression("zstd")))
        bench.close()
        stores.append(backend.objects)
    assert stores[0] == stores[1] == stores[2]


def test_equal_bytes_are_sent_once(bench: PackingBench) -> None:
    small, whole, large = noise(900, 1), noise(9000, 2), noise(90_000, 3)
    for copy in "abc":
        bench.write({f"{copy}/small": small, f"{copy}/twin": small, f"{copy}/whole": whole, f"{copy}/large": large})
        bench.write({f"{copy}/empty": b"", f"{copy}/own": noise(500, ord(copy))})
    bench.add()
    bench.pack()
    assert sent(bench) == len(small) + len(whole) + len(large) + 3 * 500
    assert len(bench.contents()) == 18
    assert bench.packed()["a/empty"].extents == ()


def test_a_small_file_that_equals_a_block_of_a_large_one_is_found(bench: PackingBench) -> None:
    large = noise(50_000, 3)
    bench.write({"a-large": large})
    bench.add()
    bench.pack()
    extents = bench.packed()["a-large"].extents
    assert extents is not None
    block = next(extent.block for extent in extents if extent.block.raw <= CUTTING.small_file_bytes)
    bench.write({"b": bench.read_extent(Extent(block, 0, block.raw))})
    bench.add()
    assert bench.pack(reuse=Reuse(blocks=bench.staging.sent_blocks())).packs == 0
    assert bench.packed()["b"].extents == (Extent(block, 0, block.raw),)


def test_no_large_file_is_made_of_parts_of_shared_blocks(bench: PackingBench) -> None:
    """A cut block that equals a small file laid among others is sent again: only whole blocks make a cut file."""
    large = noise(20_000, 3)
    bench.write({"z": large})
    bench.add()
    bench.pack()
    extents = bench.packed()["z"].extents
    assert extents is not None
    piece = bench.read_extent(extents[-1])
    assert len(piece) <= CUTTING.small_file_bytes - 100

    again = PackingBench(bench.folder.parent, MemoryBackend(), names=b"q")
    again.staging.drop([b"z"])
    bench.write({"a/1": noise(50, 1), "a/2": piece})
    again.add()
    again.pack()
    assert again.contents() == {"a/1": noise(50, 1), "a/2": piece, "z": large}
    again.close()


def base_of(bench: PackingBench) -> Callable[[Source], Previous | None]:
    """What is packed now, as the base of a later run."""
    rows = {row.source.path: row for row in bench.staging.edits()}

    def base(source: Source) -> Previous | None:
        row = rows.get(source.path)
        if row is None or row.digest is None:
            return None
        extents = row.extents or ()
        return Previous(row.source.size, row.digest, lambda: extents)

    return base


def test_what_the_base_has_at_the_same_path_is_not_sent(bench: PackingBench) -> None:
    bench.write(TREE)
    bench.add()
    bench.pack()
    before = bench.packed()
    base = base_of(bench)
    for path in bench.folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    bench.add()
    assert bench.staging.pending().files == len(TREE)
    result = bench.pack(reuse=Reuse(base=base))
    assert (result.files, result.packs) == (len(TREE), 0)
    assert {path: row.extents for path, row in bench.packed().items()} == {
        path: row.extents for path, row in before.items()
    }


def test_a_change_inside_a_large_file_sends_the_blocks_around_it(bench: PackingBench) -> None:
    data = noise(200_000, 1)
    bench.write({"large": data, "whole": data[:30_000]})
    bench.add()
    bench.pack()
    base = base_of(bench)
    before = sent(bench)
    changed = data[:100_000] + b"!" + data[100_000:]
    bench.write({"large": changed, "whole": b"!" + data[:30_000]})
    bench.add()
    bench.pack(reuse=Reuse(base=base))
    assert bench.contents() == {"large": changed, "whole": b"!" + data[:30_000]}
    assert 0 < sent(bench) - before <= 6 * CUTTING.max_bytes


def test_what_the_caller_looks_up_is_not_sent(bench: PackingBench) -> None:
    bench.write({"old/small": noise(300, 1), "old/large": noise(60_000, 2)})
    bench.add()
    bench.pack()
    known = {row.digest: row.extents or () for row in bench.packed().values()}
    known |= {extent.block.digest: (extent,) for row in bench.packed().values() for extent in row.extents or ()}
    asked: list[int] = []

    def lookup(digest: bytes, size: int) -> tuple[Extent, ...] | None:
        asked.append(size)
        return known.get(digest)

    (bench.folder / "old").rename(bench.folder / "new")
    bench.add()
    assert bench.pack(reuse=Reuse(lookup=lookup)).packs == 0
    assert bench.contents()["new/large"] == noise(60_000, 2)
    assert 300 in asked


def change(path: Path, how: str) -> None:
    """Make *path* another than was staged."""
    if how == "grown":
        path.write_bytes(path.read_bytes() + b"more")
    elif how == "shrunk":
        os.truncate(path, 3)
    elif how == "same size":
        path.write_bytes(bytes(path.stat().st_size))
    elif how == "same size and mtime":
        before = path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(before, before))
    elif how == "replaced":
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
        other.replace(path)
    else:
        path.unlink()
        if how == "a link":
            path.symlink_to("small")
        elif how == "a fifo":
            os.mkfifo(path)
        elif how == "a folder":
            path.mkdir()


CHANGES = ["grown", "shrunk", "same size", "same size and mtime", "replaced", "a link", "a fifo", "a folder", "gone"]
SIZES = {"small": 100, "whole": 10_000, "large": 50_000}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kind", SIZES)
def test_a_source_that_is_another_than_was_staged_fails_by_name(bench: PackingBench, kind: str, how: str) -> None:
    good = {"a": noise(50, 1), "z": noise(60_000, 2)}
    bench.write({**good, "bad": noise(SIZES[kind], 3)})
    bench.add()
    change(bench.folder / "bad", how)
    result = bench.pack()
    assert [path for path, _ in result.failures.named] == [os.fsencode(bench.folder / "bad")]
    with pytest.raises(SourceChanged, match=f"1 file could not be uploaded:\n  {bench.folder}/bad: "):
        result.raise_failures()
    assert bench.contents() == good
    assert bench.staging.pending().files == 1
    assert bench.pack().failures.count == 1


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kind", SIZES)
def test_refresh_takes_what_is_there_now(bench: PackingBench, kind: str, how: str) -> None:
    bench.write({"a": noise(50, 1), "bad": noise(SIZES[kind], 3)})
    bench.add()
    path = bench.folder / "bad"
    change(path, how)
    result = bench.pack(replace(OPTIONS, refresh=True))
    if how in ("a link", "a fifo", "a folder", "gone"):
        assert result.failures.count == 1
        return
    assert bench.contents()["bad"] == path.read_bytes()
    assert bench.packed()["bad"].source.fits(path.stat())
    assert result.failures.count == 0
    bench.add()
    assert bench.staging.pending().files == 0


def test_refresh_may_make_a_small_file_large_and_a_large_one_small(bench: PackingBench) -> None:
    bench.write({"a": noise(10, 1), "b": noise(90_000, 2), "c": noise(10, 3)})
    bench.add()
    after = {"a": noise(80_000, 4), "b": noise(5, 5), "c": b""}
    bench.write(after)
    bench.pack(replace(OPTIONS, refresh=True))
    assert bench.contents() == after


def test_a_large_file_that_changes_while_it_is_read_fails(bench: PackingBench) -> None:
    for name, how in (("grows", "grown"), ("shrinks", "shrunk"), ("changes", "same size")):
        bench.write({name: noise(3_000_000, 1)})
        bench.add()
        result = bench.pack(progress=Counting(changer(bench.folder / name, how)))
        assert [path for path, _ in result.failures.named] == [os.fsencode(bench.folder / name)]
        assert result.changed
        (bench.folder / name).unlink()
        bench.staging.drop([name.encode()])


def changer(path: Path, how: str) -> Callable[[int], None]:
    """A callback that changes *path* at its first call."""
    return lambda count: change(path, how) if count == 1 else None


def test_files_that_are_gone_fail_by_name_and_many_are_counted(bench: PackingBench) -> None:
    bench.write({f"{number:02}": b"%d" % number for number in range(30)})
    bench.add()
    for number in range(5, 30):
        (bench.folder / f"{number:02}").unlink()
    result = bench.pack()
    with pytest.raises(SourceChanged) as caught:
        result.raise_failures()
    assert caught.value.message.startswith("25 files could not be uploaded:")
    assert caught.value.message.count("no such file") == 20
    assert caught.value.message.endswith("and 5 more")
    assert len(bench.contents()) == 5


def test_files_that_may_not_be_read_fail_by_name(bench: PackingBench) -> None:
    bench.write({"a": b"a", "closed": b"b"})
    (bench.folder / "closed").chmod(0o600)
    bench.add()
    path = bench.folder / "closed"
    for above in path.parents:
        if above.stat().st_uid == os.getuid() and not above.stat().st_mode & 0o001:
            above.chmod(0o755)
    if os.geteuid() == 0:
        result = packed_as_nobody(bench)
    else:
        path.chmod(0)
        result = bench.pack()
    with pytest.raises(InvalidInput, match=f"1 file could not be uploaded:\n  {path}: permission denied") as caught:
        result.raise_failures()
    assert not isinstance(caught.value, SourceChanged)


def packed_as_nobody(bench: PackingBench) -> PackingResult:
    """Root may read all: read as somebody else."""
    os.seteuid(65534)
    try:
        return bench.pack(mark=lambda files, blocks: None)
    finally:
        os.seteuid(0)


class Puts:
    """Puts into a backend that fail on order, and note how many there are at once."""

    def __init__(self, bench: PackingBench, *, fail: Callable[[int], bool] = lambda number: False) -> None:
        self._bench = bench
        self._fail = fail
        self._lock = threading.Lock()
        self.calls = 0
        self.now = 0
        self.most = 0

    def __call__(self, key: str, data: Buffer) -> None:
        with self._lock:
            self.calls += 1
            number = self.calls
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if self._fail(number):
                raise Unavailable(f"put {number} failed")
            self._bench.backend.put_if_absent(key, data)
        finally:
            with self._lock:
                self.now -= 1


MANY = {f"{number:03}": noise(3000, number) for number in range(40)} | {"large": noise(70_000, 99)}


def count_packs(bench: PackingBench) -> int:
    puts = Puts(bench)
    bench.pack(put=puts)
    return puts.calls


@pytest.mark.parametrize("failing", [1, 2, 5, -1])
def test_a_failed_put_surfaces_and_the_next_run_sends_the_rest(tmp_path: Path, failing: int) -> None:
    whole = PackingBench(tmp_path, MemoryBackend())
    whole.write(MANY)
    whole.add()
    packs = count_packs(whole)
    assert packs > 8
    whole.close()
    (tmp_path / "staging.db").unlink()

    bench = PackingBench(tmp_path, MemoryBackend())
    bench.add()
    nth = failing if failing > 0 else packs
    with pytest.raises(Unavailable, match=f"put {nth} failed"):
        bench.pack(put=Puts(bench, fail=lambda number: number == nth))
    marked = bench.contents()  # each of them is there, whole
    assert len(marked) < len(MANY)
    assert bench.staging.pending().files == len(MANY) - len(marked)
    before = sent(bench)
    bench.pack(reuse=Reuse(blocks=bench.staging.sent_blocks()))
    assert bench.contents() == MANY
    # Only what a landed pack held of files that were not marked may be there twice: here nothing but small files.
    again = sent(bench) - before
    assert again <= sum(map(len, MANY.values())) - sum(map(len, marked.values()))
    bench.close()


def test_a_failing_last_pack_is_no_success(bench: PackingBench) -> None:
    bench.write({"a": b"only file"})
    bench.add()
    with pytest.raises(Unavailable):
        bench.pack(put=Puts(bench, fail=lambda number: True))
    assert bench.staging.pending().files == 1


def test_a_file_in_two_packs_is_marked_when_both_are_there(bench: PackingBench) -> None:
    """The first pack is held up until the second landed: of a file across both nothing may be marked by then."""
    bench.write({"a": noise(100, 1), "b": noise(30_000, 2), "c": noise(100, 3)})
    bench.add()
    second = threading.Event()
    numbers = itertools.count(1)
    started: list[int] = []

    def put(key: str, data: Buffer) -> None:
        number = next(numbers)
        started.append(number)
        if number == 1:
            assert second.wait(HOLD_SECONDS)
        bench.backend.put_if_absent(key, data)
        second.set()

    marks: list[set[str]] = []

    def mark(files: Iterable[PackedFile], blocks: Iterable[BlockRef]) -> None:
        bench.staging.mark_packed(files, blocks)
        marks.append(set(bench.contents()))  # raises if a pack of a marked file is missing

    bench.pack(put=put, mark=mark)
    assert len(started) == 2
    assert marks[0] <= {"a", "c"}
    assert marks[-1] == {"a", "b", "c"}


def test_what_is_held_in_memory_is_bounded_while_the_store_is_slow(bench: PackingBench) -> None:
    bench.write({f"{number:04}": noise(2000, number) for number in range(400)})
    bench.add()
    release = threading.Event()
    puts = Puts(bench)

    def held(key: str, data: Buffer) -> None:
        assert release.wait(HOLD_SECONDS)
        puts(key, data)

    waiting = threading.Event()

    def at(count: int) -> None:
        # Three packs on their way, one in the making: the next full one has to wait.
        if counting.total >= 4 * OPTIONS.pack_bytes - 4096:
            waiting.set()

    counting = Counting(at)

    def watch() -> None:
        assert waiting.wait(HOLD_SECONDS)
        reached.append(counting.total)
        release.set()

    reached: list[int] = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    bench.pack(put=held, progress=counting)
    watcher.join()
    assert reached[0] <= 4 * (OPTIONS.pack_bytes + 4096)
    assert len(bench.contents()) == 400


def test_no_more_packs_than_allowed_are_on_their_way(bench: PackingBench) -> None:
    bench.write(MANY)
    bench.add()
    puts = Puts(bench)
    bench.pack(replace(OPTIONS, puts=2), put=puts)
    assert 1 <= puts.most <= 2
    assert bench.contents() == MANY


class Interrupted(BaseException):
    """As KeyboardInterrupt, which would end the test run if it got loose."""


def test_an_interruption_keeps_what_was_sent(bench: PackingBench) -> None:
    bench.write(MANY)
    bench.add()

    def at(count: int) -> None:
        if count == 30:
            raise Interrupted

    with pytest.raises(Interrupted):
        bench.pack(progress=Counting(at))
    packs = {info.key for info in bench.backend.list("packs/")}
    marked = bench.contents()
    assert 0 < len(marked) < 30
    bench.pack()
    assert bench.contents() == MANY
    assert packs < {info.key for info in bench.backend.list("packs/")}


def test_errors_of_the_callbacks_surface(bench: PackingBench) -> None:
    bench.write(MANY)
    bench.add()

    def broken(*values: object) -> None:
        raise Unavailable("the base is out of reach")

    for reuse in (Reuse(base=broken), Reuse(lookup=broken)):
        with pytest.raises(Unavailable, match="out of reach"):
            bench.pack(reuse=reuse)
    with pytest.raises(Unavailable, match="out of reach"):
        bench.pack(mark=broken)
    bench.pack()
    assert bench.contents() == MANY


def test_blocks_of_an_unfinished_large_file_are_not_sent_again(bench: PackingBench) -> None:
    bench.write({"large": noise(300_000, 1)})
    bench.add()
    with pytest.raises(Unavailable):
        bench.pack(put=Puts(bench, fail=lambda number: number == 8))
    before = sent(bench)
    assert before > 100_000
    assert bench.packed() == {}
    bench.pack(reuse=Reuse(blocks=bench.staging.sent_blocks()))
    assert bench.contents() == {"large": noise(300_000, 1)}
    assert sent(bench) == 300_000


def test_a_pack_ends_after_many_files_however_short(bench: PackingBench) -> None:
    bench.write({f"{number:04}": b"%d" % number for number in range(500)})
    bench.add()
    assert bench.pack(replace(OPTIONS, files_per_pack=100)).packs == 5
    assert len(bench.contents()) == 500


SHAPES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "d/e", "d/f", "d-x"]), st.integers(0, 9), st.integers(0, 15_000), st.integers(0, 3)
    ),
    max_size=15,
)


@given(SHAPES, st.integers(1, 3), st.sampled_from(["auto", "none"]))
def test_any_tree_comes_back(shapes: list[tuple[str, int, int, int]], workers: int, policy: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        bench = PackingBench(Path(root), MemoryBackend())
        files = {f"{folder}{number}": noise(size, seed) for folder, number, size, seed in shapes}
        bench.write(files)
        bench.add()
        options = PackingOptions(
            CUTTING, Compression.parse(policy), 20_000, workers, whole_bytes=10_000, ahead_bytes=20_000
        )
        bench.pack(options)
        assert bench.contents() == files
        assert sent(bench) <= sum(map(len, set(files.values())))
        bench.close()


def test_refs_of_other_storages_are_kept(bench: PackingBench) -> None:
    """What the base has may lie in another storage: the tag comes back as it was given."""
    bench.write({"a": noise(100, 1)})
    bench.add()
    bench.pack()
    row = bench.packed()["a"]
    assert row.extents is not None
    assert row.digest is not None
    far = BlockRef(7, *row.extents[0].block[1:])
    base = Previous(100, row.digest, lambda: (Extent(far, 0, 100),))
    os.utime(bench.folder / "a", ns=(5, 5))
    bench.add()
    bench.pack(reuse=Reuse(base=lambda source: base))
    extents = bench.packed()["a"].extents
    assert extents is not None
    assert extents[0].block.storage == 7
