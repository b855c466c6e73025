"""How much a run measures: the sizes of the trees and how often short things are repeated."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Edits:
    """How much the edits are: *files* unpacked and *cloned_files*, in *folders*; a file of *file_bytes* written whole.

    *random_bytes* are written at random places. Every contestant does all of it *rounds* times.
    """

    files: int
    cloned_files: int
    folders: int
    file_bytes: int
    random_bytes: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Race:
    """How much the race is: *rounds* of each row, *short_rounds* where dvfs takes a few seconds, and in how many
    folders the files lie that slow rivals read. Where dvfs is to be as fast as the plain directory, the two of them
    run *pair_rounds* more.

    A rival of which a turn took *slow_seconds* is not run again in it. A program that takes *most_seconds* has
    failed. *lines_bytes* is the size of the big file of text, *pictures* the number of those that torch reads,
    *delay_seconds* what the proxy adds to a request. Each turn finds *memory_bytes* that were in use just before.
    """

    rounds: int
    short_rounds: int
    image_folders: int
    text_folders: int
    lines_bytes: int
    pictures: int
    slow_seconds: float = 30.0
    most_seconds: float = 600.0
    delay_seconds: float = 0.02
    memory_bytes: int = 6 * GIB
    pair_rounds: int = 6


@dataclass(frozen=True, slots=True)
class Versions:
    """How many *versions* a store has; and of how many *files* in *folders* a version is."""

    versions: int
    files: int
    folders: int


@dataclass(frozen=True, slots=True)
class Growth:
    """How far growth is followed: versions of so many *entries*; lineages of so many versions, the *depths*.

    Each version of a lineage has *lineage_entries*. All is measured *rounds* times, and once more with *delay_seconds*
    added to each request, by which those in a row are counted. Traffic has ended when there was none for
    *quiet_seconds*. *disk_bytes* must be free.
    """

    entries: tuple[int, ...]
    depths: tuple[int, ...]
    lineage_entries: int
    rounds: int
    delay_seconds: float
    disk_bytes: int
    quiet_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of one run.

    *image_files* in *image_folders*, ~110 KB each; *text_files* in *text_folders*, 1-4 KB each; *big_bytes* is
    the size of the one big file, *random_reads* the number of 64 KiB reads of it. A contestant runs again until
    it took *enough_seconds* in sum or ran *most_runs* times; whole cold epochs run *cold_rounds* times. Of each tree
    at most *most_objects* files become single objects.
    *disk_bytes* is what must be free before it starts.
    """

    name: str
    image_files: int
    image_folders: int
    text_files: int
    text_folders: int
    big_bytes: int
    random_reads: int
    most_objects: int
    cold_rounds: int
    most_runs: int
    enough_seconds: float
    disk_bytes: int
    edits: Edits
    race: Race
    versions: Versions
    growth: Growth
    threads: tuple[int, ...] = (1, 4, 16)


SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            "tiny",
            100,
            4,
            400,
            8,
            16 * MIB,
            50,
            100,
            1,
            2,
            0.5,
            1 * GIB,
            Edits(200, 50, 10, 8 * MIB, 1 * MIB, 1),
            Race(1, 1, 2, 2, 16 * MIB, 130, memory_bytes=64 * MIB, pair_rounds=1),
            Versions(50, 1_000, 10),
            Growth((500, 2_000), (1, 2), 500, 1, 0.05, 1 * GIB, quiet_seconds=0.2),
        ),
        Scale(
            "small",
            2_000,
            20,
            10_000,
            50,
            256 * MIB,
            1_000,
            2_000,
            1,
            5,
            1.0,
            6 * GIB,
            Edits(2_000, 500, 100, 128 * MIB, 16 * MIB, 3),
            Race(3, 3, 3, 2, 256 * MIB, 640, slow_seconds=15.0),
            Versions(500, 20_000, 100),
            Growth((10_000, 100_000), (1, 10), 10_000, 1, 0.5, 2 * GIB),
        ),
        Scale(
            "full",
            20_000,
            200,
            100_000,
            500,
            2 * GIB,
            1_000,
            20_000,
            1,
            7,
            2.0,
            40 * GIB,
            Edits(20_000, 2_000, 100, 1 * GIB, 256 * MIB, 3),
            Race(3, 9, 10, 10, 1 * GIB, 3_000),
            Versions(10_000, 1_000_000, 1_000),
            Growth((10_000, 100_000, 1_000_000, 10_000_000), (1, 10, 100, 1_000), 100_000, 3, 0.5, 8 * GIB),
        ),
    )
}
"""`tiny` shows only that everything runs: its figures mean nothing."""
