"""The dataset in use: one a store, whole whoever writes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from dvfs.cli.state import InUse


def test_nothing_is_in_use_at_first(tmp_path: Path) -> None:
    assert InUse(tmp_path / "state", "file:///a").get() is None


def test_each_store_has_its_own(tmp_path: Path) -> None:
    first, second = InUse(tmp_path / "state", "file:///a"), InUse(tmp_path / "state", "s3://b")
    first.set("1" * 32)
    second.set("2" * 32)
    first.set("3" * 32)
    assert (first.get(), second.get()) == ("3" * 32, "2" * 32)


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    in_use = InUse(tmp_path, "file:///a")
    in_use.set("1" * 32)
    file = next(tmp_path.glob("*.json"))
    file.write_text("[1, 2")
    assert in_use.get() is None
    file.write_text("[1, 2]")
    assert in_use.get() is None
    in_use.set("2" * 32)
    assert in_use.get() == "2" * 32


def _set_many(state_dir: Path, name: str) -> None:
    for number in range(50):
        InUse(state_dir, f"file:///{name}").set(f"{name}{number}")


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    names = ["a", "b", "c"]
    processes = [spawn.Process(target=_set_many, args=(tmp_path, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [InUse(tmp_path, f"file:///{name}").get() for name in names] == ["a49", "b49", "c49"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["datasets-in-use.json", "datasets-in-use.lock"]
