"""What is written in the race: ingest, a few files published, a little changed inside a big file."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.machine import remove_tree
from bench.programs import shown_bytes
from bench.race.downloads import Download, Dvc
from bench.race.mounts import Mount
from bench.race.racing import Race, Turn
from bench.race.rows import DOWNLOADS, DVFS, MOUNTS, NATIVE, Goal, Measure, Row, Taken
from bench.scale import MIB
from bench.trees import SEED, Tree

CHANGED_FILES = 10
CHANGED_BYTES = 1 * MIB
INGEST_GOALS = (Goal(Measure.FILES, 1.0, (*MOUNTS, *DOWNLOADS)),)
PUBLISH_GOALS = (Goal(Measure.SECONDS, 1.0, (NATIVE,), plus=0.5),)
CHANGE_GOALS = (Goal(Measure.SENT, plus=6e6),)
_NEW_FILE_BYTES = 2_000


def ingest(race: Race, tree: Tree, numbers: Iterator[int]) -> None:
    """Add the row of *tree* being taken in by everyone, under a new name each time."""
    _ingest(race, tree, numbers, f"{tree.name}.ingest", [race.dvfs, *race.mounts.values(), *race.downloads.values()])


def ingest_all(race: Race, tree: Tree, numbers: Iterator[int], takers: Sequence[Mount | Download]) -> None:
    """Do the same for all of a *tree*, by *takers*."""
    _ingest(race, tree, numbers, f"{tree.name}.ingest-all", takers)


def _ingest(race: Race, tree: Tree, numbers: Iterator[int], key: str, takers: Sequence[Mount | Download]) -> None:
    title = f"{tree.name}: ingest of {len(tree.files):,} files, {shown_bytes(tree.bytes)}"
    row = Row(key, title, Measure.FILES, goals=INGEST_GOALS, shows=(Measure.SECONDS,))

    def turn_of(put: Callable[[str], float]) -> Turn:
        def work() -> Iterator[tuple[str, Taken]]:
            name = f"{tree.name}-ingest-{next(numbers)}"
            os.sync()
            yield key, race.counted(lambda: Taken(put(name), len(tree.files), tree.bytes))

        return Turn((key,), work)

    def of_dvc(dvc: Dvc) -> Turn:
        def work() -> Iterator[tuple[str, Taken]]:
            repository = dvc.prepare(tree, f"{tree.name}-ingest-{next(numbers)}")
            try:
                yield key, race.counted(lambda: Taken(dvc.publish(repository), len(tree.files), tree.bytes))
            finally:
                remove_tree(repository)

        return Turn((key,), work)

    contestants = {one.name: turn_of(partial(one.put, tree)) for one in takers}
    if Dvc.name in contestants:
        contestants[Dvc.name] = race.of_dvc(of_dvc, key)
    race.run({key: row}, contestants)


def publish(race: Race, tree: Tree) -> None:
    """Add the rows of a few files changed in *tree*, which dvfs and DVC have: from a folder, and from a mount."""
    folder = race.new_folder()
    shutil.copytree(tree.root, folder)
    rng = random.Random(SEED)
    parents = [race.dvfs.dvfs.create(tree)[0]]
    original = parents[0]
    names = [os.fsdecode(name) for name in rng.sample(tree.files, min(CHANGED_FILES, len(tree.files)))]

    def change(root: Path) -> None:
        for name in names:
            new = root / f"{name}.new"
            new.write_bytes(os.urandom(_NEW_FILE_BYTES))
            new.replace(root / name)
        os.sync()

    def of_folder() -> Iterator[tuple[str, Taken]]:
        change(folder)
        yield "publish.folder", race.counted(synced)

    def synced() -> Taken:
        dataset, seconds = race.dvfs.dvfs.sync(folder, parents[-1])
        parents.append(dataset)
        return Taken(seconds, len(names))

    def of_mount() -> Iterator[tuple[str, Taken]]:
        with _editable(race, original) as directory:
            change(directory)
            yield "publish.mount", race.counted(lambda: Taken(race.dvfs.dvfs.commit(directory), len(names)))

    def of_python(key: str) -> Turn:
        def work() -> Iterator[tuple[str, Taken]]:
            yield key, Taken(race.programs.seconds_of([sys.executable, "-c", "pass"]))

        return Turn((key,), work)

    shown = f"{len(names)} changed files of {len(tree.files):,} published"
    folder_row = Row(
        "publish.folder", f"{shown}, from a folder (ext4: `python -c pass`)", Measure.SECONDS, goals=PUBLISH_GOALS
    )
    mount_row = Row(
        "publish.mount", f"{shown}, from a mount (ext4: `python -c pass`)", Measure.SECONDS, goals=PUBLISH_GOALS
    )
    contestants = {
        DVFS: Turn(("publish.folder",), of_folder),
        NATIVE: of_python("publish.folder"),
        Dvc.name: race.of_dvc(lambda dvc: _dvc_of_files(race, dvc, tree, change), "publish.folder"),
    }
    rounds = race.scale.race.short_rounds
    race.run({"publish.folder": folder_row}, contestants, rounds=rounds)
    contestants = {DVFS: Turn(("publish.mount",), of_mount), NATIVE: of_python("publish.mount")}
    race.run({"publish.mount": mount_row}, contestants, rounds=rounds)
    remove_tree(folder)


def change_inside(race: Race, tree: Tree) -> None:
    """Add the rows of a little changed inside the one file of *tree*: from a folder, and in a mount."""
    shown = f"{shown_bytes(CHANGED_BYTES)} changed inside {shown_bytes(tree.bytes)}"
    name = os.fsdecode(tree.files[0])
    rng = random.Random(SEED)
    shows = (Measure.SECONDS,)
    folder_row = Row(
        "change.folder", f"{shown}, published from a folder", Measure.SENT, goals=CHANGE_GOALS, shows=shows
    )
    mount_row = Row("change.mount", f"{shown}, in a mount", Measure.SENT, goals=CHANGE_GOALS, shows=shows)

    def patch(root: Path) -> float:
        place = rng.randrange(tree.bytes - CHANGED_BYTES)
        return race.programs.patch(root / name, place, CHANGED_BYTES).seconds

    folders = {
        DVFS: _sync_of_change(race, tree, patch),
        "rclone": _copy_of_change(race, race.mounts["rclone"], tree, patch),
        Dvc.name: race.of_dvc(lambda dvc: _dvc_of_change(race, dvc, tree, patch), "change.folder"),
    }
    race.run({"change.folder": folder_row}, folders)

    def committed() -> Iterator[tuple[str, Taken]]:
        with _editable(race, race.dvfs.datasets[tree.name]) as directory:
            patch(directory)
            yield "change.mount", race.counted(lambda: Taken(race.dvfs.dvfs.commit(directory), 1, CHANGED_BYTES))

    mounted = {DVFS: Turn(("change.mount",), committed)}
    # Not rclone: it uploads files of a mount some seconds after they are closed, which unmounting does not wait for.
    for mount in (one for one in race.mounts.values() if one.name != "rclone"):
        mounted[mount.name] = _edit_of_change(race, mount, tree, patch)
    race.run({"change.mount": mount_row}, mounted)


@contextmanager
def _editable(race: Race, dataset: str) -> Iterator[Path]:
    """Mount *dataset* of dvfs with a new overlay and an empty cache; afterwards both are gone."""
    dvfs, cache = race.dvfs.dvfs, race.new_folder()
    overlay = cache.name
    try:
        with dvfs.mounted(dataset, cache, overlay=overlay) as mount:
            yield mount.directory
    finally:
        dvfs.remove_overlay(overlay)
        remove_tree(cache)


def _sync_of_change(race: Race, tree: Tree, patch: Callable[[Path], float]) -> Turn:
    folder = race.new_folder()
    shutil.copytree(tree.root, folder)
    parents = [race.dvfs.datasets[tree.name]]

    def synced() -> Taken:
        dataset, seconds = race.dvfs.dvfs.sync(folder, parents[-1])
        parents.append(dataset)
        return Taken(seconds, 1, CHANGED_BYTES)

    def work() -> Iterator[tuple[str, Taken]]:
        patch(folder)
        yield "change.folder", race.counted(synced)

    return Turn(("change.folder",), work)


def _copy_of_change(race: Race, rclone: Mount, tree: Tree, patch: Callable[[Path], float]) -> Turn:
    """What rclone does: it copies a file that is another one now."""
    folder = race.new_folder()
    shutil.copytree(tree.root, folder)
    changed = Tree(tree.name, folder, tree.files, tree.folders, tree.bytes, tree.list_file)

    def work() -> Iterator[tuple[str, Taken]]:
        patch(folder)
        yield "change.folder", race.counted(lambda: Taken(rclone.put(changed, f"{tree.name}-copied"), 1, CHANGED_BYTES))

    return Turn(("change.folder",), work)


def _dvc_of_change(race: Race, dvc: Dvc, tree: Tree, patch: Callable[[Path], float]) -> Turn:
    made: list[Path] = []

    def work() -> Iterator[tuple[str, Taken]]:
        if not made:
            made.append(dvc.prepare(tree, f"{tree.name}-changed"))
            dvc.publish(made[0])
        dvc.unlink(made[0], os.fsdecode(tree.files[0]))
        patch(made[0] / "data")
        yield "change.folder", race.counted(lambda: Taken(dvc.publish(made[0]), 1, CHANGED_BYTES))

    return Turn(("change.folder",), work)


def _edit_of_change(race: Race, mount: Mount, tree: Tree, patch: Callable[[Path], float]) -> Turn:
    """Write into the file of a rival's mount, until that is in the bucket: when it is unmounted."""
    name = f"{tree.name}-of-{mount.name}"
    made: list[float] = []

    def once() -> Taken:
        cache = race.new_folder()
        try:
            with mount.mounted(name, cache) as place:
                began = time.monotonic()
                patch(place.directory)
            return Taken(time.monotonic() - began, 1, CHANGED_BYTES)
        finally:
            remove_tree(cache)

    def work() -> Iterator[tuple[str, Taken]]:
        if not made:
            made.append(mount.put(tree, name))
        yield "change.mount", race.counted(once)

    return Turn(("change.mount",), work)


def _dvc_of_files(race: Race, dvc: Dvc, tree: Tree, change: Callable[[Path], None]) -> Turn:
    made: list[Path] = []

    def work() -> Iterator[tuple[str, Taken]]:
        if not made:
            made.append(dvc.prepare(tree, f"{tree.name}-published"))
            dvc.publish(made[0])
        change(made[0] / "data")
        yield "publish.folder", race.counted(lambda: Taken(dvc.publish(made[0]), CHANGED_FILES))

    return Turn(("publish.folder",), work)
