"""From the mount command to the first byte of a random file, with nothing in the cache."""

from __future__ import annotations

import os
import random
import time

from bench.machine import remove_tree
from bench.programs import Failed
from bench.session import Session
from bench.timing import Row
from bench.trees import SEED, Tree


def measure(session: Session, tree: Tree, dataset: str) -> None:
    """Add the row of *tree*; the contestant is a program that gets one such object with boto3."""
    rng = random.Random(SEED)
    mounts: list[float] = []

    def dvfs() -> float:
        name = os.fsdecode(rng.choice(tree.files))
        expected = _first_byte(tree.root / name)
        cache = session.dvfs.new_cache()
        began = time.monotonic()
        with session.dvfs.mounted(dataset, cache) as mount:
            byte = _first_byte(mount.directory / name)
            seconds = time.monotonic() - began
            mounts.append(mount.seconds)
        remove_tree(cache)
        if byte != expected:
            raise Failed(f"the first byte of {name} is {byte!r}, not {expected!r}")
        return seconds

    def objects() -> float:
        key = f"{tree.name}/{os.fsdecode(tree.files[0])}"
        return session.programs.objects("get", session.bucket, key).wall_seconds

    taken = session.in_turns(dvfs=dvfs, objects=objects)
    session.add(
        Row(
            f"{tree.name}.first-byte",
            f"{tree.name}: mount to first byte (objects: one GET)",
            taken["dvfs"],
            objects=taken["objects"],
            notes={"mount_seconds": mounts},
        )
    )


def _first_byte(path: os.PathLike[str]) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1)
    finally:
        os.close(fd)
