"""Many versions, and versions of many files: what is asked a second time, and a folder that nobody changed."""

from __future__ import annotations

import json
import os

from bench.machine import remove_tree
from bench.session import Session, expect
from bench.timing import Against, Goal, Row
from bench.trees import Tree, make_texts

FILE_BYTES = (8, 64)
CHANGED_FILES = 10
SECOND = Goal(Against.SECONDS, 1.0)
SYNC_GOAL = Goal(Against.NATIVE, 0.5)


def measure(session: Session) -> None:
    """Add all rows."""
    _listings(session)
    scale = session.scale.versions
    tree = make_texts(session.folder, scale.files, scale.folders, name="many", file_bytes=FILE_BYTES)
    dataset, _ = session.dvfs.create(tree)
    _sync(session, tree, dataset)
    _compare(session, tree, dataset)
    remove_tree(tree.root)


def _listings(session: Session) -> None:
    count = session.scale.versions.versions

    def listed() -> float:
        told = json.loads(session.dvfs.python("bench.versions", "list").output)
        expect("versions listed", told["versions"], count)
        return float(told["seconds"])

    def searched() -> float:
        ran = session.dvfs.run("search", "--tags", "bench", "--json")
        expect("versions found", len(json.loads(ran.output)), count)
        return ran.seconds

    session.dvfs.python("bench.versions", "make", str(count))
    first = listed()
    taken = session.in_turns(listed=listed, searched=searched)
    for key, title in {"listed": "`Dataset.list_datasets()`", "searched": "`dvfs search`, from start to end"}.items():
        session.add(
            Row(
                f"versions.{key}",
                f"versions: {title}, {count} versions, again",
                taken[key],
                files=count,
                goal=SECOND,
                notes={"first_seconds": [first]},
            )
        )


def _sync(session: Session, tree: Tree, dataset: str) -> None:
    def native() -> float:
        return session.programs.seconds_of(["find", tree.root, "-printf", "%s %T@\n"])

    def dvfs() -> float:
        return session.dvfs.sync_unchanged(tree.root, dataset)

    native()
    taken = session.in_turns(native=native, dvfs=dvfs)
    session.add(
        Row(
            "versions.sync",
            f"versions: sync of {len(tree.files)} unchanged files (native: `find -printf '%s %T@'`)",
            taken["dvfs"],
            native=taken["native"],
            files=len(tree.files),
            goal=SYNC_GOAL,
        )
    )


def _compare(session: Session, tree: Tree, dataset: str) -> None:
    for name in tree.files[:: len(tree.files) // CHANGED_FILES][:CHANGED_FILES]:
        (tree.root / os.fsdecode(name)).write_bytes(b"changed")
    child, _ = session.dvfs.sync(tree.root, dataset)

    def compared() -> float:
        ran = session.dvfs.run("compare", dataset, child, "--json")
        expect("files that differ", json.loads(ran.output)["modified"], CHANGED_FILES)
        return ran.seconds

    compared()
    taken = session.in_turns(dvfs=compared)
    session.add(
        Row(
            "versions.compare",
            f"versions: compare of two versions of {len(tree.files)} files, {CHANGED_FILES} changed, again",
            taken["dvfs"],
            files=len(tree.files),
            goal=SECOND,
        )
    )
