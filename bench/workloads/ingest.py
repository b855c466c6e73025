"""A tree becomes a version in S3: `create`, `add` and `close`, against an upload of single objects."""

from __future__ import annotations

import os

from bench.session import Session
from bench.timing import Row
from bench.trees import Tree
from bench.workloads.single_objects import SingleObjects


def measure(session: Session, tree: Tree, objects: SingleObjects) -> str:
    """Add the row of the ingest of *tree*, and of *objects* of it; return the id of the version."""
    datasets: list[str] = []
    notes: dict[str, list[float]] = {}

    def dvfs() -> float:
        os.sync()
        dataset, seconds = session.dvfs.create(tree)
        datasets.append(dataset)
        for command, taken in seconds.items():
            notes.setdefault(f"{command}_seconds", []).append(taken)
        return sum(seconds.values())

    taken = session.in_turns(objects=objects.upload, dvfs=dvfs)
    session.add(
        Row(
            f"{tree.name}.ingest",
            f"{tree.name}: ingest to S3",
            taken["dvfs"],
            objects=taken["objects"],
            files=len(tree.files),
            bytes=tree.bytes,
            notes=notes,
        )
    )
    return datasets[-1]
