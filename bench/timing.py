"""Figures: what contestants took, the ratios between them, and the goals beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

Measure = Callable[[], float]
"""Runs one contestant once and returns the seconds it took."""


class Against(StrEnum):
    """What a goal is measured against."""

    NATIVE = "native"
    OBJECTS = "objects"
    OVERLAYFS = "fuse-overlayfs"
    PASSTHROUGH = "passthrough"
    CLOCK = "clock"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Goal:
    """dvfs is *at_least* so many times as fast as the reference.

    Against the clock: so many bytes a second. Against seconds: it takes no more than so many.
    """

    against: Against
    at_least: float


@dataclass(slots=True)
class Row:
    """One line of the table: seconds of each contestant, one figure for each time it ran.

    *native* is a directory on the local disk, *objects* single objects in S3, *overlayfs* and *passthrough* are
    other file systems that take edits. *files* and *bytes* are what one run went through, *stored* the bytes that it
    left in the store. *notes* are further figures, for the JSON only.
    """

    key: str
    title: str
    dvfs: list[float]
    native: list[float] = field(default_factory=list)
    objects: list[float] = field(default_factory=list)
    overlayfs: list[float] = field(default_factory=list)
    passthrough: list[float] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    stored: list[int] = field(default_factory=list)
    goal: Goal | None = None
    notes: dict[str, list[float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The median of what dvfs took."""
        return median(self.dvfs)

    def taken(self, against: Against) -> list[float]:
        """Return the seconds of the reference *against*."""
        return {
            Against.NATIVE: self.native,
            Against.OBJECTS: self.objects,
            Against.OVERLAYFS: self.overlayfs,
            Against.PASSTHROUGH: self.passthrough,
        }[against]

    def times_as_fast(self, against: Against) -> float | None:
        """Return how many times as fast as the reference dvfs is, by medians; None where nothing was measured."""
        reference = self.taken(against)
        return median(reference) / self.seconds if reference else None

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or no reference."""
        if self.goal is None:
            return None
        if self.goal.against is Against.CLOCK:
            return self.bytes / self.seconds >= self.goal.at_least
        if self.goal.against is Against.SECONDS:
            return self.seconds <= self.goal.at_least
        ratio = self.times_as_fast(self.goal.against)
        return None if ratio is None else ratio >= self.goal.at_least


def interleaved(contestants: Mapping[str, Measure], *, most_runs: int, enough_seconds: float) -> dict[str, list[float]]:
    """Run the contestants in turns and return the seconds of each run.

    Each runs until it took *enough_seconds* in sum or ran *most_runs* times; every other turn goes backwards.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(most_runs):
        names = list(contestants)
        for name in names if turn % 2 == 0 else reversed(names):
            if sum(taken[name]) < enough_seconds:
                taken[name].append(contestants[name]())
    return taken
