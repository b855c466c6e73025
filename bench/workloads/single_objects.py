"""A tree as single objects in S3, one a file: what is uploaded, downloaded and read instead of a version."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bench.machine import remove_tree
from bench.programs import Read
from bench.session import Session, expect
from bench.trees import Tree


class SingleObjects:
    """The objects of *tree*, at its name's prefix.

    Of a large tree only every n-th file, and the seconds of what is done with them, without the start of the program,
    count n times: boto3 takes the same time for each object, and for 100,000 of them a quarter of an hour.
    """

    def __init__(self, session: Session, tree: Tree) -> None:
        self._session = session
        self._step = -(-len(tree.files) // session.scale.most_objects)
        self._tree = tree if self._step == 1 else tree.every(self._step)
        self._truth: Read | None = None

    def upload(self) -> float:
        """Upload the objects; return the seconds for all of the tree."""
        os.sync()
        tree = self._tree
        done = self._session.programs.objects("upload", tree.root, tree.list_file, self._session.bucket, tree.name)
        self._check(done)
        return self._in_all(done)

    def download_and_read(self, threads: Sequence[int]) -> tuple[float, dict[int, float]]:
        """Download the objects, then read the files with each number of *threads*, in shuffled order.

        Returns the seconds of downloading, and those of downloading and reading by number of threads.
        """
        session, tree = self._session, self._tree
        if self._truth is None:
            self._truth = session.programs.read_epoch(tree.root, tree.list_file, threads=1)
        target = session.folder / "downloaded"
        session.forget()
        done = session.programs.objects("download", target, tree.list_file, session.bucket, tree.name)
        self._check(done)
        seconds = self._in_all(done)
        reads = {n: self._read(target, n) for n in threads}
        remove_tree(target)
        return seconds, {n: seconds + taken for n, taken in reads.items()}

    def _read(self, root: Path, threads: int) -> float:
        read = self._session.programs.read_epoch(root, self._tree.list_file, threads=threads)
        assert self._truth is not None
        return self._in_all(read.check(self._truth))

    def _check(self, done: Read) -> None:
        expect(f"objects of {self._tree.name}", done.files, len(self._tree.files))
        expect(f"bytes in objects of {self._tree.name}", done.bytes, self._tree.bytes)

    def _in_all(self, done: Read) -> float:
        return done.wall_seconds + (self._step - 1) * done.seconds
