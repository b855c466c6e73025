"""What tests of mounts share: files to mount, and what a mount tells of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvfs.fs.asking import Asked
from dvfs.fs.figures import Figures
from tests.mount.conftest import Mounted
from tests.store.noise import noise

FILE_BYTES = 20_000
NONE_IS_LARGE = 1 << 60
"""With it as `large_file_bytes` the daemon reads all files, and leaves none to the kernel."""


def files_of_20_kb(root: Path, number: int) -> Path:
    """Make *number* files, ten to a directory, and return *root*: `d5/f54` where there are 100, `d05/f054` of more."""
    width = len(str(number - 1))
    for at in range(number):
        file = root / f"d{at // 10:0{width - 1}}" / f"f{at:0{width}}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise(FILE_BYTES, at))
    return root


def read_in_order(path: Path) -> bytes:
    """Return what the file *path* has, read from start to end, 1 MiB at a time."""
    with path.open("rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(1 << 20), b""))


@contextmanager
def asked(mounted: Mounted, path: Path | None = None, **options: float) -> Iterator[Asked]:
    """Ask *mounted* for what it tells of itself."""
    asked = Asked(mounted.table, path or mounted.directory, **options)
    try:
        yield asked
    finally:
        asked.close()


def figures(mounted: Mounted) -> Figures:
    """Return the figures of *mounted*."""
    with asked(mounted) as found:
        return found.figures()
