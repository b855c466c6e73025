"""All files of a tree in shuffled order: cold, from the disk cache after a remount, and from the page cache."""

from __future__ import annotations

from pathlib import Path

from bench.machine import remove_tree
from bench.programs import Read
from bench.session import Session
from bench.timing import Against, Goal, Row
from bench.trees import Tree
from bench.workloads.single_objects import SingleObjects

WARM_GOAL = Goal(Against.NATIVE, 0.9)
_WARM_EPOCHS = 3
"""An epoch from memory takes a moment: each run of the reader is so many, and gives their median."""


class Epochs:
    """The epochs of one *tree*, its version *dataset* and its *objects*.

    *cold_goal*: how many times as fast as downloading all objects and reading them then the first epoch is to be.
    """

    def __init__(self, session: Session, tree: Tree, dataset: str, objects: SingleObjects, cold_goal: float) -> None:
        self._session = session
        self._tree = tree
        self._dataset = dataset
        self._objects = objects
        self._cold_goal = cold_goal
        self._order = 1
        self._truth = session.programs.read_epoch(tree.root, tree.list_file, threads=1)

    def measure(self) -> None:
        """Add all rows."""
        cache = self._cold()
        self._from_disk(cache)
        self._from_page_cache(cache)
        remove_tree(cache)

    def _cold(self) -> Path:
        """Add the rows of the first epoch; return a cache that is filled."""
        session = self._session
        threads = session.scale.threads
        native: dict[int, list[float]] = {n: [] for n in threads}
        epoch: dict[int, list[float]] = {n: [] for n in threads}
        in_all: dict[int, list[float]] = {n: [] for n in threads}
        objects: dict[int, list[float]] = {n: [] for n in threads}
        notes: dict[int, dict[str, list[float]]] = {n: {} for n in threads}
        cache = session.dvfs.new_cache()
        for _ in range(session.scale.cold_rounds):
            downloading, with_reading = self._objects.download_and_read(threads)
            for n in threads:
                objects[n].append(with_reading[n])
                notes[n].setdefault("download_seconds", []).append(downloading)
                self._next_order()
                session.forget()
                native[n].append(self._read(self._tree.root, n).seconds)
                remove_tree(cache)
                session.forget()
                with session.dvfs.mounted(self._dataset, cache) as mount:
                    read = self._read(mount.directory, n)
                    epoch[n].append(read.seconds)
                    in_all[n].append(mount.seconds + read.wall_seconds)
                    used = mount.usage()
                    notes[n].setdefault("mount_seconds", []).append(mount.seconds)
                    notes[n].setdefault("daemon_cpu_seconds", []).append(used.cpu_seconds)
                    notes[n].setdefault("daemon_peak_bytes", []).append(used.peak_bytes)
        for n in threads:
            goal = Goal(Against.OBJECTS, self._cold_goal)
            self._add("cold-from-zero", "S3, with mount / download", n, in_all[n], objects=objects[n], goal=goal)
            self._add("cold", "first epoch, from S3", n, epoch[n], native=native[n], notes=notes[n])
        return cache

    def _from_disk(self, cache: Path) -> None:
        """Add the rows of an epoch from the filled *cache*, page cache empty."""
        session = self._session
        for n in session.scale.threads:
            self._next_order()
            notes: dict[str, list[float]] = {"mount_seconds": [], "daemon_cpu_seconds": []}

            def native(n: int = n) -> float:
                session.forget()
                return self._read(self._tree.root, n).seconds

            def dvfs(n: int = n, notes: dict[str, list[float]] = notes) -> float:
                session.forget()
                with session.dvfs.mounted(self._dataset, cache) as mount:
                    seconds = self._read(mount.directory, n).seconds
                    notes["mount_seconds"].append(mount.seconds)
                    notes["daemon_cpu_seconds"].append(mount.usage().cpu_seconds)
                    return seconds

            taken = session.in_turns(native=native, dvfs=dvfs)
            self._add("disk", "epoch from the disk cache", n, taken["dvfs"], native=taken["native"], notes=notes)

    def _from_page_cache(self, cache: Path) -> None:
        """Add the rows of a second epoch on the same mount."""
        session = self._session
        session.forget()  # both are filled into the same emptied memory: where pages lie in it counts
        with session.dvfs.mounted(self._dataset, cache) as mount:
            self._read(mount.directory, 4)
            self._read(self._tree.root, 4)
            before = mount.usage().cpu_seconds
            for n in session.scale.threads:
                self._next_order()

                def native(n: int = n) -> float:
                    return self._read(self._tree.root, n, _WARM_EPOCHS).seconds

                def dvfs(n: int = n) -> float:
                    return self._read(mount.directory, n, _WARM_EPOCHS).seconds

                taken = session.in_turns(native=native, dvfs=dvfs)
                used = {"daemon_cpu_seconds": [mount.usage().cpu_seconds - before]}
                before += used["daemon_cpu_seconds"][0]
                title = "epoch from the page cache"
                self._add("page-cache", title, n, taken["dvfs"], native=taken["native"], goal=WARM_GOAL, notes=used)

    def _read(self, root: Path, threads: int, epochs: int = 1) -> Read:
        """Read all files below *root*, in an order that `_next_order` changes, and check them."""
        read = self._session.programs.read_epoch(
            root, self._tree.list_file, threads=threads, seed=self._order, epochs=epochs
        )
        return read.check(self._truth)

    def _next_order(self) -> None:
        self._order += 1

    def _add(
        self,
        key: str,
        title: str,
        threads: int,
        dvfs: list[float],
        *,
        native: list[float] | None = None,
        objects: list[float] | None = None,
        goal: Goal | None = None,
        notes: dict[str, list[float]] | None = None,
    ) -> None:
        self._session.add(
            Row(
                f"{self._tree.name}.{key}.{threads}",
                f"{self._tree.name}: {title}, {threads} thread{'s' * (threads > 1)}",
                dvfs,
                native=native or [],
                objects=objects or [],
                files=len(self._tree.files),
                bytes=self._tree.bytes,
                goal=goal,
                notes=notes or {},
            )
        )
