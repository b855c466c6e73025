"""The walks of the race: `find` and `ls -lR` over all of a tree, the first time after a mount, and again."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from bench.machine import remove_tree
from bench.race.mounts import Mount, Place
from bench.race.racing import Race, Turn
from bench.race.rows import MOUNTS, NATIVE, Goal, Measure, Row, Taken
from bench.session import expect
from bench.trees import Tree
from bench.workloads.walks import WALKS

COLD_GOALS = (Goal(Measure.FILES, 1.0, MOUNTS),)
WARM_GOALS = (Goal(Measure.FILES, 0.9, (NATIVE,)),)
_WARM_WALKS = 5


def measure(race: Race, tree: Tree) -> None:
    """Add the rows of *tree*, which everyone has under its name; a figure is entries a second."""
    for name, command in WALKS.items():
        cold, warm = _keys(tree, command)
        shown = f"{tree.name}: {name}, {tree.entries:,} entries"
        rows = {
            cold: Row(cold, f"{shown}, cold", Measure.FILES, goals=COLD_GOALS),
            warm: Row(warm, f"{shown}, again", Measure.FILES, goals=WARM_GOALS),
        }
        lines = race.programs.lines_of([*command, tree.root])
        if name == "find":
            expect(f"entries of {tree.name}", lines, tree.entries)
        race.run(rows, {one.name: _work(race, one, tree, command, lines) for one in race.readers.values()})


def _work(race: Race, mount: Mount, tree: Tree, command: tuple[str, ...], lines: int) -> Turn:
    cold, warm = _keys(tree, command)

    def walk(place: Place, walks: int) -> Taken:
        seconds = [race.programs.seconds_of([*command, place.directory]) for _ in range(walks)]
        return Taken(median(seconds), tree.entries, notes={"mount_seconds": place.seconds})

    def work() -> Iterator[tuple[str, Taken]]:
        cache = race.new_folder()
        try:
            race.forget()
            with mount.mounted(tree.name, cache) as place:
                yield cold, race.counted(lambda: walk(place, 1))
                again = race.counted(lambda: walk(place, _WARM_WALKS))
                found = race.programs.lines_of([*command, place.directory])
                expect(f"lines of {command[0]} in the mount of {mount.name}", found, lines)
                yield warm, again
        finally:
            remove_tree(cache)

    return Turn((cold, warm), work)


def _keys(tree: Tree, command: tuple[str, ...]) -> tuple[str, str]:
    return f"{tree.name}.{command[0]}.cold", f"{tree.name}.{command[0]}.warm"
