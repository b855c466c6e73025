"""The trees that are measured: made anew for each run, names and sizes from fixed seeds.

Content of images is random, so nothing can be compressed or found twice; texts are words as frequent as in
natural language, and no two files in one megabyte share a passage.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from bench.scale import KIB, MIB

SEED = 20_240_229
IMAGE_MEAN_BYTES = 110_000
IMAGE_SPREAD = 0.5
"""Standard deviation of the logarithm of an image's size."""
TEXT_BYTES = (1 * KIB, 4 * KIB)
_SLAB_BYTES = 64 * MIB
Paths = Sequence[bytes]
_WORDS = 8_000


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory *root* of *files* (paths below it, in order of creation), *bytes* in sum, in *folders* folders.

    *list_file* holds the paths, each ended by NUL.
    """

    name: str
    root: Path
    files: tuple[bytes, ...]
    folders: int
    bytes: int
    list_file: Path

    def every(self, step: int) -> Tree:
        """Return every *step*-th file of this tree, with a list of its own."""
        return self.of_files(self.files[::step], f"every-{step}")

    def of_folders(self, count: int) -> Tree:
        """Return the files in *count* of the folders of this tree, spread evenly, with a list of its own."""
        folders = sorted({os.path.dirname(path) for path in self.files})
        count = min(count, len(folders))
        kept = {folders[number * len(folders) // count] for number in range(count)}
        return self.of_files([path for path in self.files if os.path.dirname(path) in kept], f"of-{len(kept)}-folders")

    def of_files(self, files: Paths, name: str) -> Tree:
        """Return *files* of this tree, with a list of its own in a file of that *name*."""
        list_file = self.list_file.with_name(f"{self.name}.{name}.list")
        _write_list(list_file, files)
        size = sum((self.root / os.fsdecode(path)).stat().st_size for path in files)
        return Tree(self.name, self.root, tuple(files), len({os.path.dirname(path) for path in files}), size, list_file)

    def linked_at(self, root: Path) -> Tree:
        """Return this tree at the new *root*, its files hard links: it has nothing else below it there."""
        for parent in sorted({os.path.dirname(path) for path in self.files}):
            (root / os.fsdecode(parent)).mkdir(parents=True)
        for path in self.files:
            os.link(self.root / os.fsdecode(path), root / os.fsdecode(path))
        return Tree(self.name, root, self.files, self.folders, self.bytes, self.list_file)

    @property
    def entries(self) -> int:
        """Files and folders, the root too: what `find` prints."""
        return len(self.files) + self.folders + 1


def make_images(folder: Path, count: int, folders: int) -> Tree:
    """Make *count* incompressible files of lognormal sizes, ~110 KB in the mean."""
    rng = random.Random(SEED)
    # The mean of a lognormal is exp(mu + sigma²/2).
    scale = IMAGE_MEAN_BYTES / 2.718281828459045 ** (IMAGE_SPREAD**2 / 2)
    sizes = [max(1 * KIB, int(scale * rng.lognormvariate(0, IMAGE_SPREAD))) for _ in range(count)]
    names = [b"class_%04d/img_%08x.jpg" % (number % folders, rng.getrandbits(32)) for number in range(count)]
    return _written(folder, "images", _distinct(names), sizes, _random_slabs())


def make_texts(
    folder: Path, count: int, folders: int, *, name: str = "texts", file_bytes: tuple[int, int] = TEXT_BYTES
) -> Tree:
    """Make *count* files of text, of *file_bytes* each."""
    rng = random.Random(SEED + 1)
    sizes = [rng.randint(*file_bytes) for _ in range(count)]
    names = [b"part_%04d/doc_%08x.txt" % (number % folders, rng.getrandbits(32)) for number in range(count)]
    text = _text(rng, min(_SLAB_BYTES, sum(sizes) + 1))
    return _written(folder, name, _distinct(names), sizes, _again(text))


def make_big(folder: Path, size: int) -> Tree:
    """Make one file of *size* random bytes."""
    return _written(folder, "big", [b"big.bin"], [size], _random_slabs())


def make_lines(folder: Path, size: int) -> Tree:
    """Make one file of *size* bytes of JSON, a document a line, no two alike."""
    return _written(folder, "lines", [b"lines.jsonl"], [size], _documents())


def found(root: Path) -> Tree:
    """Return the files at *root* as a tree of its name, with a list of its own beside it."""
    base = os.fsencode(root)
    files = tuple(
        sorted(
            os.path.relpath(os.path.join(parent, name), base) for parent, _, names in os.walk(base) for name in names
        )
    )
    list_file = root.with_name(f"{root.name}.list")
    _write_list(list_file, files)
    size = sum(os.stat(os.path.join(base, path)).st_size for path in files)
    folders = len({os.path.dirname(path) for path in files} - {b""})
    return Tree(root.name, root, files, folders, size, list_file)


def _written(folder: Path, name: str, paths: Sequence[bytes], sizes: Sequence[int], slabs: Iterator[bytes]) -> Tree:
    root = folder / name
    parents = sorted({os.path.dirname(path) for path in paths} - {b""})
    for parent in parents:
        os.makedirs(os.path.join(os.fsencode(root), parent))
    root.mkdir(exist_ok=True)
    # In the order of folders, as a copy would have made them: a native directory lies on the disk as it does then.
    files = sorted(zip(paths, sizes, strict=True))
    source = _Source(slabs)
    for path, size in files:
        with open(os.path.join(os.fsencode(root), path), "xb", buffering=0) as file:
            left = size
            while left:
                left -= file.write(source.take(min(left, _SLAB_BYTES)))
    list_file = folder / f"{name}.list"
    in_order = tuple(path for path, _ in files)
    _write_list(list_file, in_order)
    return Tree(name, root, in_order, len(parents), sum(sizes), list_file)


def _write_list(list_file: Path, files: Sequence[bytes]) -> None:
    list_file.write_bytes(b"".join(path + b"\0" for path in files))


class _Source:
    """Bytes from one slab after the other."""

    def __init__(self, slabs: Iterator[bytes]) -> None:
        self._slabs = slabs
        self._slab = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """Return up to *size* next bytes, at least one."""
        if not self._slab:
            self._slab = memoryview(next(self._slabs))
        taken, self._slab = self._slab[:size], self._slab[size:]
        return taken


def _random_slabs() -> Iterator[bytes]:
    while True:
        yield os.urandom(_SLAB_BYTES)


def _again(text: bytes) -> Iterator[bytes]:
    while True:
        yield text


def _documents() -> Iterator[bytes]:
    """Yield 1 MiB of JSON lines after the other, the first line of each is noise.

    SeaweedFS compresses a chunk that begins like text, or whose first bytes can be compressed: then each ranged read
    costs tens of milliseconds, which no other store takes. Chunks and parts begin at multiples of 1 MiB.
    """
    rng = random.Random(SEED + 2)
    text = _text(rng, 8 * MIB).replace(b"\n", b" ")
    number = 0
    while True:
        lines = [b"\0" + rng.randbytes(254).replace(b"\n", b"\0") + b"\n"]
        left = 1 * MIB - len(lines[0])
        while left:
            head = b'{"id": %d, "text": "' % number
            length = rng.randrange(1 * KIB, 4 * KIB) if left > 6 * KIB else left - len(head) - 3
            place = rng.randrange(len(text) - 6 * KIB)
            lines.append(head + text[place : place + length] + b'"}\n')
            left -= len(lines[-1])
            number += 1
        yield b"".join(lines)


def _text(rng: random.Random, size: int) -> bytes:
    """Return at least *size* bytes of words, the n-th of them with a frequency in proportion to 1/n."""
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(_WORDS)]
    weights = list(accumulate(1 / number for number in range(1, _WORDS + 1)))
    lines = []
    made = 0
    while made < size:
        line = " ".join(rng.choices(words, cum_weights=weights, k=2_000)) + ".\n"
        lines.append(line)
        made += len(line)
    return "".join(lines).encode()


def _distinct(names: Sequence[bytes]) -> Sequence[bytes]:
    if len(set(names)) != len(names):
        raise ValueError("two files of one name: choose another seed")
    return names
