"""Edits: a tree unpacked, a repository cloned, files written and changed; against other file systems that take them.

In each round every contestant gets a new place, does the work, and what it wrote is compared; then the place is
removed. Only the work is timed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.daemons import Place
from bench.machine import remove_tree
from bench.programs import Failed, shown_bytes
from bench.rivals import Contestant, DvfsOverlay, Folder, FuseOverlay, Passthrough, compile_passthrough
from bench.session import Session, expect, tell
from bench.timing import Against, Goal, Row
from bench.trees import Tree, make_big, make_texts

FILES_GOAL = Goal(Against.OVERLAYFS, 0.5)
DATA_GOAL = Goal(Against.OVERLAYFS, 1.0)
CHANGE_GOAL = Goal(Against.OVERLAYFS, 5.0)
SMALL_FILE_BYTES = (500, 3_500)
CHANGED_FILES = 10

_GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost")
_GIT_VARIABLES = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

Work = Callable[[Path], Mapping[str, float]]
"""Does the work in a directory and checks it; returns seconds by the key of the line that they belong to."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row to be: its title and goal, and what one run goes through."""

    title: str
    goal: Goal
    files: int
    bytes: int


def measure(session: Session) -> None:
    """Add all rows."""
    base = make_big(session.folder, session.scale.edits.file_bytes)
    with _contestants(session, base) as contestants:
        Editing(session, base, contestants).measure()
    remove_tree(base.root)
    _commit(session)


class Editing:
    """The rows of edits by *contestants*, in whose places the one file of *base* lies."""

    def __init__(self, session: Session, base: Tree, contestants: Sequence[Contestant]) -> None:
        self._session = session
        self._base = base
        self._contestants = contestants

    def measure(self) -> None:
        """Add all rows but that of the commit."""
        self._unpack()
        self._clone()
        self._write_randomly()
        self._write_and_read()
        self._change_byte()

    def _unpack(self) -> None:
        programs, scale = self._session.programs, self._session.scale.edits
        tree = make_texts(
            self._session.folder, scale.files, scale.folders, name="unpacked", file_bytes=SMALL_FILE_BYTES
        )
        truth = programs.read_epoch(tree.root, tree.list_file, threads=1)
        archive = self._session.folder / "unpacked.tar"
        programs.run(["tar", "-C", tree.root, "--sort=name", "-cf", archive, "."])
        remove_tree(tree.root)

        def unpack(place: Path) -> dict[str, float]:
            target = place / tree.name
            target.mkdir()
            seconds = programs.run(["tar", "-C", target, "-xf", archive]).seconds
            programs.read_epoch(target, tree.list_file, threads=1).check(truth)
            return {"unpack": seconds}

        title = f"unpack a tar of {len(tree.files)} small files"
        self._run(unpack, {"unpack": Line(title, FILES_GOAL, len(tree.files), tree.bytes)})
        archive.unlink()

    def _clone(self) -> None:
        if shutil.which("git") is None:
            tell("there is no git: no row of a clone")
            return
        programs, scale = self._session.programs, self._session.scale.edits
        tree = make_texts(
            self._session.folder, scale.cloned_files, scale.folders, name="cloned", file_bytes=SMALL_FILE_BYTES
        )
        truth = programs.read_epoch(tree.root, tree.list_file, threads=1)

        def git(*words: str | os.PathLike[str]) -> float:
            return programs.run([*_GIT, *words], _GIT_VARIABLES).seconds

        git("init", "-q", tree.root)
        git("-C", tree.root, "add", "-A")
        git("-C", tree.root, "commit", "-q", "-m", "all of it")
        git("-C", tree.root, "gc", "-q")

        def clone(place: Path) -> dict[str, float]:
            target = place / tree.name
            # Else objects are hard links where that can be, in the plain folder only.
            seconds = git("clone", "-q", "--no-hardlinks", tree.root, target)
            programs.read_epoch(target, tree.list_file, threads=1).check(truth)
            return {"clone": seconds}

        title = f"git clone of {len(tree.files)} files"
        self._run(clone, {"clone": Line(title, FILES_GOAL, len(tree.files), tree.bytes)})
        remove_tree(tree.root)

    def _write_randomly(self) -> None:
        if shutil.which("fio") is None:
            tell("there is no fio: no row of random writes")
            return
        programs, size = self._session.programs, self._session.scale.edits.random_bytes

        def write(place: Path) -> dict[str, float]:
            file = place / "random.bin"
            # Where a file system has no fallocate, the C library would write a byte of every block first.
            options = f"--rw=randwrite --bs=4k --ioengine=psync --size={size} --end_fsync=1 --fallocate=none"
            ran = programs.run(["fio", "--name=random", f"--filename={file}", *options.split(), "--output-format=json"])
            job = json.loads(ran.output[ran.output.index("{") :])["jobs"][0]["write"]
            expect("bytes written by fio", job["io_bytes"], size)
            expect("size of the file of fio", file.stat().st_size, size)
            return {"random-write": job["runtime"] / 1000}

        title = f"{shown_bytes(size)} in random writes of 4 KiB, fsync"
        self._run(write, {"random-write": Line(title, DATA_GOAL, 1, size)})

    def _write_and_read(self) -> None:
        session, size = self._session, self._session.scale.edits.file_bytes
        programs = session.programs

        def write_and_read(place: Path) -> dict[str, float]:
            file = place / "written.bin"
            written = programs.write_sequentially(file, size)
            again = programs.read_sequentially(file).check(written)
            session.forget()
            cold = programs.read_sequentially(file).check(written)
            return {"write": written.seconds, "read-back": again.seconds, "read-back.disk": cold.seconds}

        shown = shown_bytes(size)
        lines = {
            "write": Line(f"write of {shown} from start to end, fsync", DATA_GOAL, 1, size),
            "read-back": Line(f"read back of the {shown}", DATA_GOAL, 1, size),
            "read-back.disk": Line(f"read back of the {shown}, page cache empty", DATA_GOAL, 1, size),
        }
        self._run(write_and_read, lines)

    def _change_byte(self) -> None:
        programs, size = self._session.programs, self._base.bytes
        name = os.fsdecode(self._base.files[0])

        def change(place: Path) -> dict[str, float]:
            programs.read_sequentially(place / name)
            seconds = programs.change_byte(place / name, size // 2 + 1).seconds
            expect(f"size of {name}", (place / name).stat().st_size, size)
            return {"byte": seconds}

        title = f"1 byte changed in a file of {shown_bytes(size)} of the base, fsync"
        self._run(change, {"byte": Line(title, CHANGE_GOAL, 1, 1)})

    def _run(self, work: Work, lines: Mapping[str, Line]) -> None:
        """Have all contestants do *work* in turns; add a row for each of *lines*."""
        taken: dict[str, dict[str, list[float]]] = {key: {} for key in lines}
        notes: dict[str, list[float]] = {}
        contestants = list(self._contestants)
        for turn in range(self._session.scale.edits.rounds):
            for contestant in contestants if turn % 2 == 0 else contestants[::-1]:
                os.sync()
                try:
                    with contestant.place() as place:
                        seconds = work(place.directory)
                        _note_usage(notes, contestant, place)
                except (Failed, OSError) as error:
                    if not contestant.is_rival:
                        raise
                    tell(f"{contestant.name} is left out: {error}")
                    contestants.remove(contestant)
                    for figures in taken.values():
                        figures.pop(contestant.name, None)
                    continue
                for key, value in seconds.items():
                    taken[key].setdefault(contestant.name, []).append(value)
        for key, line in lines.items():
            self._session.add(
                Row(
                    f"edits.{key}",
                    f"edits: {line.title}",
                    taken[key]["dvfs"],
                    native=taken[key]["native"],
                    overlayfs=taken[key].get("fuse-overlayfs", []),
                    passthrough=taken[key].get("passthrough", []),
                    files=line.files,
                    bytes=line.bytes,
                    goal=line.goal,
                    notes=notes,
                )
            )


def _commit(session: Session) -> None:
    """Add the row of a commit of a few changed files in a version of many."""
    programs = session.programs
    tree = make_texts(session.folder, session.scale.text_files, session.scale.text_folders)
    dataset, _ = session.dvfs.create(tree)
    cache = session.dvfs.new_cache()
    names = [os.fsdecode(name) for name in tree.files[:: len(tree.files) // CHANGED_FILES][:CHANGED_FILES]]
    seconds: list[float] = []
    stored: list[int] = []
    changed: list[float] = []
    contestant = DvfsOverlay(session.dvfs, dataset, cache)
    for _ in range(session.scale.edits.rounds):
        with contestant.place() as place:
            for name in names:
                with (place.directory / name).open("r+b") as file:
                    file.write(os.urandom(SMALL_FILE_BYTES[0]))
            changed.append(sum((place.directory / name).stat().st_size for name in names))
            os.sync()
            before = programs.objects("sum", session.bucket, session.dvfs.prefix).bytes
            seconds.append(session.dvfs.commit(place.directory))
            stored.append(programs.objects("sum", session.bucket, session.dvfs.prefix).bytes - before)
    session.add(
        Row(
            "edits.commit",
            f"edits: commit of {CHANGED_FILES} changed files in a version of {len(tree.files)}",
            seconds,
            files=CHANGED_FILES,
            bytes=int(changed[0]),
            stored=stored,
            notes={"changed_bytes": changed},
        )
    )
    remove_tree(cache)
    remove_tree(tree.root)


@contextmanager
def _contestants(session: Session, base: Tree) -> Iterator[list[Contestant]]:
    """Give the contestants that can be had here; the cache of dvfs holds all of *base*."""
    folder = session.folder / "edits"
    folder.mkdir()
    name = os.fsdecode(base.files[0])
    own = folder / name
    shutil.copyfile(base.root / name, own)
    native = Folder(folder, own)
    found: list[Contestant] = [native]
    if shutil.which("fuse-overlayfs"):
        found.append(FuseOverlay(folder, base.root, session.folder))
    else:
        tell("there is no fuse-overlayfs: its column stays empty")
    try:
        found.append(Passthrough(compile_passthrough(session.programs, folder), native, session.folder))
    except Failed as error:
        tell(f"there is no passthrough, its column stays empty: {error}")
    dataset, _ = session.dvfs.create(base)
    cache = session.dvfs.new_cache()
    with session.dvfs.mounted(dataset, cache) as mount:
        session.programs.read_sequentially(mount.directory / name).check(session.programs.read_sequentially(own))
    found.append(DvfsOverlay(session.dvfs, dataset, cache))
    try:
        yield found
    finally:
        remove_tree(folder)
        remove_tree(cache)


def _note_usage(notes: dict[str, list[float]], contestant: Contestant, place: Place) -> None:
    used = place.usage()
    if used is not None:
        notes.setdefault(f"{contestant.name}_daemon_cpu_seconds", []).append(used.cpu_seconds)
        notes.setdefault(f"{contestant.name}_daemon_peak_bytes", []).append(used.peak_bytes)
