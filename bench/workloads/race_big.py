"""The big files of the race: one from its start to its end, 64 KiB at random places of another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.machine import remove_tree
from bench.programs import Read, shown_bytes
from bench.race.downloads import Download, Dvc
from bench.race.mounts import OBJECTS, Mount, Place
from bench.race.racing import Race, Turn
from bench.race.rows import MOUNTS, NATIVE, Goal, Measure, Row, Taken
from bench.trees import Tree

SEQUENTIAL_GOALS = (Goal(Measure.BYTES, 1.0, MOUNTS),)
PAGE_CACHE_GOALS = (Goal(Measure.BYTES, 0.95, (NATIVE,)),)
RANDOM_GOALS = (
    Goal(Measure.READS, 1.0, MOUNTS),
    Goal(Measure.FETCHED, 1.0, MOUNTS),
    Goal(Measure.P99, 1.0, ("JuiceFS",)),
)
_WARM_READS = 9


def sequential(race: Race, tree: Tree) -> None:
    """Add the rows of the one file of *tree*, which everyone has under its name, from its start to its end."""
    truth = race.programs.read_sequentially(_file(tree.root, tree))
    for delay in (0.0, race.scale.race.delay_seconds):
        shown = f"{delay * 1000:.0f} ms" if delay else "~0 ms"
        cold, again = f"{tree.name}.cold.{shown.strip('~').replace(' ', '')}", f"{tree.name}.page-cache"
        title = f"{tree.name}: {shown_bytes(tree.bytes)} from start to end"
        rows = {cold: Row(cold, f"{title}, cold, {shown}", Measure.BYTES, goals=SEQUENTIAL_GOALS)}
        if not delay:
            rows[again] = Row(again, f"{title}, page cache", Measure.BYTES, goals=PAGE_CACHE_GOALS)
        contestants: dict[str, Turn] = {
            one.name: _of_mount(race, one, tree, truth, cold, delay)
            for one in race.readers.values()
            if one.name != NATIVE or not delay
        }
        contestants |= {
            one.name: _of_download(race, one, tree, truth, cold, delay)
            for one in race.downloads.values()
            if one.name != Dvc.name
        }
        race.run(rows, contestants, rounds=race.scale.race.short_rounds)


def at_random(race: Race, tree: Tree) -> None:
    """Add the row of random reads of the one file of *tree*, which everyone has under its name."""
    reads = race.scale.random_reads
    truth = race.programs.read_randomly(_file(tree.root, tree), reads=reads)
    key = f"{tree.name}.random"
    title = f"{tree.name}: {reads:,} random reads of 64 KiB in {shown_bytes(tree.bytes)}, cold (boto3: ranged GETs)"
    row = Row(key, title, Measure.READS, goals=RANDOM_GOALS, shows=(Measure.FETCHED, Measure.P99))

    def of_mount(mount: Mount) -> Turn:
        def work() -> Iterator[tuple[str, Taken]]:
            cache = race.new_folder()
            try:
                race.forget(restart=True)
                with mount.mounted(tree.name, cache) as place:
                    yield key, race.counted(lambda: one(place), until_quiet=True)
            finally:
                remove_tree(cache)

        return Turn((key,), work)

    def one(place: Place) -> Taken:
        read = race.programs.read_randomly(_file(place.directory, tree), reads=reads).check(truth)
        notes = {"mount_seconds": place.seconds}
        return Taken(read.seconds, reads, read.bytes, p99_seconds=read.p99_seconds, notes=notes)

    def ranged() -> Taken:
        name = f"{OBJECTS}/{tree.name}/{os.fsdecode(tree.files[0])}"
        words = ("--size", str(tree.bytes), "--reads", str(reads))
        read = race.programs.objects("random", race.session.bucket, name, *words).check(truth)
        return Taken(read.seconds, reads, read.bytes, p99_seconds=read.p99_seconds)

    def of_boto3() -> Iterator[tuple[str, Taken]]:
        race.forget(restart=True)
        yield key, race.counted(ranged)

    contestants: dict[str, Turn] = {one.name: of_mount(one) for one in race.readers.values() if one.name != NATIVE}
    contestants["boto3"] = Turn((key,), of_boto3)
    race.run({key: row}, contestants, rounds=race.scale.race.short_rounds)


def _of_mount(race: Race, mount: Mount, tree: Tree, truth: Read, cold: str, delay: float) -> Turn:
    again = f"{tree.name}.page-cache"

    def read(place: Place, reads: int) -> Taken:
        done = [
            race.programs.read_sequentially(_file(place.directory, tree)).check(truth).seconds for _ in range(reads)
        ]
        return Taken(median(done), 1, tree.bytes, notes={"mount_seconds": place.seconds})

    def work() -> Iterator[tuple[str, Taken]]:
        cache = race.new_folder()
        try:
            race.forget(restart=True)
            with race.latency(delay), mount.mounted(tree.name, cache) as place:
                yield cold, race.counted(lambda: read(place, 1))
                if not delay:
                    yield again, race.counted(lambda: read(place, _WARM_READS))
        finally:
            remove_tree(cache)

    return Turn((cold,) if delay else (cold, again), work)


def _of_download(race: Race, download: Download, tree: Tree, truth: Read, cold: str, delay: float) -> Turn:
    def one(target: Path) -> Taken:
        seconds = download.get(tree, tree.name, target)
        read = race.programs.read_sequentially(_file(target, tree)).check(truth)
        notes = {"download_seconds": seconds, "read_seconds": read.seconds}
        return Taken(seconds + read.seconds, 1, read.bytes, notes=notes)

    def work() -> Iterator[tuple[str, Taken]]:
        target = race.new_folder()
        try:
            race.forget(restart=True)
            with race.latency(delay):
                yield cold, race.counted(lambda: one(target))
        finally:
            remove_tree(target)

    return Turn((cold,), work, most_runs=race.scale.race.rounds)


def _file(root: Path, tree: Tree) -> Path:
    return root / os.fsdecode(tree.files[0])
