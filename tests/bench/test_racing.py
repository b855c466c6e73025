"""Contestants in turns: who runs how often, and what a failure leaves in the rows."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.daemons import mounted_by
from bench.machine import ROOT
from bench.programs import Failed, Programs
from bench.race.downloads import boto3_objects
from bench.race.mounts import Absent, copy_into
from bench.race.racing import Turn, in_turns
from bench.race.rows import DVFS, NATIVE, Measure, Row, Taken
from bench.reader import SAMPLES
from bench.trees import make_lines, make_texts
from tests.seaweed import SeaweedServer


class Log:
    """Turns that note that they ran, on a clock that they move on."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def turn(self, name: str, *keys: str, takes: float = 1.0, failing: Callable[[int], str | None] = str) -> Turn:
        """A turn that takes *takes* for each key; *failing*: before which key the n-th time it fails, if any."""

        def work() -> Iterator[tuple[str, Taken]]:
            number = self.ran.count(name)
            self.ran.append(name)
            for key in keys:
                if failing is not str and failing(number) == key:
                    raise Failed(f"{name} at {key}")
                self.seconds += takes
                yield key, Taken(takes, 1)

        return Turn(keys, work)


def rows(*keys: str) -> dict[str, Row]:
    return {key: Row(key, key, Measure.FILES) for key in keys}


def test_each_turn_begins_with_another_and_every_other_goes_backwards() -> None:
    log, into = Log(), rows("one")
    contestants = {name: log.turn(name, "one") for name in (DVFS, "a", "b")}
    in_turns(into, contestants, rounds=3, slow_seconds=1000, now=log.now)
    assert log.ran == [DVFS, "a", "b", DVFS, "b", "a", "b", DVFS, "a"]
    assert {name: len(figure.runs) for name, figure in into["one"].figures.items()} == {DVFS: 3, "a": 3, "b": 3}


def test_dvfs_and_the_plain_directory_run_more_often_where_told() -> None:
    log, into = Log(), rows("one")
    contestants = {name: log.turn(name, "one") for name in (DVFS, "a", NATIVE)}
    in_turns(into, contestants, rounds=1, pair_rounds=2, slow_seconds=1000, now=log.now)
    assert log.ran == [DVFS, "a", NATIVE, NATIVE, DVFS, DVFS, NATIVE]
    assert {name: len(figure.runs) for name, figure in into["one"].figures.items()} == {DVFS: 3, "a": 1, NATIVE: 3}


def test_a_turn_of_few_runs_has_its_part_in_the_first_rounds() -> None:
    log, into = Log(), rows("one")
    few = replace(log.turn("few", "one"), most_runs=2)
    in_turns(into, {DVFS: log.turn(DVFS, "one"), "few": few}, rounds=4, slow_seconds=1000, now=log.now)
    assert log.ran == [DVFS, "few", "few", DVFS, DVFS, DVFS]
    assert {name: len(figure.runs) for name, figure in into["one"].figures.items()} == {DVFS: 4, "few": 2}


def test_a_slow_rival_does_not_run_again_but_dvfs_and_the_plain_directory_do() -> None:
    log, into = Log(), rows("one")
    takes = {DVFS: 30, NATIVE: 20, "slow": 10, "fast": 9}
    contestants = {name: log.turn(name, "one", takes=seconds) for name, seconds in takes.items()}
    in_turns(into, contestants, rounds=4, slow_seconds=10, now=log.now)
    assert {name: log.ran.count(name) for name in contestants} == {DVFS: 4, NATIVE: 4, "slow": 1, "fast": 4}
    assert into["one"].figures["slow"].failed is None


def test_a_failure_ends_one_contestant_and_counts_where_nothing_was_brought() -> None:
    log, into = Log(), rows("cold", "disk", "page")
    contestants = {
        DVFS: log.turn(DVFS, "cold", "disk", "page"),
        "a": log.turn("a", "cold", "disk", "page", failing=lambda number: "disk" if number == 1 else None),
        "b": log.turn("b", "disk", failing=lambda number: "disk"),
    }
    in_turns(into, contestants, rounds=3, slow_seconds=1000, now=log.now)
    assert {name: log.ran.count(name) for name in contestants} == {DVFS: 3, "a": 2, "b": 1}
    failed = {key: {n: f.failed for n, f in row.figures.items() if f.failed} for key, row in into.items()}
    assert failed == {"cold": {}, "disk": {"a": "a at disk", "b": "b at disk"}, "page": {"a": "a at disk"}}
    assert len(into["cold"].figures["a"].runs) == 2
    assert into["disk"].value("a", Measure.FILES) is None
    assert len(into["page"].figures[DVFS].runs) == 3


def test_dvfs_that_fails_is_told_like_anyone() -> None:
    log, into = Log(), rows("one")
    contestants = {DVFS: log.turn(DVFS, "one", failing=lambda number: "one"), "a": log.turn("a", "one")}
    in_turns(into, contestants, rounds=2, slow_seconds=1000, now=log.now)
    assert into["one"].figures[DVFS].failed == "dvfs at one"
    assert len(into["one"].figures["a"].runs) == 2


def test_a_rival_that_is_not_installed_fails_by_name_in_its_rows(tmp_path: Path) -> None:
    absent = Absent("JuiceFS", "not installed: no such package")
    tree = make_texts(tmp_path, 2, 1)

    def mounting() -> Iterator[tuple[str, Taken]]:
        with absent.mounted("texts", tmp_path):
            yield "one", Taken(1.0)

    def putting() -> Iterator[tuple[str, Taken]]:
        yield "one", Taken(absent.put(tree, "texts"))

    for work in (mounting, putting, absent.work):
        into = rows("one")
        in_turns(into, {"JuiceFS": Turn(("one",), work)}, rounds=1, slow_seconds=1)
        assert into["one"].figures["JuiceFS"].failed == "not installed: no such package"


# -- programs and daemons


def test_a_program_that_takes_too_long_is_killed_and_has_failed() -> None:
    programs = Programs({}, most_seconds=0.5)
    with pytest.raises(Failed, match=r"took longer than 0 s|took longer than 1 s"):
        programs.run(["sleep", "600"])
    with pytest.raises(Failed, match="took longer"):
        programs.seconds_of(["sleep", "600"])


def test_a_daemon_that_does_not_mount_is_ended_and_told(tmp_path: Path) -> None:
    script = "import os, sys; print(os.environ['TOLD'], flush=True); sys.exit(3)"
    with (
        pytest.raises(Failed, match="did not mount: why it did not"),
        mounted_by(tmp_path, sys.executable, "-c", script, variables={"TOLD": "why it did not"}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_is_unmounted_and_ended_after_an_error_too(tmp_path: Path) -> None:
    program = tmp_path / "passthrough"
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True)
    subprocess.run(["cc", "-O2", "-o", program, ROOT / "bench" / "passthrough.c", *flags.stdout.split()], check=True)
    below, mounts = tmp_path / "below", tmp_path / "mounts"
    below.mkdir()
    mounts.mkdir()
    (below / "file").write_text("text")
    for kill in (False, True):
        pids: list[int] = []

        def work(kill: bool = kill, pids: list[int] = pids) -> None:
            with mounted_by(mounts, program, below) as place:
                assert (place.directory / "file").read_text() == "text"
                assert place.pid is not None
                pids.append(place.pid)
                if kill:
                    os.kill(place.pid, signal.SIGKILL)
                raise Failed("in the middle")

        with pytest.raises(Failed, match="in the middle"):
            work()
        (pid,) = pids
        assert list(mounts.iterdir()) == []
        assert not Path(f"/proc/{pid}").exists()
    assert str(mounts) not in Path("/proc/self/mounts").read_text()


# -- trees, and what moves them


def test_a_sample_is_whole_folders_spread_evenly(tmp_path: Path) -> None:
    tree = make_texts(tmp_path, 100, 10)
    sample = tree.of_folders(5)
    folders = {os.path.dirname(path) for path in sample.files}
    assert folders == {b"part_%04d" % number for number in (0, 2, 4, 6, 8)}
    assert set(sample.files) == {path for path in tree.files if os.path.dirname(path) in folders}
    assert sample.list_file.read_bytes().split(b"\0")[:-1] == list(sample.files)
    assert sample.entries == 56
    assert set(tree.of_folders(99).files) == set(tree.files)

    linked = sample.linked_at(tmp_path / "linked")
    found = {os.fsencode(path.relative_to(linked.root)) for path in linked.root.rglob("*") if path.is_file()}
    assert found == set(sample.files)
    assert sum((linked.root / os.fsdecode(path)).stat().st_size for path in linked.files) == linked.bytes


def test_lines_are_documents_and_no_two_alike(tmp_path: Path) -> None:
    tree = make_lines(tmp_path, 30_000_000)
    data = (tree.root / "lines.jsonl").read_bytes()
    assert len(data) == tree.bytes == 30_000_000
    whole = data.split(b"\n")[:-1]
    assert len(set(whole)) == len(whole) > 5_000
    documents = [line for line in whole if not line.startswith(b"\0")]
    assert [json.loads(line)["id"] for line in documents] == list(range(len(documents)))
    for place in range(0, len(data), 1 << 20):  # else the server compresses its chunks, and reads ranges of them slowly
        assert data[place] == 0
        assert len(gzip.compress(data[place : place + 128])) > 0.9 * 128
    assert len(gzip.compress(data[: 1 << 20])) < 0.6 * (1 << 20)


def test_copies_and_objects_come_back_as_they_were(tmp_path: Path) -> None:
    tree = make_texts(tmp_path, 50, 5)
    server_folder = tmp_path / "seaweed"
    server_folder.mkdir()
    server = SeaweedServer(server_folder)
    server.start()
    try:
        programs = Programs(server.environment())
        truth = programs.read_epoch(tree.root, tree.list_file, threads=1)
        assert len(truth.samples) == min(50, SAMPLES)
        copied = tmp_path / "copied"
        copied.mkdir()
        assert copy_into(programs, tree, copied).bytes == tree.bytes
        programs.read_epoch(copied, tree.list_file, threads=2).check(truth)

        objects = boto3_objects(programs, server.bucket)
        assert objects.put(tree, "texts") > 0
        assert objects.get(tree, "texts", tmp_path / "downloaded") > 0
        programs.read_epoch(tmp_path / "downloaded", tree.list_file, threads=2).check(truth)
    finally:
        server.stop()
