"""The part of the race that torch reads: its rows, what the reader prints, and trees that a program made."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.programs import Failed
from bench.race.rows import CONTESTANTS, DVFS, NATIVE, Figure, Taken
from bench.race.table import cells
from bench.trees import found
from bench.workloads.race_torch import EPOCHS, MODES, READERS, Keys, from_json, rows_of

NO_DELAY = Keys("decode", 0.0)


def told(*epochs: tuple[float, int, float]) -> dict[str, object]:
    """What the reader prints."""
    described = [
        {"seconds": seconds, "cpu_seconds": 2 * seconds, "images": images, "check": check}
        for seconds, images, check in epochs
    ]
    return {"listed_seconds": 0.25, "first_batch_seconds": 1.5, "epochs": described}


def test_later_epochs_and_the_disk_cache_are_measured_where_no_delay_is_added() -> None:
    first, cold = "torch.decode.first-batch.20ms", "torch.decode.cold.20ms"
    assert list(rows_of(Keys("decode", 0.02), 5_000)) == [first, cold]
    later = [f"torch.bytes.epoch-{number}" for number in range(2, EPOCHS + 1)]
    first, cold = "torch.bytes.first-batch.0ms", "torch.bytes.cold.0ms"
    assert list(rows_of(Keys("bytes", 0.0), 5_000)) == [first, cold, *later, "torch.bytes.disk"]


def test_no_two_rows_have_one_key() -> None:
    keys = [key for mode in MODES for delay in (0.0, 0.02) for key in rows_of(Keys(mode, delay), 1)]
    assert len(keys) == len(set(keys)) == 14


@pytest.mark.parametrize(("images_a_second", "is_met"), [(95, True), (94, False)])
def test_later_epochs_are_to_be_as_fast_as_those_of_the_plain_directory(images_a_second: int, is_met: bool) -> None:
    row = rows_of(NO_DELAY, 5_000)[NO_DELAY.epoch(2)]
    row.figures = {DVFS: Figure([Taken(1.0, images_a_second)]), NATIVE: Figure([Taken(1.0, 100)])}
    assert [row.is_met(goal) for goal in row.goals] == [is_met]


def test_the_first_batch_is_told_in_seconds_and_to_come_before_that_of_each_rival() -> None:
    row = rows_of(NO_DELAY, 5_000)[NO_DELAY.first]
    taken = {DVFS: 2.5, NATIVE: 1.0, "JuiceFS": 3.0, "rclone": 2.0}
    row.figures = {name: Figure([Taken(seconds)]) for name, seconds in taken.items()}
    shown = cells(row)
    assert shown[0] == "torch, pillow decodes: mount to first batch, ~0 ms"
    assert shown[1 : 1 + len(CONTESTANTS)] == ("2.50 s", "1.00 s", "3.00 s", "2.00 s", "", "", "", "")
    assert shown[-1] == "≤ 1 x rclone (is 1.25 x): MISSED"


def test_those_that_read_have_a_column_each() -> None:
    assert set(READERS) < set(CONTESTANTS)


def test_epochs_that_are_those_of_the_truth_pass_and_fewer_too() -> None:
    truth = from_json(told((9.0, 130, 1.25), (8.0, 130, 2.5)))
    loaded = from_json(told((3.0, 130, 1.25)))
    assert loaded.check(truth) is loaded
    assert (loaded.listed_seconds, loaded.first_batch_seconds) == (0.25, 1.5)
    assert [(epoch.seconds, epoch.cpu_seconds) for epoch in loaded.epochs] == [(3.0, 6.0)]


@pytest.mark.parametrize("second", [(8.0, 129, 2.5), (8.0, 130, 2.75)])
def test_an_epoch_with_other_images_fails_by_its_number(second: tuple[float, int, float]) -> None:
    truth = from_json(told((9.0, 130, 1.25), (8.0, 130, 2.5)))
    with pytest.raises(Failed, match=r"epoch 2 has \d+ images, check 2\.\d+; wanted are 130, check 2\.5"):
        from_json(told((9.0, 130, 1.25), second)).check(truth)


def test_a_tree_that_a_program_made_is_found_with_its_list(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for name, size in (("b/2.jpg", 20), ("a/1.jpg", 10), ("a/0.jpg", 5)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))
    tree = found(root)
    assert (tree.name, tree.root, tree.bytes, tree.folders) == ("pictures", root, 35, 2)
    assert tree.files == (b"a/0.jpg", b"a/1.jpg", b"b/2.jpg")
    assert tree.list_file.read_bytes() == b"a/0.jpg\0a/1.jpg\0b/2.jpg\0"
    assert tree.entries == 6
