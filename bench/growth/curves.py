"""Curves: what something took at each size of a dataset or depth of a lineage, and how it may grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

TIMES = 2.0
"""A curve is flat, or grows with the answer, when its last value is at most so many times what that says."""


class Axis(StrEnum):
    """What grows."""

    ENTRIES = "entries in a version"
    VERSIONS = "versions in a lineage"


class Measure(StrEnum):
    """What a curve is of."""

    SECONDS = "seconds"
    CPU = "processor time"
    REQUESTS = "requests"
    IN_A_ROW = "requests in a row"
    FETCHED = "bytes fetched"
    SENT = "bytes sent"
    MEMORY = "most memory"
    LEVELS = "levels of pages"
    ANSWER = "told"

    @property
    def is_seconds(self) -> bool:
        return self in {Measure.SECONDS, Measure.CPU}

    @property
    def is_bytes(self) -> bool:
        return self in {Measure.FETCHED, Measure.SENT, Measure.MEMORY}


class Growth(StrEnum):
    """How a curve may grow. TOLD: it is told, and there is no goal."""

    FLAT = "flat"
    ANSWER = "with the answer"
    TOLD = ""


@dataclass(slots=True)
class Curve:
    """One line of the table: *runs* of something at each size or depth.

    *key*: what was done, the same for all of its measures. *most*: what no value may exceed. *answers*: how much was
    asked for at each size: entries listed, paths told.
    """

    key: str
    title: str
    axis: Axis
    measure: Measure
    growth: Growth = Growth.TOLD
    most: float | None = None
    runs: dict[int, list[float]] = field(default_factory=dict)
    answers: dict[int, float] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """Where it was measured, in order."""
        return sorted(self.runs)

    def value(self, size: int) -> float | None:
        """Return the median at *size*; None where it was not measured."""
        return median(self.runs[size]) if self.runs.get(size) else None

    @property
    def ratio(self) -> float | None:
        """The last value over the first; None where there are not two, or the first is 0."""
        return _ratio({size: median(runs) for size, runs in self.runs.items()})

    @property
    def last_step(self) -> float | None:
        """The last value over the one before; None as for the ratio."""
        return _ratio({size: median(self.runs[size]) for size in self.sizes[-2:]})

    @property
    def bound(self) -> float | None:
        """What the ratio may be; None where nothing is asked of it."""
        if self.growth is Growth.FLAT:
            return TIMES
        if self.growth is Growth.ANSWER:
            answers = _ratio(self.answers)
            return None if answers is None else TIMES * max(answers, 1.0)
        return None

    @property
    def is_met(self) -> bool | None:
        """Whether it grows as it may, and stays below *most*; None where neither is asked, or it was not measured."""
        verdicts = []
        if self.most is not None and self.runs:
            verdicts.append(max(median(runs) for runs in self.runs.values()) <= self.most)
        if self.ratio is not None and self.bound is not None:
            verdicts.append(self.ratio <= self.bound)
        return all(verdicts) if verdicts else None


def _ratio(values: dict[int, float]) -> float | None:
    if len(values) < 2 or not values[min(values)]:
        return None
    return values[max(values)] / values[min(values)]
