"""One run of the benchmark: its folder, its S3 server, and the contestants that workloads use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine
from bench.mounting import Dvfs
from bench.programs import Failed, Programs
from bench.scale import Scale
from bench.timing import Row, interleaved
from tests.seaweed import SeaweedServer


@dataclass(slots=True)
class Session:
    """What workloads share. *rows* are those measured so far; *on_row* is told each one."""

    scale: Scale
    folder: Path
    server: SeaweedServer
    programs: Programs
    dvfs: Dvfs
    program_files: tuple[Path, ...]
    on_row: Callable[[Row], None]
    rows: list[Row] = field(default_factory=list)

    @property
    def bucket(self) -> str:
        return self.server.bucket

    def add(self, row: Row) -> None:
        """Take *row* into the table."""
        self.rows.append(row)
        self.on_row(row)

    def forget(self) -> None:
        """Empty the page cache of everything that the run has on the disk."""
        machine.forget(self.folder, self.program_files)

    def in_turns(self, **contestants: Callable[[], float]) -> dict[str, list[float]]:
        """Run short contestants in turns, several times."""
        scale = self.scale
        return interleaved(contestants, most_runs=scale.most_runs, enough_seconds=scale.enough_seconds)


@contextmanager
def started(scale: Scale, folder: Path, on_row: Callable[[Row], None]) -> Iterator[Session]:
    """Start a run in the empty *folder*; at the end its server is stopped."""
    with SeaweedServer(_made(folder / "seaweed")) as server:
        programs = Programs(server.environment("writer"))
        # Mounts beside the trees: paths as long as theirs, so that walking them costs the same.
        dvfs = Dvfs(programs, server.bucket, "store", _made(folder / "dvfs"), mounts=folder)
        yield Session(scale, folder, server, programs, dvfs, machine.program_files(), on_row)


def tell(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)


def expect(what: str, got: int, wanted: int) -> None:
    """Raise Failed where *got* is not *wanted*."""
    if got != wanted:
        raise Failed(f"{what}: {got}, not {wanted}")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
