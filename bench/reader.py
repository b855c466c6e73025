"""The program that reads: all files of a list in shuffled order with some threads, or one file.

What a training job's loader does, as a process of its own: each thread takes every n-th file of the order,
opens it, asks its size, reads it to its end and closes it. The same program reads dvfs, a native directory
and downloaded files. Prints one JSON object: seconds, files, bytes, and the digests of a sample, which is
hashed after the clock has stopped.

    python -m bench.reader epoch ROOT LIST --threads 4 --seed 1 --epochs 5
    python -m bench.reader sequential FILE
    python -m bench.reader random FILE --reads 1000 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import threading
import time
from statistics import median

CHUNK_BYTES = 1024 * 1024
RANDOM_BYTES = 64 * 1024
SAMPLES = 64
"""How many files, chunks or random reads are hashed."""


def read_whole(path: bytes) -> bytes:
    """Return the bytes of the file, as `open(path, "rb").read()` gets them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        data = os.read(fd, os.fstat(fd).st_size + 1)
        while more := os.read(fd, RANDOM_BYTES):
            data += more
    finally:
        os.close(fd)
    return data


def offsets(size: int, reads: int, seed: int) -> list[int]:
    """Return where random reads of 64 KiB begin in a file of *size* bytes."""
    rng = random.Random(seed)
    return [rng.randrange(max(1, size - RANDOM_BYTES)) for _ in range(reads)]


def shuffled(names: list[bytes], seed: int) -> list[bytes]:
    """Return *names* in the order in which they are read with *seed*."""
    order = names[:]
    random.Random(seed).shuffle(order)
    return order


class Epoch:
    """All files of a list, each read once in shuffled order by some threads."""

    def __init__(self, root: bytes, names: list[bytes], seed: int) -> None:
        self._root = root
        sampled = names[:: max(1, len(names) // SAMPLES)]
        self._sampled = frozenset(sampled)
        self._order = shuffled(names, seed)
        self._kept: dict[bytes, bytes] = {}
        self._sums: list[int] = []
        self._failures: list[BaseException] = []

    def run(self, threads: int) -> dict[str, object]:
        """Read everything; raise the first error that a thread met."""
        ready = threading.Barrier(threads + 1)
        workers = [threading.Thread(target=self._read, args=(ready, n, threads)) for n in range(threads)]
        for worker in workers:
            worker.start()
        ready.wait()
        began = time.monotonic()
        for worker in workers:
            worker.join()
        seconds = time.monotonic() - began
        if self._failures:
            raise self._failures[0]
        return {
            "seconds": seconds,
            "files": len(self._order),
            "bytes": sum(self._sums),
            "samples": {os.fsdecode(name): digest(data) for name, data in sorted(self._kept.items())},
        }

    def _read(self, ready: threading.Barrier, first: int, step: int) -> None:
        mine = self._order[first::step]
        total = 0
        ready.wait()
        try:
            for name in mine:
                data = read_whole(self._root + b"/" + name)
                total += len(data)
                if name in self._sampled:
                    self._kept[name] = data
        except BaseException as error:
            self._failures.append(error)
        self._sums.append(total)


def epochs(root: bytes, names: list[bytes], seed: int, threads: int, count: int) -> dict[str, object]:
    """Read everything *count* times, in another order each; return the last result, with the median of seconds."""
    results = [Epoch(root, names, seed + number).run(threads) for number in range(count)]
    for result in results[:-1]:
        if any(result[name] != results[-1][name] for name in ("files", "bytes", "samples")):
            raise ValueError(f"two epochs of {os.fsdecode(root)} differ")
    return results[-1] | {"seconds": median([float(str(result["seconds"])) for result in results])}


def sequential(path: bytes) -> dict[str, object]:
    """Read the file from its start to its end."""
    fd = os.open(path, os.O_RDONLY)
    every = max(1, os.fstat(fd).st_size // CHUNK_BYTES // SAMPLES)
    kept: dict[int, bytes] = {}
    total = number = 0
    began = time.monotonic()
    while data := os.read(fd, CHUNK_BYTES):
        if number % every == 0:
            kept[total] = data
        total += len(data)
        number += 1
    seconds = time.monotonic() - began
    os.close(fd)
    # Reads may come back in pieces: the sample is of what stands at those places, whatever the pieces.
    samples = {str(place): digest(data[:4096]) for place, data in kept.items()}
    return {"seconds": seconds, "files": 1, "bytes": total, "samples": samples}


def random_reads(path: bytes, reads: int, seed: int) -> dict[str, object]:
    """Read 64 KiB at random places of the file, one after the other."""
    fd = os.open(path, os.O_RDONLY)
    places = offsets(os.fstat(fd).st_size, reads, seed)
    every = max(1, reads // SAMPLES)
    kept: dict[int, bytes] = {}
    total = 0
    taken = []
    began = time.monotonic()
    for number, place in enumerate(places):
        asked = time.monotonic()
        data = os.pread(fd, RANDOM_BYTES, place)
        taken.append(time.monotonic() - asked)
        total += len(data)
        if number % every == 0:
            kept[place] = data
    seconds = time.monotonic() - began
    os.close(fd)
    samples = {str(place): digest(data) for place, data in kept.items()}
    p99 = sorted(taken)[(len(taken) - 1) * 99 // 100]
    return {"seconds": seconds, "files": 1, "bytes": total, "samples": samples, "p99_seconds": p99}


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.reader")
    modes = parser.add_subparsers(dest="mode", required=True)
    epoch = modes.add_parser("epoch")
    epoch.add_argument("root")
    epoch.add_argument("list")
    epoch.add_argument("--threads", type=int, default=1)
    epoch.add_argument("--seed", type=int, default=1)
    epoch.add_argument("--epochs", type=int, default=1)
    modes.add_parser("sequential").add_argument("file")
    at_random = modes.add_parser("random")
    at_random.add_argument("file")
    at_random.add_argument("--reads", type=int, default=1000)
    at_random.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    if told.mode == "epoch":
        with open(told.list, "rb") as file:
            names = file.read().split(b"\0")[:-1]
        result = epochs(os.fsencode(told.root), names, told.seed, told.threads, told.epochs)
    elif told.mode == "sequential":
        result = sequential(os.fsencode(told.file))
    else:
        result = random_reads(os.fsencode(told.file), told.reads, told.seed)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
