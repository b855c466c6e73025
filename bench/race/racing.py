"""One race: the contestants, run in turns; a failure ends one contestant's part in one row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from bench import machine
from bench.mounting import Dvfs
from bench.programs import Failed, Programs
from bench.race import table
from bench.race.counts import ServerCounts
from bench.race.downloads import Download, Dvc, boto3_objects, obstore_objects
from bench.race.installing import Rivals, install
from bench.race.mounts import Absent, DvfsMount, JuiceFs, Mount, Native, Rclone, S3fs
from bench.race.proxy import Proxy
from bench.race.rows import DOWNLOADS, DVFS, NATIVE, Figure, Row, Taken
from bench.scale import Scale
from bench.session import Session, tell
from bench.trees import Tree


@dataclass(frozen=True, slots=True)
class Turn:
    """What a contestant does when it is its turn: *work* yields what it took for each of the rows *keys*, in order.

    It yields each as it is done with it: where it fails later, that counts. *most_runs*: fewer than there are rounds.
    """

    keys: tuple[str, ...]
    work: Callable[[], Iterator[tuple[str, Taken]]]
    most_runs: int | None = None


@dataclass(slots=True)
class Race:
    """What the workloads of the race share; *variables* tell all contestants how to reach the server.

    Not thread-safe.
    """

    session: Session
    variables: dict[str, str]
    server: ServerCounts
    proxy: Proxy
    programs: Programs
    folder: Path
    dvfs: DvfsMount
    native: Native
    mounts: dict[str, Mount]
    downloads: dict[str, Download]
    rows: list[Row] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _forgetting_seconds: float = 0.0

    @property
    def scale(self) -> Scale:
        return self.session.scale

    @property
    def readers(self) -> dict[str, Mount]:
        """All that shows trees as directories: dvfs, the plain directory, and the rivals."""
        return {DVFS: self.dvfs, Native.name: self.native, **self.mounts}

    def new_folder(self) -> Path:
        """Return a path in the race's folder that nothing is at."""
        return self.folder / f"work-{next(self._numbers)}"

    def forget(self, *, restart: bool = False) -> None:
        """Empty the page cache of all but the programs, and have memory at hand.

        *restart*: start the server anew as well, which would go on with the memory that the contestant before filled.
        Nothing may be mounted then that needs it.
        """
        began = time.monotonic()
        self._empty_page_cache()
        with machine.used_memory(self.scale.race.memory_bytes):
            if restart:
                self.session.server.stop()
                self.session.server.start()
                self._empty_page_cache()
        self._forgetting_seconds += time.monotonic() - began

    def _empty_page_cache(self) -> None:
        of_server = (Path(self.session.server.command()[0]),)
        of_mounts = [file for one in self.mounts.values() for file in one.program_files]
        of_downloads = [file for one in self.downloads.values() for file in one.program_files]
        machine.forget(self.session.folder, (*self.session.program_files, *of_server, *of_mounts, *of_downloads))

    @contextmanager
    def latency(self, seconds: float) -> Iterator[None]:
        """Have those who start inside reach the server through the proxy, which adds *seconds* to each request.

        Without any, the server itself: what the proxy takes of the processors they would not have.
        """
        if not seconds:
            yield
            return
        direct = self.variables["AWS_ENDPOINT_URL"]
        with self.proxy.latency(seconds):
            self.variables["AWS_ENDPOINT_URL"] = self.proxy.endpoint
            try:
                yield
            finally:
                self.variables["AWS_ENDPOINT_URL"] = direct

    def counted(self, taken: Callable[[], Taken], *, until_quiet: bool = False) -> Taken:
        """Return what *taken* returns, with its traffic; *until_quiet*: also what comes after it, on its own."""
        before = self.server.counts()
        result = taken()
        traffic = (self.server.quiet_counts() if until_quiet else self.server.counts()) - before
        return replace(result, requests=traffic.requests, sent=traffic.sent, fetched=traffic.fetched)

    def run(
        self,
        rows: Mapping[str, Row],
        contestants: Mapping[str, Turn],
        *,
        rounds: int | None = None,
        pair_rounds: int = 0,
    ) -> None:
        """Have all contestants do their work in turns, *rounds* of these or as many as usual; add *rows*, by key, with
        figures; see `in_turns`."""
        most, slow_seconds = rounds or self.scale.race.rounds, self.scale.race.slow_seconds
        in_turns(rows, contestants, rounds=most, pair_rounds=pair_rounds, slow_seconds=slow_seconds, now=self._now)
        for row in rows.values():
            self.rows.append(row)
            tell(table.text_line(row))

    def _now(self) -> float:
        """Return a clock in seconds that stands still while `forget` is at work: no contestant is slow by it."""
        return time.monotonic() - self._forgetting_seconds

    def of_dvc(self, turn: Callable[[Dvc], Turn], *keys: str) -> Turn:
        """Return the *turn* of DVC; where there is none, one that fails, for the rows *keys*."""
        found = self.downloads[Dvc.name]
        if isinstance(found, Dvc):
            return turn(found)
        assert isinstance(found, Absent)
        return Turn(keys, found.work)

    def has_failed(self) -> bool:
        """Whether dvfs itself failed anywhere."""
        return any(DVFS in row.figures and row.figures[DVFS].failed is not None for row in self.rows)

    def put(self, tree: Tree, name: str, contestants: Sequence[Mount | Download]) -> dict[str, str]:
        """Have *contestants* take *tree* as *name*; return what stopped those that failed."""
        failed = {}
        for one in contestants:
            began = time.monotonic()
            try:
                one.put(tree, name)
            except (Failed, OSError) as error:
                tell(f"{one.name} does not take {name}: {error}")
                failed[one.name] = str(error)
            else:
                tell(f"{one.name} took {name} in {time.monotonic() - began:.1f} s")
        return failed


def in_turns(
    rows: Mapping[str, Row],
    contestants: Mapping[str, Turn],
    *,
    rounds: int,
    slow_seconds: float,
    pair_rounds: int = 0,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Have *contestants* do their work *rounds* times in turns; put figures into *rows*.

    Each turn begins with another one; every other goes backwards. Then dvfs and the plain directory do theirs
    *pair_rounds* times more.

    A rival of which a turn took *slow_seconds* is not run again (dvfs and the plain directory are), nor anyone that
    failed: that is told in the rows of which the turn that failed brought no figure.
    """
    left = list(contestants)
    for number in range(rounds + pair_rounds):
        if number == rounds:
            left = [name for name in left if name in {DVFS, NATIVE}]
        first = number * len(left) // rounds
        turns = left[first:] + left[:first]
        for name in turns if number % 2 == 0 else turns[::-1]:
            turn = contestants[name]
            if turn.most_runs is not None and number >= turn.most_runs:
                continue
            undone = list(turn.keys)
            began = now()
            try:
                for key, taken in turn.work():
                    rows[key].figures.setdefault(name, Figure()).runs.append(taken)
                    undone.remove(key)
            except (Failed, OSError) as error:
                tell(f"{name} fails: {error}")
                left.remove(name)
                for key in undone:
                    rows[key].figures.setdefault(name, Figure()).failed = str(error)
                continue
            if name not in {DVFS, NATIVE} and now() - began >= slow_seconds:
                left.remove(name)


@contextmanager
def started(session: Session, *, with_torch: bool) -> Iterator[tuple[Race, Rivals]]:
    """Install the rivals, and torch *with_torch*, and start the proxy before the server of *session*.

    At the end it is stopped.
    """
    rivals = install(tell, with_torch=with_torch)
    proxy = Proxy(session.server.endpoint)
    try:
        variables = session.server.environment("writer")
        programs = Programs(variables, session.scale.race.most_seconds)
        folder = session.folder / "race"
        folder.mkdir()
        # Mounts beside the trees: paths as long as theirs, so that walking them costs the same.
        dvfs = DvfsMount(Dvfs(programs, session.bucket, "race", folder / "dvfs", mounts=session.folder))
        mounts: dict[str, Mount] = {}
        for kind in (JuiceFs, Rclone, S3fs):
            try:
                program = rivals.program(kind.name)
                where = (folder / kind.name, session.folder)
                mounts[kind.name] = kind(program, programs, variables, session.bucket, *where)
            except (Failed, OSError) as error:
                tell(f"{kind.name} does not run: {error}")
                mounts[kind.name] = Absent(kind.name, str(error))
        downloads: dict[str, Download] = {
            name: Absent(name, reason) for name, reason in rivals.missing.items() if name in DOWNLOADS
        }
        downloads["boto3"] = boto3_objects(programs, session.bucket)
        if "obstore" in rivals.programs:
            downloads["obstore"] = obstore_objects(rivals.program("obstore"), programs, session.bucket)
        if Dvc.name in rivals.programs:
            program = rivals.program(Dvc.name)
            downloads[Dvc.name] = Dvc(program, programs, variables, session.bucket, folder / Dvc.name)
        server = ServerCounts(session.server.metrics_url)
        yield Race(session, variables, server, proxy, programs, folder, dvfs, Native(), mounts, downloads), rivals
    finally:
        proxy.stop()
