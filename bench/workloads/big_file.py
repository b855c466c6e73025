"""One big file: from its start to its end, and 64 KiB at random places; cold, from the disk cache, from memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.machine import is_root, remove_tree
from bench.mounting import Mounted
from bench.programs import Read
from bench.session import Session
from bench.timing import Against, Goal, Row
from bench.trees import Tree

DISK_GOAL = Goal(Against.CLOCK, 1e9)
Reading = Callable[[Path], Read]


class BigFile:
    """The rows of the file of *tree*, version *dataset*."""

    def __init__(self, session: Session, tree: Tree, dataset: str, key: str) -> None:
        self._session = session
        self._tree = tree
        self._dataset = dataset
        self._key = key
        self._name = os.fsdecode(tree.files[0])
        self._file = tree.root / self._name

    def measure(self) -> None:
        """Add all rows."""
        programs, reads = self._session.programs, self._session.scale.random_reads
        cache = self._measure("sequential", "from start to end", programs.read_sequentially, self._download)
        remove_tree(cache)

        def at_random(file: Path) -> Read:
            return programs.read_randomly(file, reads=reads)

        cache = self._measure("random", f"{reads} random reads", at_random, self._get_ranges, fill=True)
        remove_tree(cache)

    def _measure(self, key: str, title: str, read: Reading, objects: Callable[[], Read], *, fill: bool = False) -> Path:
        """Add the rows of one way of reading; return the cache, in which the whole file is if *fill*."""
        session = self._session
        truth = read(self._file)
        cache = session.dvfs.new_cache()
        notes: dict[str, list[float]] = {}

        def checked(file: Path) -> float:
            return read(file).check(truth).seconds

        def on_mount(work: Callable[[Mounted], float]) -> float:
            with session.dvfs.mounted(self._dataset, cache) as mount:
                seconds = work(mount)
                notes.setdefault("daemon_cpu_seconds", []).append(mount.usage().cpu_seconds)
                notes.setdefault("daemon_peak_bytes", []).append(mount.usage().peak_bytes)
                return seconds

        def forgetting(work: Callable[[], float]) -> Callable[[], float]:
            def after() -> float:
                session.forget()
                return work()

            return after

        def native() -> float:
            return checked(self._file)

        def dvfs() -> float:
            return on_mount(lambda mount: checked(mount.directory / self._name))

        def dvfs_cold() -> float:
            remove_tree(cache)
            return forgetting(dvfs)()

        def objects_cold() -> float:
            session.forget()
            read = objects()
            return read.check(truth).seconds if read.samples else read.seconds

        taken = session.in_turns(objects=objects_cold, native=forgetting(native), dvfs=dvfs_cold)
        self._add(f"{key}.cold", f"{title}, from S3", taken, truth, notes)
        if fill:
            on_mount(lambda mount: session.programs.read_sequentially(mount.directory / self._name).seconds)
        notes.clear()
        taken = session.in_turns(native=forgetting(native), dvfs=forgetting(dvfs))
        goal = DISK_GOAL if key == "sequential" and is_root() else None
        self._add(f"{key}.disk", f"{title}, from the disk cache", taken, truth, notes, goal)
        notes.clear()
        native()
        taken = session.in_turns(native=native, dvfs=dvfs)
        self._add(f"{key}.memory", f"{title}, disk cache in memory, new mount", taken, truth, notes, goal)
        notes.clear()

        def again(mount: Mounted) -> float:
            file = mount.directory / self._name
            checked(file)
            taken = session.in_turns(native=native, dvfs=lambda: checked(file))
            self._add(f"{key}.page-cache", f"{title}, again on one mount", taken, truth, notes)
            return 0

        on_mount(again)
        return cache

    def _download(self) -> Read:
        """Download the object in parts, then read the file."""
        target = self._session.folder / "downloaded.bin"
        downloaded = self._session.programs.objects("download-file", target, self._session.bucket, self._key)
        read = self._session.programs.read_sequentially(target)
        target.unlink()
        return Read(downloaded.seconds + read.seconds, 0, read.files, read.bytes, read.samples)

    def _get_ranges(self) -> Read:
        """Get the same random ranges of the object."""
        session = self._session
        size, reads = str(self._tree.bytes), str(session.scale.random_reads)
        return session.programs.objects("random", session.bucket, self._key, "--size", size, "--reads", reads)

    def _add(
        self,
        key: str,
        title: str,
        taken: dict[str, list[float]],
        truth: Read,
        notes: dict[str, list[float]],
        goal: Goal | None = None,
    ) -> None:
        self._session.add(
            Row(
                f"big.{key}",
                f"big: {title}",
                taken["dvfs"],
                native=taken["native"],
                objects=taken.get("objects", []),
                files=1,
                bytes=truth.bytes,
                goal=goal,
                notes={name: list(values) for name, values in notes.items()},
            )
        )


def measure(session: Session, tree: Tree) -> None:
    """Make a version and an object of the file of *tree*, then add all rows."""
    dataset, _ = session.dvfs.create(tree)
    key = f"{tree.name}/{os.fsdecode(tree.files[0])}"
    session.programs.objects("upload-file", tree.root / os.fsdecode(tree.files[0]), session.bucket, key)
    BigFile(session, tree, dataset, key).measure()
