"""`find` and `ls -lR` over a tree: the first time after a mount, and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.machine import remove_tree
from bench.session import Session, expect
from bench.timing import Against, Goal, Row
from bench.trees import Tree

WALKS: dict[str, tuple[str, ...]] = {"find": ("find",), "ls -lR": ("ls", "-lR")}
WARM_GOALS = {"find": Goal(Against.NATIVE, 0.9)}


def measure(session: Session, tree: Tree, dataset: str) -> None:
    """Add the rows of *tree*."""
    for name, command in WALKS.items():
        _cold(session, tree, dataset, name, command)
    cache = session.dvfs.new_cache()
    with session.dvfs.mounted(dataset, cache) as mount:
        for name, command in WALKS.items():
            _warm(session, tree, mount.directory, name, command)
    remove_tree(cache)


def _cold(session: Session, tree: Tree, dataset: str, name: str, command: tuple[str, ...]) -> None:
    def native() -> float:
        session.forget()
        return _walk(session, command, tree.root)

    def dvfs() -> float:
        cache = session.dvfs.new_cache()
        session.forget()
        with session.dvfs.mounted(dataset, cache) as mount:
            seconds = _walk(session, command, mount.directory)
        remove_tree(cache)
        return seconds

    taken = session.in_turns(native=native, dvfs=dvfs)
    _add(session, tree, f"{name}, from S3", f"{name}.cold", taken, None)


def _warm(session: Session, tree: Tree, directory: Path, name: str, command: tuple[str, ...]) -> None:
    lines = session.programs.lines_of([*command, tree.root])
    if name == "find":
        expect(f"entries of {tree.name}", lines, tree.entries)
    expect(f"lines of {name} in the mount of {tree.name}", session.programs.lines_of([*command, directory]), lines)
    contestants: dict[str, Callable[[], float]] = {
        "native": lambda: _walk(session, command, tree.root),
        "dvfs": lambda: _walk(session, command, directory),
    }
    taken = session.in_turns(**contestants)
    _add(session, tree, f"{name}, again", f"{name}.warm", taken, WARM_GOALS.get(name))


def _walk(session: Session, command: tuple[str, ...], root: Path) -> float:
    return session.programs.seconds_of([*command, root])


def _add(session: Session, tree: Tree, title: str, key: str, taken: dict[str, list[float]], goal: Goal | None) -> None:
    session.add(
        Row(
            f"{tree.name}.{key}",
            f"{tree.name}: {title}",
            taken["dvfs"],
            native=taken["native"],
            files=len(tree.files),
            goal=goal,
        )
    )
