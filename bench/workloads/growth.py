"""Growth: the same things done with ever larger versions, and with ever longer lineages; each time on a new machine.

A new machine is a state folder and a cache with nothing in them. What is edited and read is chosen by a fixed seed.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from bench.growth import making, table
from bench.growth.curves import Axis, Curve, Measure
from bench.growth.measured import new_curves, of_traffic, of_usage
from bench.machine import remove_tree
from bench.mounting import Dvfs, Mounted
from bench.programs import Failed, Programs
from bench.race.counts import Traffic
from bench.race.proxy import Proxy
from bench.session import Session, expect, tell
from bench.trees import SEED
from dvfs.store.digest import block_digest

_STORE = "growth"
_EDIT_BYTES = 500
_COUNT = 'find "$1" -printf . | wc -c'
_T = TypeVar("_T")


def run(session: Session) -> tuple[list[Curve], list[str]]:
    """Measure all; return the curves, and along which axes it failed. A failure is told and ends its axis only."""
    proxy = Proxy(session.server.endpoint)
    try:
        growing = Growing(session, proxy)
        failed = []
        for axis, work in ((Axis.ENTRIES, growing.entries), (Axis.VERSIONS, growing.versions)):
            try:
                work()
            except (Failed, OSError) as error:
                tell(f"{axis} ends: {error}")
                failed.append(axis.value)
        return [curve for curve in growing.curves.values() if curve.runs], failed
    finally:
        proxy.stop()


class Growing:
    """One run, of which the *curves* are filled. All of dvfs goes through *proxy*, but what makes versions."""

    def __init__(self, session: Session, proxy: Proxy) -> None:
        self.curves = new_curves()
        self._session = session
        self._scale = session.scale.growth
        self._proxy = proxy
        variables = session.server.environment("writer")
        self._programs = Programs(variables | {"AWS_ENDPOINT_URL": proxy.endpoint})
        self._maker = Dvfs(Programs(variables), session.bucket, _STORE, session.folder / "maker", mounts=session.folder)
        self._numbers = count()
        self._axis = Axis.ENTRIES
        self._size = 0
        self._entries = 0
        self._rng = random.Random(SEED)

    # -- the axes

    def entries(self) -> None:
        """Make versions of ever more entries, and measure each."""
        for size in self._scale.entries:
            made = self._make("version", str(size))
            self._begin(Axis.ENTRIES, size, made["entries"])
            taken = {
                Measure.SECONDS: made["seconds"],
                Measure.MEMORY: made["peak_bytes"],
                Measure.LEVELS: made["levels"],
            }
            self._note("made", taken | {Measure.SENT: made["metadata_bytes"]}, answer=made["entries"])
            child = ""
            self._find(made["id"])
            for _ in range(self._scale.rounds):
                self._mount(made["id"])
                child = self._commit(made["id"])
                self._diff("diff", made["id"], child)
            self._in_a_row(made["id"])
            self._diff_in_a_row("diff", made["id"], child)
            self._tell()

    def versions(self) -> None:
        """Make a lineage, and measure it whenever it has become ten times as long."""
        first = self._make("version", str(self._scale.lineage_entries))
        parent = newest = first["id"]
        done = 1
        for depth in self._scale.depths:
            self._begin(Axis.VERSIONS, depth, first["entries"])
            if depth > done:
                # The last but one by itself: it is what the last one is compared with.
                parent = self._make("lineage", newest, str(depth - done - 1))["id"] if depth > done + 1 else newest
                made = self._make("lineage", parent, "1")
                newest, done = made["id"], depth
                self._note("made", {Measure.SECONDS: made["seconds"], Measure.SENT: made["metadata_bytes"]})
            self._find(newest)
            for _ in range(self._scale.rounds):
                self._mount(newest)
                self._mount_by_name(f"{making.PROJECT}/of-{self._scale.lineage_entries}")
                self._commit(newest)
                if parent != newest:
                    self._diff("diff", parent, newest)
                    self._diff("diff-first", first["id"], newest)
                self._log(newest, depth)
            self._in_a_row(newest)
            if parent != newest:
                self._diff_in_a_row("diff", parent, newest)
                self._diff_in_a_row("diff-first", first["id"], newest)
            self._tell()

    # -- what is done at each size

    def _mount(self, dataset: str) -> None:
        """Mount and, when what comes behind the mount has come, read a byte of a file, and list another folder."""
        with self._machine() as dvfs:
            before = self._proxy.counts()
            with dvfs.mounted(dataset, dvfs.new_cache()) as mount:
                answered = self._proxy.counts()
                used = of_usage(mount.usage())
                self._note("mount", of_traffic(answered - before) | used | {Measure.SECONDS: mount.seconds})
                self._note("behind", of_traffic(self._quiet_counts() - answered))
                file = mount.directory / os.fsdecode(self._files(1)[0])
                seconds, traffic = self._counted(lambda: _first_byte(file))
                self._note("first", of_traffic(traffic) | {Measure.SECONDS: seconds})
                _check(file)
                folder = os.fsdecode(self._files(1)[0]).rpartition("/")[0]
                listed, traffic = self._counted(lambda: self._list(mount, folder))
                self._note("list", of_traffic(traffic) | listed)

    def _list(self, mount: Mounted, folder: str) -> dict[Measure, float]:
        ran = self._programs.run(["ls", "-U", mount.directory / folder])
        expect(f"files in {folder}", ran.output.count("\n"), min(making.FILES_IN_FOLDER, self._shape[0]))
        return of_usage(mount.usage()) | {Measure.SECONDS: ran.seconds}

    def _mount_by_name(self, name: str) -> None:
        with self._machine() as dvfs:
            before = self._proxy.counts()
            with dvfs.mounted(name, dvfs.new_cache()) as mount:
                traffic = self._proxy.counts() - before
                used = of_usage(mount.usage())
                self._note("named", of_traffic(traffic) | used | {Measure.SECONDS: mount.seconds})

    def _find(self, dataset: str) -> None:
        """Walk all of a version: once, for it may take long. Of the catalog a mount may have fetched a part already."""
        with self._machine() as dvfs:
            before = self._proxy.counts()
            with dvfs.mounted(dataset, dvfs.new_cache()) as mount:
                ran = self._programs.run(["sh", "-c", _COUNT, "sh", mount.directory])
                expect(f"entries of {dataset}", int(ran.output), self._entries)
                traffic = self._quiet_counts() - before
                taken = of_traffic(traffic) | of_usage(mount.usage()) | {Measure.SECONDS: ran.seconds + mount.seconds}
                self._note("find", taken, answer=self._entries)

    def _commit(self, dataset: str) -> str:
        """Commit a few edits of a version; return the child."""
        with self._machine() as dvfs:
            cache = dvfs.new_cache()
            with dvfs.mounted(dataset, cache, overlay="edits") as mount:
                _, edits = self._counted(lambda: self._edit(mount))
                self._note("edit", of_traffic(edits))
                words = ("commit", "--json", str(mount.directory))
                (ran, used), traffic = self._counted(lambda: dvfs.run_and_weigh(*words, cache=cache))
                self._note("commit", of_traffic(traffic) | of_usage(used) | {Measure.SECONDS: ran.seconds})
                self._note("daemon", of_usage(mount.usage()))
                return str(json.loads(ran.output)["id"])

    def _edit(self, mount: Mounted) -> None:
        for path in self._files(making.EDITS):
            (mount.directory / os.fsdecode(path)).write_bytes(os.urandom(_EDIT_BYTES))

    def _diff(self, key: str, before: str, after: str) -> None:
        with self._machine() as dvfs:
            words = ("diff", "--json", before, after)
            (ran, used), traffic = self._counted(lambda: dvfs.run_and_weigh(*words, cache=dvfs.new_cache()))
            found = len(json.loads(ran.output)["changes"])
            if key == "diff":
                expect("files that differ", found, making.EDITS)
            taken = of_usage(used) | {Measure.SECONDS: ran.seconds, Measure.ANSWER: found}
            self._note(key, of_traffic(traffic) | taken, answer=found)

    def _log(self, dataset: str, depth: int) -> None:
        with self._machine() as dvfs:
            for key in ("log", "log-again"):
                ran, traffic = self._counted(lambda: dvfs.run("log", "--json", dataset))
                expect("versions in the log", len(json.loads(ran.output)), depth)
                self._note(key, of_traffic(traffic) | {Measure.SECONDS: ran.seconds}, answer=depth)

    # -- requests in a row: what latency costs, told by much of it

    def _in_a_row(self, dataset: str) -> None:
        """Count the requests in a row of mounting, of reading the first byte right after, and of a commit."""
        delay = self._scale.delay_seconds
        (path,) = self._files(1)
        with (
            self._machine() as dvfs,
            self._proxy.latency(delay),
            dvfs.mounted(dataset, dvfs.new_cache()) as mount,
        ):
            self._note_in_a_row("mount", mount.seconds)
            seconds = _first_byte(mount.directory / os.fsdecode(path))
            self._note("first", {Measure.IN_A_ROW: round(seconds / delay)})
        with self._machine() as dvfs:
            cache = dvfs.new_cache()
            with dvfs.mounted(dataset, cache, overlay="edits") as mount:
                self._counted(lambda: self._edit(mount))
                with self._proxy.latency(delay):
                    seconds = dvfs.run("commit", "-q", str(mount.directory), cache=cache).seconds
                self._note_in_a_row("commit", seconds)

    def _diff_in_a_row(self, key: str, before: str, after: str) -> None:
        with self._machine() as dvfs, self._proxy.latency(self._scale.delay_seconds):
            ran = dvfs.run("diff", "--json", before, after, cache=dvfs.new_cache())
            self._note_in_a_row(key, ran.seconds)

    def _note_in_a_row(self, key: str, seconds: float) -> None:
        """Note by how many delays *seconds* are more than what was measured without."""
        curve = self.curves[self._axis, key, Measure.SECONDS]
        without = curve.value(self._size)
        assert without is not None
        delays = max(0, round((seconds - without) / self._scale.delay_seconds))
        self._note(key, {Measure.IN_A_ROW: delays}, answer=curve.answers.get(self._size))

    # -- means

    def _make(self, *words: str) -> dict[str, Any]:
        tell(f"making: {' '.join(words)}")
        told: dict[str, Any] = json.loads(self._maker.python("bench.growth.making", *words).output)
        return told

    def _begin(self, axis: Axis, size: int, entries: int) -> None:
        """Measure from now on at *size* of *axis*, a version of *entries*."""
        self._axis, self._size, self._entries = axis, size, entries
        self._shape = making.shape(entries)

    def _note(self, key: str, taken: Mapping[Measure, float], *, answer: float | None = None) -> None:
        """Put what was *taken* into the curves of *key* that there are."""
        for measure, value in taken.items():
            curve = self.curves.get((self._axis, key, measure))
            if curve is not None:
                curve.runs.setdefault(self._size, []).append(value)
                if answer is not None:
                    curve.answers[self._size] = answer

    def _tell(self) -> None:
        """Say what was measured at this size."""
        for curve in self.curves.values():
            if curve.axis is self._axis and self._size in curve.runs:
                tell(table.text_line(curve))

    @contextmanager
    def _machine(self) -> Iterator[Dvfs]:
        folder = self._session.folder / f"machine-{next(self._numbers)}"
        try:
            yield Dvfs(self._programs, self._session.bucket, _STORE, folder, mounts=self._session.folder)
        finally:
            remove_tree(folder)

    def _quiet_counts(self) -> Traffic:
        return self._proxy.quiet_counts(self._scale.quiet_seconds)

    def _counted(self, work: Callable[[], _T]) -> tuple[_T, Traffic]:
        """Return what *work* returns, and the traffic until nothing more comes of it."""
        before = self._proxy.counts()
        done = work()
        return done, self._quiet_counts() - before

    def _files(self, number: int) -> list[bytes]:
        """Return the paths of so many files, spread over all folders."""
        files = self._shape[0]
        return [self._path(file) for file in self._rng.sample(range(files), number)]

    def _path(self, file: int) -> bytes:
        folder, index = divmod(file, making.FILES_IN_FOLDER)
        in_folder = min(making.FILES_IN_FOLDER, self._shape[0] - folder * making.FILES_IN_FOLDER)
        return making.folder_name(folder) + b"/" + making.file_names(folder, in_folder)[index]


def _first_byte(file: Path) -> float:
    began = time.monotonic()
    with open(file, "rb", buffering=0) as opened:
        opened.read(1)
    return time.monotonic() - began


def _check(file: Path) -> None:
    """Raise Failed unless *file* holds the bytes of its digest."""
    if block_digest(file.read_bytes()).hex().encode() != os.getxattr(file, "user.dvfs.digest"):
        raise Failed(f"{file} has other bytes than those of its digest")
