"""kill -9 of a process that packs, at each named point; then the next one goes on: nothing lost, nothing sent twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.store.block import BlockRef
from dvfs.store.folder import FolderBackend
from dvfs.store.packing import Reuse
from tests.packing_bench import PackingBench
from tests.packing_process import pack_and_die
from tests.store.noise import noise

FILES = (
    {f"a/{number:03}": noise(3000, number) for number in range(30)}
    | {"m/large": noise(150_000, 99), "z/empty": b""}
    | {f"z/{number:03}": noise(2500, 100 + number) for number in range(30)}
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[PackingBench]:
    (tmp_path / "store").mkdir()
    made = PackingBench(tmp_path, FolderBackend(tmp_path / "store"))
    made.write(FILES)
    made.add()
    yield made
    made.close()


@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("point", ["pack:before-put", "pack:after-put", "pack:before-mark", "pack:after-mark"])
def test_after_kill_9_the_next_run_sends_the_rest(bench: PackingBench, tmp_path: Path, point: str, count: int) -> None:
    pack_and_die(tmp_path, point, count)
    marked = bench.contents()  # each of them can be read whole from what the store has
    assert marked.items() <= FILES.items()
    assert 0 < bench.staging.pending().files == len(FILES) - len(marked)
    assert len(marked) > 0 or count == 1 or point == "pack:before-put"
    remembered = {block.digest for block in bench.staging.sent_blocks()}

    bench.pack(reuse=Reuse(blocks=bench.staging.sent_blocks()))
    assert bench.contents() == FILES
    assert bench.staging.pending().files == 0
    again = [block for block in bench.blocks() if is_from(block, "p")]
    assert not remembered & {block.digest for block in again}
    # Of files that were marked nothing is sent again: there is room for the others' bytes alone.
    assert 0 < sum(block.raw for block in again) <= sum(len(FILES[name]) for name in FILES.keys() - marked.keys())


def is_from(block: BlockRef, letter: str) -> bool:
    """Tell by the id of its pack which run sent a block."""
    return block.pack[16:17] == letter.encode()


def test_killed_again_and_again_it_comes_to_an_end(bench: PackingBench, tmp_path: Path) -> None:
    """Each run comes further; none sends what an earlier one marked."""
    pending = [bench.staging.pending().files]
    for letter in "klm":
        marked = bench.contents()
        pack_and_die(tmp_path, "pack:after-mark", 2, letter=letter)
        sent = sum(block.raw for block in bench.blocks() if is_from(block, letter))
        assert 0 < sent <= sum(len(FILES[name]) for name in FILES.keys() - marked.keys())
        assert bench.contents().items() <= FILES.items()
        pending.append(bench.staging.pending().files)
    assert pending == sorted(pending, reverse=True)
    assert pending[-1] < pending[0]
    bench.pack(reuse=Reuse(blocks=bench.staging.sent_blocks()))
    assert bench.contents() == FILES
