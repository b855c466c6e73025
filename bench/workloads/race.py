"""The race: trees made, given to every contestant once, and all workloads run over them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from bench.machine import remove_tree
from bench.programs import Failed
from bench.race.downloads import Download, Dvc
from bench.race.installing import TORCH, Rivals
from bench.race.mounts import Absent, Mount
from bench.race.racing import Race, started
from bench.race.rows import DVFS
from bench.session import Session, tell
from bench.trees import Tree, make_big, make_images, make_lines, make_texts
from bench.workloads import race_big, race_torch, race_versions, race_walks
from bench.workloads.race_epochs import RaceEpochs, sample_name

PARTS = ("images", "texts", "big", "lines", "torch")


def run(session: Session, parts: tuple[str, ...] = PARTS) -> tuple[Race, Rivals, list[str]]:
    """Run those *parts* of the race; return it with its rows, the rivals, and the parts in which dvfs failed."""
    scale = session.scale
    numbers = count()

    def images(race: Race) -> None:
        tree = make_images(session.folder, scale.image_files, scale.image_folders)
        _small_files(race, tree, scale.race.image_folders, numbers)

    def texts(race: Race) -> None:
        tree = make_texts(session.folder, scale.text_files, scale.text_folders)
        _small_files(race, tree, scale.race.text_folders, numbers)

    def big(race: Race) -> None:
        tree = make_big(session.folder, scale.big_bytes)
        _give(race, tree)
        race_big.sequential(race, tree)
        remove_tree(tree.root)

    def lines(race: Race) -> None:
        tree = make_lines(session.folder, scale.race.lines_bytes)
        _give(race, tree)
        race_big.at_random(race, tree)
        race_versions.change_inside(race, tree)
        remove_tree(tree.root)

    def torch(race: Race) -> None:
        if TORCH not in rivals.programs:
            tell(f"the part torch is left out: {rivals.missing[TORCH]}")
            return
        python = rivals.program(TORCH)
        tree = race_torch.make_pictures(race, python)
        tell(f"{tree.name}: {len(tree.files)} files, {tree.bytes / 1e6:.0f} MB")
        _give(race, tree)
        race_torch.measure(race, python, tree)
        remove_tree(tree.root)

    works: dict[str, Callable[[Race], None]] = {
        "images": images,
        "texts": texts,
        "big": big,
        "lines": lines,
        TORCH: torch,
    }
    failed = []
    with started(session, with_torch=TORCH in parts) as (race, rivals):
        for part in parts:
            try:
                works[part](race)
            except (Failed, OSError) as error:
                tell(f"the race ends at {part}: {error}")
                failed.append(part)
        if race.has_failed():
            failed.append(DVFS)
        return race, rivals, failed


def _small_files(race: Race, tree: Tree, folders: int, numbers: count[int]) -> None:
    tell(f"{tree.name}: {len(tree.files)} files, {tree.bytes / 1e6:.0f} MB")
    sample = tree.of_folders(folders)
    linked = sample.linked_at(race.new_folder())
    race_versions.ingest(race, linked, numbers)
    race_versions.ingest_all(race, tree, numbers, _takers(race))
    _give(race, tree)
    race.put(linked, sample_name(tree), [race.downloads[Dvc.name]])
    epochs = RaceEpochs(race, tree, sample)
    epochs.measure()
    if tree.name == "images":
        epochs.sparse()
        epochs.ordered()
    else:
        race_versions.publish(race, linked)
    race_walks.measure(race, tree)
    remove_tree(linked.root)
    remove_tree(tree.root)


def _give(race: Race, tree: Tree) -> None:
    """Give *tree* to everyone once. Raises Failed."""
    takers = _takers(race)
    failed = race.put(tree, tree.name, [race.native, *takers])
    if reason := failed.get(DVFS) or failed.get(takers[-1].name):
        raise Failed(reason)


def _takers(race: Race) -> list[Mount | Download]:
    """Return who takes a tree for everyone: rclone, s3fs, boto3 and obstore read the single objects of the last."""
    uploader = race.downloads["obstore"]
    if isinstance(uploader, Absent):
        uploader = race.downloads["boto3"]
    return [race.dvfs, *(one for name, one in race.mounts.items() if name not in {"rclone", "s3fs"}), uploader]
