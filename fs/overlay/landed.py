"""What a commit found in the version that it made, on its way to who has the overlay: a file, for it may be long.

    landed   the layer that was committed u64; rows: inode u64, length of the source u32, source

It stays until all of it is taken, so that a killed daemon is followed by one that goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from dvfs.fs.overlay import layers
from dvfs.fs.overlay.overlay import Overlay

_NAME = "landed"
_HEAD = struct.Struct("<Q")
_ROW = struct.Struct("<QI")
_AT_ONCE = 1000


def write_landed(folder: Path, layer: int, landed: Iterable[tuple[int, bytes]]) -> None:
    """Write *landed* of the commit of *layer*, for `take_landed`."""
    with (folder / _NAME).open("wb") as file:
        file.write(_HEAD.pack(layer))
        for ino, source in landed:
            file.write(_ROW.pack(ino, len(source)) + source)


def take_landed(folder: Path, overlay: Overlay) -> Iterator[None]:
    """Do `layers.repoint` with what was written, a part at each step, and forget it; not that of another commit."""
    path = folder / _NAME
    upto = layers.state(overlay.rows).committed
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) == _HEAD.size and _HEAD.unpack(head) == (upto,):
                rows = _rows(file.read)
                while some := list(islice(rows, _AT_ONCE)):
                    layers.repoint(overlay, upto, some)
                    yield
    except FileNotFoundError:
        return
    path.unlink()


def _rows(read: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    while len(head := read(_ROW.size)) == _ROW.size:
        ino, size = _ROW.unpack(head)
        source = read(size)
        if len(source) == size:
            yield ino, source
