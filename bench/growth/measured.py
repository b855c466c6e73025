"""What is measured of growth: everything that is done at each size, and how each measure of it may grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.growth.curves import Axis, Curve, Growth, Measure
from bench.programs import Usage
from bench.race.counts import Traffic

MOST_METADATA_BYTES = 1e6
MOST_IN_A_ROW = 3.0

_FLAT, _ANSWER, _TOLD = Growth.FLAT, Growth.ANSWER, Growth.TOLD
_TRAFFIC = {Measure.REQUESTS: _FLAT, Measure.FETCHED: _FLAT}
_COST = {Measure.SECONDS: _FLAT, Measure.CPU: _FLAT} | _TRAFFIC | {Measure.MEMORY: _FLAT}
_CHAIN = _COST | {Measure.IN_A_ROW: _FLAT}
_WALK = dict.fromkeys(_COST, _ANSWER) | {Measure.MEMORY: _FLAT}
_FIRST = {Measure.SECONDS: _FLAT} | _TRAFFIC | {Measure.IN_A_ROW: _TOLD}
_COMMIT = _CHAIN | {Measure.SENT: _FLAT}


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that is done at each size: what its curves are called, and how each may grow."""

    key: str
    title: str
    measures: Mapping[Measure, Growth]


DEEDS = {
    Axis.ENTRIES: (
        Deed(
            "made",
            "made by the bench",
            {Measure.SECONDS: _ANSWER, Measure.SENT: _ANSWER, Measure.MEMORY: _TOLD, Measure.LEVELS: _TOLD},
        ),
        Deed("mount", "mount", _CHAIN),
        Deed("behind", "behind a mount", {Measure.REQUESTS: _TOLD, Measure.FETCHED: _TOLD}),
        Deed("first", "first byte", _FIRST),
        Deed("list", "ls -U of 1,000 files", {Measure.SECONDS: _FLAT} | _TRAFFIC | {Measure.MEMORY: _FLAT}),
        Deed("find", "find of all, and the mount", _WALK),
        Deed("edit", "10 files written", _TRAFFIC),
        Deed("commit", "commit of 10 edits", _COMMIT),
        Deed("daemon", "daemon of that mount", {Measure.MEMORY: _FLAT}),
        Deed("diff", "diff, 10 files differ", _CHAIN),
    ),
    Axis.VERSIONS: (
        Deed("made", "made, each version", {Measure.SECONDS: _FLAT, Measure.SENT: _FLAT}),
        Deed("mount", "mount", _CHAIN),
        Deed("named", "mount by name", _COST),
        Deed("first", "first byte", _FIRST),
        Deed("find", "find of all, and the mount", _COST),
        Deed("commit", "commit of 10 edits", _COMMIT),
        Deed("diff", "diff with the parent", _CHAIN),
        Deed(
            "diff-first",
            "diff with the first",
            {Measure.ANSWER: _TOLD} | dict.fromkeys(_CHAIN, _ANSWER) | {Measure.MEMORY: _FLAT},
        ),
        Deed("log", "log", {Measure.SECONDS: _ANSWER, Measure.REQUESTS: _ANSWER, Measure.FETCHED: _ANSWER}),
        Deed("log-again", "log, again", {Measure.SECONDS: _ANSWER, Measure.REQUESTS: _TOLD, Measure.FETCHED: _ANSWER}),
    ),
}
_MOST = {("commit", Measure.SENT): MOST_METADATA_BYTES, ("first", Measure.IN_A_ROW): MOST_IN_A_ROW}


def new_curves() -> dict[tuple[Axis, str, Measure], Curve]:
    """Return all curves, with nothing in them."""
    return {
        (axis, deed.key, measure): Curve(
            deed.key, deed.title, axis, measure, growth, most=_MOST.get((deed.key, measure))
        )
        for axis, deeds in DEEDS.items()
        for deed in deeds
        for measure, growth in deed.measures.items()
    }


def of_traffic(traffic: Traffic) -> dict[Measure, float]:
    """Return the measures of *traffic*."""
    return {Measure.REQUESTS: traffic.requests, Measure.FETCHED: traffic.fetched, Measure.SENT: traffic.sent}


def of_usage(used: Usage) -> dict[Measure, float]:
    """Return the measures of what a process *used*."""
    return {Measure.CPU: used.cpu_seconds, Measure.MEMORY: used.peak_bytes}
