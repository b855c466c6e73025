"""The bytes that an overlay holds: a sparse file for each inode and layer, and the cells of it that count.

    data/<xx>/<ino>.<layer>        bytes, each at its place in the file
    data/<xx>/<ino>.<layer>.cells  which of them count; none where all do (floor 0)

Every few inodes have a folder of their own: in one folder the file system would slow down. Thread-safe where it reads;
one writer for each file.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path

from dvfs.fs.overlay.cells import CELL_BYTES, Cells

_FOLDER_INODES = 8
"""Of an inode's number, so many lowest bits do not name its folder."""
_FOLDERS = 0xFFF
_OPEN_FILES = 256
_NAME = re.compile(r"(\d+)\.(\d+)(\.cells)?")
Key = tuple[int, int]
"""Inode and layer."""


class DataFile:
    """The bytes that one layer holds of one inode. Open files are shared, and closed when they are not used lately."""

    __slots__ = ("_cells", "_cells_handle", "_handle", "_lock", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle = -1
        self._cells_handle = -1
        self._cells: Cells | None = None
        self._lock = threading.Lock()

    @property
    def handle(self) -> int:
        """The descriptor of the bytes; the file is made where it is not. Raises OSError."""
        if self._handle < 0:
            with self._lock:
                if self._handle < 0:
                    self._handle = _open(self.path)
        return self._handle

    @property
    def cells(self) -> Cells:
        """The cells that count. Raises OSError."""
        found = self._cells
        if found is None:
            with self._lock:  # of two, one would not know of what is added to the other
                found = self._cells
                if found is None:
                    self._cells_handle = _open(self.path + ".cells")
                    found = self._cells = Cells(self._cells_handle)
        return found

    def sync(self) -> None:
        """Have what was written kept by a power cut. Raises OSError."""
        os.fdatasync(self.handle)
        if self._cells is not None or os.path.exists(self.path + ".cells"):
            assert self.cells is not None
            os.fdatasync(self._cells_handle)

    def __del__(self) -> None:
        for handle in (self._handle, self._cells_handle):
            if handle >= 0:
                os.close(handle)


class DataFiles:
    """The data files in *folder*."""

    def __init__(self, folder: Path, *, open_files: int = _OPEN_FILES) -> None:
        self._folder = os.fspath(folder)
        self._open_files = open_files
        self._lock = threading.Lock()
        self._files: OrderedDict[Key, DataFile] = OrderedDict()
        self._folders: set[str] = set()
        self._doomed: deque[tuple[int, Key]] = deque()
        self.doomed_bytes = 0

    def get(self, ino: int, layer: int) -> DataFile:
        """Return the file of *ino* in *layer*. Thread-safe. Raises OSError."""
        key = ino, layer
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                self._files.move_to_end(key)
                return file
            folder = self._folder_of(ino)
            if folder not in self._folders:
                os.makedirs(folder, mode=0o700, exist_ok=True)
                self._folders.add(folder)
            file = self._files[key] = DataFile(f"{folder}/{ino}.{layer}")
            if len(self._files) > self._open_files:
                self._files.popitem(last=False)  # who uses it keeps it open
            return file

    def path(self, ino: int, layer: int) -> str:
        """Return where the bytes of *ino* in *layer* are."""
        return f"{self._folder_of(ino)}/{ino}.{layer}"

    def doom(self, ino: int, layer: int, size: int, serial: int) -> None:
        """Have the file, of about *size* bytes, removed by `bury` once the change *serial* cannot be taken back."""
        self._doomed.append((serial, (ino, layer)))
        self.doomed_bytes += size

    @property
    def doomed(self) -> int:
        """How many files wait for `bury`; `doomed_bytes`, how long they are, about."""
        return len(self._doomed)

    def bury(self, synced: int) -> None:
        """Remove the files that were doomed by changes up to *synced*."""
        while self._doomed and self._doomed[0][0] <= synced:
            _, key = self._doomed.popleft()
            self.remove(*key)
        if not self._doomed:
            self.doomed_bytes = 0

    def remove(self, ino: int, layer: int) -> None:
        """Remove the file of *ino* in *layer*, if there is one. Raises OSError."""
        with self._lock:
            self._files.pop((ino, layer), None)
        for path in (self.path(ino, layer), self.path(ino, layer) + ".cells"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def all(self) -> Iterator[Key]:
        """Yield inode and layer of every file there is."""
        try:
            folders = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return
        for folder in folders:
            for name in os.listdir(f"{self._folder}/{folder}"):
                found = _NAME.fullmatch(name)
                if found:
                    yield int(found[1]), int(found[2])

    def _folder_of(self, ino: int) -> str:
        return f"{self._folder}/{ino >> _FOLDER_INODES & _FOLDERS:03x}"


def cell_range(start: int, stop: int) -> tuple[int, int]:
    """Return the first and the last cell that the bytes from *start* to before *stop* lie in."""
    return start // CELL_BYTES, (stop - 1) // CELL_BYTES


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
