"""The epochs of the race: cold at two latencies, from the disk cache, from the page cache; sparse reads.

Rivals read some folders of the tree whole, dvfs and the plain directory all of it: a figure is files a second.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.machine import remove_tree
from bench.programs import Read
from bench.race.downloads import Download, Dvc, Objects
from bench.race.mounts import DvfsMount, Mount, Place
from bench.race.racing import Race, Turn
from bench.race.rows import DOWNLOADS, DVFS, MOUNTS, NATIVE, Goal, Measure, Row, Taken
from bench.reader import shuffled
from bench.trees import SEED, Tree

COLD_THREADS = 16
DISK_THREADS = 4
SPARSE_PART = 100
"""One of so many files is read sparsely."""
_WARM_EPOCHS = 3
DISK_GOALS = (Goal(Measure.FILES, 2.0, MOUNTS),)
PAGE_CACHE_GOALS = (Goal(Measure.FILES, 0.95, (NATIVE,)),)
COLD_GOALS = {
    ("images", False): (Goal(Measure.FILES, 2.0, MOUNTS), Goal(Measure.FILES, 1.0, DOWNLOADS)),
    ("images", True): (Goal(Measure.FILES, 4.0, MOUNTS), Goal(Measure.FILES, 2.0, DOWNLOADS)),
    ("texts", False): (Goal(Measure.FILES, 10.0, MOUNTS), Goal(Measure.FILES, 2.0, DOWNLOADS)),
    ("texts", True): (Goal(Measure.FILES, 10.0, MOUNTS), Goal(Measure.FILES, 2.0, DOWNLOADS)),
}
"""By tree, and whether the proxy adds latency."""
CACHE_PART = 4
"""The cache takes one part in so many of the dataset, where an order is known."""
ORDER_GOALS = {True: (Goal(Measure.SHARE, plus=2.0),), False: ()}
"""By whether the order is handed in."""
SPARSE_GOALS = {"none": Goal(Measure.SHARE, plus=0.03), "auto": Goal(Measure.SHARE, plus=0.10)}


class RaceEpochs:
    """The epochs of *tree*, which everyone has under its name; rivals read *sample* of it."""

    def __init__(self, race: Race, tree: Tree, sample: Tree) -> None:
        self._race = race
        self._tree = tree
        self._sample = sample
        self._order = 1
        self._warm_keys = (f"{tree.name}.disk", f"{tree.name}.page-cache")
        read = race.programs.read_epoch
        self._truths = {
            one.list_file: read(one.root, one.list_file, threads=DISK_THREADS) for one in (self._tree, self._sample)
        }

    def measure(self) -> None:
        """Add all rows but those of sparse reads."""
        self._cold(0.0)
        self._cold(self._race.scale.race.delay_seconds)

    def _cold(self, delay: float) -> None:
        """Add the row of the first epoch with *delay*; without, also those of the epochs after it."""
        race, name = self._race, self._tree.name
        shown = f"{delay * 1000:.0f} ms" if delay else "~0 ms"
        who = self._who()
        cold = f"{name}.cold.{shown.strip('~').replace(' ', '')}"
        goals = COLD_GOALS[name, bool(delay)]
        rows = {cold: Row(cold, f"{name}: cold epoch, 16 threads, {shown}{who}", Measure.FILES, goals=goals)}
        if not delay:
            disk, page = self._warm_keys
            title = f"{name}: second epoch, disk cache, new mount, 4 threads{who}"
            rows[disk] = Row(disk, title, Measure.FILES, goals=DISK_GOALS)
            title = f"{name}: third epoch, page cache, 4 threads{who}"
            rows[page] = Row(page, title, Measure.FILES, goals=PAGE_CACHE_GOALS)
        contestants: dict[str, Turn] = {}
        for mount in race.readers.values():
            if mount.name != NATIVE:
                contestants[mount.name] = self._of_mount(mount, cold, delay)
            elif not delay:
                contestants[NATIVE] = self._of_native(mount)
        contestants |= {one.name: self._of_download(one, cold, delay) for one in race.downloads.values()}
        race.run(rows, contestants, pair_rounds=0 if delay else race.scale.race.pair_rounds)
        self._limit(rows[cold], delay)

    def _limit(self, cold: Row, delay: float) -> None:
        """Add the row of a bare loop of ranged GETs over what dvfs has in the bucket, beside its figure of *cold*."""
        race, key = self._race, cold.key.replace(".cold.", ".limit.")
        title = cold.title.partition(" (")[0].replace(
            "cold epoch, 16 threads", "a bare loop of ranged GETs, 16 threads"
        )
        row = Row(key, f"{title} (dvfs: its cold epoch)", Measure.BYTES)
        if DVFS in cold.figures:
            row.figures[DVFS] = cold.figures[DVFS]

        def turn(one: Objects) -> Turn:
            def work() -> Iterator[tuple[str, Taken]]:
                with race.latency(delay):
                    yield key, race.counted(lambda: one.ranges(race.dvfs.dvfs.prefix, self._tree.bytes))

            return Turn((key,), work)

        race.run({key: row}, {one.name: turn(one) for one in race.downloads.values() if isinstance(one, Objects)})

    def _of_mount(self, mount: Mount, cold: str, delay: float) -> Turn:
        race, tree = self._race, self._tree if mount.name == DVFS else self._sample

        def work() -> Iterator[tuple[str, Taken]]:
            cache = race.new_folder()
            try:
                race.forget()
                with race.latency(delay), mount.mounted(self._tree.name, cache) as place:
                    yield cold, race.counted(lambda: self._read(place, tree, COLD_THREADS))
                if not delay:
                    yield from self._warm(mount, tree, cache)
            finally:
                remove_tree(cache)

        return Turn((cold,) if delay else (cold, *self._warm_keys), work)

    def _of_native(self, mount: Mount) -> Turn:
        return Turn(self._warm_keys, lambda: self._warm(mount, self._tree, self._race.folder))

    def _warm(self, mount: Mount, tree: Tree, cache: Path) -> Iterator[tuple[str, Taken]]:
        """Read from the filled *cache* after a new mount, and again on the same mount."""
        race = self._race
        race.forget()
        with mount.mounted(self._tree.name, cache) as place:
            disk, page = self._warm_keys
            yield disk, race.counted(lambda: self._read(place, tree, DISK_THREADS))
            again = race.counted(lambda: self._read(place, tree, DISK_THREADS, _WARM_EPOCHS))
            yield page, again

    def _of_download(self, download: Download, cold: str, delay: float) -> Turn:
        race, sample = self._race, self._sample
        name = sample_name(self._tree) if isinstance(download, Dvc) else self._tree.name

        def work() -> Iterator[tuple[str, Taken]]:
            target = race.new_folder()

            def one() -> Taken:
                seconds = download.get(sample, name, target)
                read = self._read(Place(target), sample, COLD_THREADS)
                notes = {"download_seconds": seconds, "read_seconds": read.seconds}
                return Taken(seconds + read.seconds, read.files, read.bytes, notes=notes)

            try:
                race.forget()
                with race.latency(delay):
                    yield cold, race.counted(one)
            finally:
                remove_tree(target)

        return Turn((cold,), work)

    def sparse(self) -> None:
        """Add the rows of one file in a hundred, read at random, with each kind of prefetch of dvfs."""
        race, tree = self._race, self._tree
        for prefetch, goal in SPARSE_GOALS.items():
            mount = race.dvfs.with_options("--prefetch", prefetch)
            key = f"{tree.name}.sparse.{prefetch}"
            title = f"{tree.name}: 1 % of the files at random, `--prefetch {prefetch}`"
            row = Row(key, title, Measure.SHARE, goals=(goal,), shows=(Measure.FILES,), total_bytes=tree.bytes)
            # Rivals have no such choice: their figures stand in the first of the rows.
            rivals = race.mounts.values() if prefetch == "none" else ()
            contestants = {one.name: self._sparse_work(one, key) for one in (mount, *rivals)}
            race.run({key: row}, contestants)

    def _sparse_work(self, mount: Mount, key: str) -> Turn:
        tree = self._tree
        chosen = sorted(random.Random(SEED).sample(tree.files, max(1, len(tree.files) // SPARSE_PART)))
        few = tree.of_files(chosen, "sparse")
        truth = self._race.programs.read_epoch(few.root, few.list_file, threads=1)
        return self._cold_turn(mount, key, lambda place: self._read_few(place, few, truth))

    def ordered(self) -> None:
        """Add the rows of a shuffled epoch through a cache that holds a quarter, its order handed in, and not."""
        race, tree = self._race, self._tree
        mount = race.dvfs.with_options("--cache-size", str(tree.bytes // CACHE_PART))
        for is_known, goals in ORDER_GOALS.items():
            key = f"{tree.name}.small-cache.{'order' if is_known else 'auto'}"
            known = "known" if is_known else "not known"
            title = f"{tree.name}: shuffled epoch, 16 threads, ~0 ms, cache of a quarter, order {known}"
            row = Row(key, title, Measure.SHARE, goals=goals, shows=(Measure.FILES,), total_bytes=tree.bytes)
            read = partial(self._read_in_order, mount, is_known)
            race.run({key: row}, {DVFS: self._cold_turn(mount, key, read)})

    def _cold_turn(self, mount: Mount, key: str, read: Callable[[Place], Taken]) -> Turn:
        """Return the turn that does *read* on an empty cache, counted until all is quiet."""
        race = self._race

        def work() -> Iterator[tuple[str, Taken]]:
            cache = race.new_folder()
            try:
                race.forget()
                with mount.mounted(self._tree.name, cache) as place:
                    yield key, race.counted(lambda: read(place), until_quiet=True)
            finally:
                remove_tree(cache)

        return Turn((key,), work)

    def _read_in_order(self, mount: DvfsMount, is_known: bool, place: Place) -> Taken:
        if is_known:
            with tempfile.NamedTemporaryFile() as file:
                names = shuffled(list(self._tree.files), self._order + 1)
                file.write(b"".join(name + b"\0" for name in names))
                file.flush()
                mount.dvfs.run("prefetch", "-q", "-0", "--order", file.name, str(place.directory))
        return self._read(place, self._tree, COLD_THREADS)

    def _read_few(self, place: Place, few: Tree, truth: Read) -> Taken:
        read = self._race.programs.read_epoch(place.directory, few.list_file, threads=DISK_THREADS)
        return _taken(read.check(truth), place)

    def _read(self, place: Place, tree: Tree, threads: int, epochs: int = 1) -> Taken:
        """Read all of *tree* in an order that is another one each time, and check it."""
        self._order += 1
        read = self._race.programs.read_epoch(
            place.directory, tree.list_file, threads=threads, seed=self._order, epochs=epochs
        )
        return _taken(read.check(self._truths[tree.list_file]), place)

    def _who(self) -> str:
        """Say who reads what, where it is not the same."""
        if len(self._sample.files) == len(self._tree.files):
            return f" ({len(self._tree.files):,} files)"
        folders = f"{len(self._sample.files):,} in {self._sample.folders} whole folders"
        return f" (dvfs and ext4 {len(self._tree.files):,} files, the others {folders})"


def sample_name(tree: Tree) -> str:
    """Return the name under which the sample alone is kept, by those that cannot read a part."""
    return f"{tree.name}-sample"


def _taken(read: Read, place: Place) -> Taken:
    return Taken(read.seconds, read.files, read.bytes, notes={"mount_seconds": place.seconds})
