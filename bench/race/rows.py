"""Figures of the race: what each contestant took and fetched, and the goals beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

DVFS = "dvfs"
NATIVE = "ext4"
MOUNTS = ("JuiceFS", "rclone", "s3fs")
DOWNLOADS = ("boto3", "obstore", "DVC")
CONTESTANTS = (DVFS, NATIVE, *MOUNTS, *DOWNLOADS)
"""In the order of the columns. *ext4* is a plain directory of the local disk, whatever its file system is."""


class Measure(StrEnum):
    """What a figure says of a contestant."""

    FILES = "files/s"
    BYTES = "bytes/s"
    READS = "reads/s"
    SECONDS = "seconds"
    P99 = "p99"
    FETCHED = "fetched"
    SENT = "sent"
    SHARE = "share fetched"

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self in {Measure.FILES, Measure.BYTES, Measure.READS}


@dataclass(frozen=True, slots=True)
class Taken:
    """One run of one contestant: *seconds* for *files* (or reads, or entries) of *bytes*, and its traffic."""

    seconds: float
    files: int = 0
    bytes: int = 0
    requests: int = 0
    sent: int = 0
    fetched: int = 0
    p99_seconds: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Figure:
    """All runs of one contestant in a row, and why it *failed*, if it did."""

    runs: list[Taken] = field(default_factory=list)
    failed: str | None = None

    def value(self, measure: Measure) -> float | None:
        """Return the median of *measure* over the runs; None where there is none."""
        return median([_of_run(run, measure) for run in self.runs]) if self.runs else None


@dataclass(frozen=True, slots=True)
class Goal:
    """dvfs's *measure* is at least (of what is better when less: at most) *times* the reference, *plus* a constant.

    The reference is the fastest of *against* in the row by the row's own measure; without any, *plus* alone counts.
    """

    measure: Measure
    times: float = 0.0
    against: tuple[str, ...] = ()
    plus: float = 0.0


@dataclass(slots=True)
class Row:
    """One line of the table. *unit* is the measure that its cells show first, *shows* what they show besides.

    *total_bytes*: of all of the dataset, for the share of it that was fetched.
    """

    key: str
    title: str
    unit: Measure
    figures: dict[str, Figure] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    shows: tuple[Measure, ...] = ()
    total_bytes: int = 0

    def value(self, name: str, measure: Measure) -> float | None:
        """Return the median of *measure* of contestant *name*; None where it was not measured, or failed."""
        figure = self.figures.get(name)
        if figure is None or figure.failed is not None:
            return None
        if measure is Measure.SHARE:
            fetched = figure.value(Measure.FETCHED)
            return None if fetched is None or not self.total_bytes else fetched / self.total_bytes
        return figure.value(measure)

    def fastest(self, names: Sequence[str]) -> str | None:
        """Return who of *names* is best by the row's unit; None where none of them was measured."""
        measured = {name: value for name in names if (value := self.value(name, self.unit)) is not None}
        if not measured:
            return None
        return (max if self.unit.is_rate else min)(measured, key=lambda name: measured[name])

    def bound(self, goal: Goal) -> float | None:
        """Return what *goal* asks for in this row; None where its reference was not measured."""
        if not goal.against:
            return goal.plus
        fastest = self.fastest(goal.against)
        reference = None if fastest is None else self.value(fastest, goal.measure)
        return None if reference is None else goal.times * reference + goal.plus

    def is_met(self, goal: Goal) -> bool | None:
        """Whether *goal* is met; None where dvfs or its reference was not measured."""
        value, bound = self.value(DVFS, goal.measure), self.bound(goal)
        if value is None or bound is None:
            return None
        return value >= bound if goal.measure.is_rate else value <= bound


def _of_run(run: Taken, measure: Measure) -> float:
    match measure:
        case Measure.FILES | Measure.READS:
            return run.files / run.seconds
        case Measure.BYTES:
            return run.bytes / run.seconds
        case Measure.SECONDS:
            return run.seconds
        case Measure.P99:
            return run.p99_seconds
        case Measure.FETCHED:
            return run.fetched
        case Measure.SENT:
            return run.sent
        case Measure.SHARE:
            raise ValueError("the share is of a row")
