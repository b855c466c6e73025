"""torch in the race: an unmodified ImageFolder in a DataLoader with four workers, over a plain directory and mounts.

One process reads epoch after epoch on one mount, as a training job does; then another one reads an epoch on a new
mount with the same cache. Once with pillow decoding, which two processors are busy with, and once reading bytes only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import remove_tree
from bench.programs import Failed
from bench.race.mounts import JuiceFs, Mount, Place, Rclone
from bench.race.racing import Race, Turn
from bench.race.rows import DVFS, MOUNTS, NATIVE, Goal, Measure, Row, Taken
from bench.trees import Tree, found

READERS = (DVFS, NATIVE, JuiceFs.name, Rclone.name)
MODES = {"decode": "pillow decodes", "bytes": "bytes only"}
EPOCHS = 3
FIRST_GOALS = (Goal(Measure.SECONDS, 1.0, MOUNTS),)
COLD_GOALS = (Goal(Measure.FILES, 1.0, MOUNTS),)
WARM_GOALS = (Goal(Measure.FILES, 0.95, (NATIVE,)),)
DISK_GOALS = {"decode": WARM_GOALS, "bytes": (Goal(Measure.FILES, 2.0, MOUNTS),)}


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of torch: what it took, also of processor time, and a *check* of what was read."""

    seconds: float
    cpu_seconds: float
    images: int
    check: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """What torch read, in order; seconds until the folder was listed, and until the first batch came."""

    listed_seconds: float
    first_batch_seconds: float
    epochs: tuple[Epoch, ...]

    def check(self, truth: Loaded) -> Loaded:
        """Return self. Raises Failed where an epoch has not the images of the same epoch of *truth*."""
        for number, (epoch, wanted) in enumerate(zip(self.epochs, truth.epochs, strict=False), 1):
            if (epoch.images, epoch.check) != (wanted.images, wanted.check):
                raise Failed(
                    f"epoch {number} has {epoch.images} images, check {epoch.check}; "
                    f"wanted are {wanted.images}, check {wanted.check}"
                )
        return self


def from_json(told: dict[str, Any]) -> Loaded:
    """Return what the reader printed."""
    epochs = tuple(Epoch(**epoch) for epoch in told["epochs"])
    return Loaded(told["listed_seconds"], told["first_batch_seconds"], epochs)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the rows of one *mode* with one *delay* in seconds."""

    mode: str
    delay: float

    @property
    def first(self) -> str:
        return f"torch.{self.mode}.first-batch.{self._shown}"

    @property
    def cold(self) -> str:
        return f"torch.{self.mode}.cold.{self._shown}"

    @property
    def disk(self) -> str:
        return f"torch.{self.mode}.disk"

    def epoch(self, number: int) -> str:
        """Return the key of a later epoch on the same mount; *number* counts from 1."""
        return f"torch.{self.mode}.epoch-{number}"

    @property
    def _shown(self) -> str:
        return f"{self.delay * 1000:.0f}ms"


def rows_of(keys: Keys, images: int) -> dict[str, Row]:
    """Return the rows, without figures, by key; those of later epochs only where no delay is added."""
    shown = f"{keys.delay * 1000:.0f} ms" if keys.delay else "~0 ms"
    what = f"torch, {MODES[keys.mode]}"
    rows = [
        Row(keys.first, f"{what}: mount to first batch, {shown}", Measure.SECONDS, goals=FIRST_GOALS),
        Row(keys.cold, f"{what}: epoch 1, {shown} ({images:,} images)", Measure.FILES, goals=COLD_GOALS),
    ]
    if not keys.delay:
        later = range(2, EPOCHS + 1)
        title = f"{what}: an epoch on a new mount, disk cache"
        rows += [Row(keys.epoch(n), f"{what}: epoch {n}", Measure.FILES, goals=WARM_GOALS) for n in later]
        rows.append(Row(keys.disk, title, Measure.FILES, goals=DISK_GOALS[keys.mode]))
    return {row.key: row for row in rows}


def make_pictures(race: Race, python: Path) -> Tree:
    """Make the tree of JPEG files with *python*, which has pillow. Raises Failed."""
    root = race.session.folder / "pictures"
    race.programs.run([python, "-m", "bench.race.pictures", root, str(race.scale.race.pictures)])
    return found(root)


def program_files(race: Race, python: Path) -> list[Path]:
    """Return the files that the reader is loaded from."""
    script = r"from bench.race import torch_reader; print(*torch_reader.program_files(), sep='\0', end='')"
    return [Path(name) for name in race.programs.run([python, "-c", script]).output.split("\0")]


def measure(race: Race, python: Path, tree: Tree) -> None:
    """Add the rows of *tree*, which everyone has under its name, read by *python*, which has torch."""
    files = program_files(race, python)
    for mode in MODES:
        part = _Part(race, python, files, tree, mode)
        for delay in (0.0, race.scale.race.delay_seconds):
            part.measure(Keys(mode, delay))


class _Part:
    """All that is read in one *mode*."""

    def __init__(self, race: Race, python: Path, program_files: list[Path], tree: Tree, mode: str) -> None:
        self._race = race
        self._python = python
        self._program_files = program_files
        self._tree = tree
        self._mode = mode
        self._truth = self._loaded(tree.root, EPOCHS)

    def measure(self, keys: Keys) -> None:
        """Add the rows of *keys*."""
        readers = {name: self._race.readers[name] for name in READERS if name != NATIVE or not keys.delay}
        contestants = {
            name: self._of_native(keys) if name == NATIVE else self._of_mount(mount, keys)
            for name, mount in readers.items()
        }
        pair_rounds = 0 if keys.delay else self._race.scale.race.pair_rounds
        self._race.run(rows_of(keys, len(self._tree.files)), contestants, pair_rounds=pair_rounds)

    def _of_native(self, keys: Keys) -> Turn:
        """Read the plain directory: its first epoch, from the disk, stands beside one from a disk cache."""
        later = [keys.epoch(number) for number in range(2, EPOCHS + 1)]

        def work() -> Iterator[tuple[str, Taken]]:
            self._forget()
            loaded = self._read(Place(self._tree.root), EPOCHS)
            yield keys.first, _first_batch(loaded, 0.0)
            yield from zip((keys.disk, *later), self._epochs(loaded), strict=True)

        return Turn((keys.first, keys.disk, *later), work)

    def _of_mount(self, mount: Mount, keys: Keys) -> Turn:
        race = self._race
        epochs = 1 if keys.delay else EPOCHS
        on_mount = (keys.cold, *(keys.epoch(number) for number in range(2, epochs + 1)))

        def work() -> Iterator[tuple[str, Taken]]:
            cache = race.new_folder()
            try:
                self._forget()
                with race.latency(keys.delay), mount.mounted(self._tree.name, cache) as place:
                    loads: list[Loaded] = []

                    def first() -> Taken:
                        loads.append(self._read(place, epochs))
                        return _first_batch(loads[0], place.seconds)

                    yield keys.first, race.counted(first)
                    yield from zip(on_mount, self._epochs(loads[0]), strict=True)
                if not keys.delay:
                    self._forget()
                    with mount.mounted(self._tree.name, cache) as place:
                        yield keys.disk, race.counted(lambda: self._epochs(self._read(place, 1))[0])
            finally:
                remove_tree(cache)

        return Turn((keys.first, *on_mount) if keys.delay else (keys.first, *on_mount, keys.disk), work)

    def _forget(self) -> None:
        """Empty the page cache of all but the programs, this reader too."""
        self._race.forget()
        for path in self._program_files:
            path.read_bytes()

    def _epochs(self, loaded: Loaded) -> list[Taken]:
        return [
            Taken(epoch.seconds, epoch.images, self._tree.bytes, notes={"cpu_seconds": epoch.cpu_seconds})
            for epoch in loaded.epochs
        ]

    def _read(self, place: Place, epochs: int) -> Loaded:
        return self._loaded(place.directory, epochs).check(self._truth)

    def _loaded(self, root: Path, epochs: int) -> Loaded:
        words = (self._mode, root, "--epochs", str(epochs))
        ran = self._race.programs.run([self._python, "-m", "bench.race.torch_reader", *words])
        return from_json(json.loads(ran.output))


def _first_batch(loaded: Loaded, mount_seconds: float) -> Taken:
    notes = {"mount_seconds": mount_seconds, "listed_seconds": loaded.listed_seconds}
    return Taken(mount_seconds + loaded.first_batch_seconds, notes=notes)
