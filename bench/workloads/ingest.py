"""A tree becomes a version in S3: `create`, `add` and `close`, against an upload of single objects."""

from __future__ import annotations

import os

from bench.session import Session, expect
from bench.timing import Row
from bench.trees import Tree


def measure(session: Session, tree: Tree) -> str:
    """Add the row of the ingest of *tree*; return the id of the version. Its objects are at its name's prefix."""
    datasets: list[str] = []
    notes: dict[str, list[float]] = {}

    def dvfs() -> float:
        os.sync()
        dataset, seconds = session.dvfs.create(tree)
        datasets.append(dataset)
        for command, taken in seconds.items():
            notes.setdefault(f"{command}_seconds", []).append(taken)
        return sum(seconds.values())

    def objects() -> float:
        os.sync()
        uploaded = session.upload_objects(tree, tree.name)
        expect(f"objects of {tree.name} uploaded", uploaded.files, len(tree.files))
        expect(f"bytes of {tree.name} uploaded", uploaded.bytes, tree.bytes)
        return uploaded.wall_seconds

    taken = session.in_turns(objects=objects, dvfs=dvfs)
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
