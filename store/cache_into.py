"""Writes blocks where they lie in a whole file of the cache, those that follow one another in one go.

The kernel keeps what is written at once in one folio, if that begins where such a one may, and reads large ones faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dvfs.store.cache_cost import WriteCosts
from dvfs.store.cache_files import BlockFiles
from dvfs.store.cache_whole import FOLIO_BYTES, LARGE_FOLIO_BYTES, Place, holds, is_blank, write_at
from dvfs.store.digest import Buffer

_TRIES = 4


class Laid(NamedTuple):
    """A block that shall lie at *place* in its file of *size* bytes: its *digest*, and its *data*."""

    digest: bytes
    data: Buffer
    place: Place
    size: int


def runs(blocks: Iterable[Laid]) -> Iterator[list[Laid]]:
    """Yield the *blocks*, those together that follow one another in one file."""
    run: list[Laid] = []
    for block in blocks:
        if run and (block.place.file, block.place.start) != (run[-1].place.file, _end(run[-1].place)):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def write_into(files: BlockFiles, run: Sequence[Laid], costs: WriteCosts) -> bool:
    """Write the blocks of *run*, at least one, where they lie, and keep them open in *files*; *costs* take note.

    Returns whether that was done: not where the file is of another size, or has other bytes there. Raises OSError.
    """
    (file, start, _), size = run[0].place, run[0].size
    whole = Place(file, start, _end(run[-1].place) - start)
    if _end(whole) > size:
        return False
    folio_bytes, cost = (LARGE_FOLIO_BYTES, costs.large) if costs.takes_large else (FOLIO_BYTES, costs.small)
    for _ in range(_TRIES):
        try:
            fd = files.open_to_write(file, size)
        except FileExistsError:
            return False
        try:
            with files.writing(file):
                is_new = is_blank(fd, whole)
                if is_new:
                    began = time.thread_time_ns()
                    write_at(fd, [block.data for block in run], start, folio_bytes)
                    cost.note(whole.length, time.thread_time_ns() - began)
            if not is_new and not all(holds(fd, block.digest, block.place) for block in run):
                return False
            if files.link_and_keep(fd, [(block.digest, block.place) for block in run]):
                return True
        finally:
            os.close(fd)
    return False


def _end(place: Place) -> int:
    return place.start + place.length
