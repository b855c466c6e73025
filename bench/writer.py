"""The program that writes: one file from its start to its end, one byte of it, or copies of many.

Prints one JSON object as the reader does: seconds, files, bytes, and the digests of the sample that the reader takes.

    python -m bench.writer sequential FILE BYTES        a new file of random bytes, 1 MiB a write, then fsync
    python -m bench.writer byte FILE PLACE              open, change one byte, fsync, close
    python -m bench.writer patch FILE PLACE BYTES       open, write random bytes there, fsync, close
    python -m bench.writer copy ROOT LIST TARGET        copy the files of a list with some threads, folders too
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

from bench.reader import CHUNK_BYTES, SAMPLES, digest

_CHUNKS = 64


def sequential(path: bytes, size: int) -> dict[str, object]:
    """Write a new file of *size* bytes from its start to its end, and have it on the disk."""
    chunks = [os.urandom(CHUNK_BYTES) for _ in range(_CHUNKS)]
    places = range(0, size, CHUNK_BYTES)
    pieces = [memoryview(chunks[number % _CHUNKS])[: size - place] for number, place in enumerate(places)]
    began = time.monotonic()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    for piece in pieces:
        while piece:
            piece = piece[os.write(fd, piece) :]
    os.fsync(fd)
    os.close(fd)
    seconds = time.monotonic() - began
    every = max(1, size // CHUNK_BYTES // SAMPLES)
    sampled = list(zip(places, pieces, strict=True))[::every]
    samples = {str(place): digest(bytes(piece[:4096])) for place, piece in sampled}
    return {"seconds": seconds, "files": 1, "bytes": size, "samples": samples}


def change_byte(path: bytes, place: int) -> dict[str, object]:
    """Make the byte at *place* another one, on the disk too."""
    with open(path, "rb", buffering=0) as file:
        file.seek(place)
        byte = bytes([file.read(1)[0] ^ 0xFF])
    began = time.monotonic()
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, byte, place)
    os.fsync(fd)
    os.close(fd)
    seconds = time.monotonic() - began
    with open(path, "rb", buffering=0) as file:
        file.seek(place)
        if file.read(1) != byte:
            raise ValueError(f"the byte at {place} of {os.fsdecode(path)} is not what was written")
    return {"seconds": seconds, "files": 1, "bytes": 1}


def patch(path: bytes, place: int, size: int) -> dict[str, object]:
    """Write *size* random bytes at *place*, and have them on the disk."""
    data = os.urandom(size)
    began = time.monotonic()
    fd = os.open(path, os.O_RDWR)
    done = 0
    while done < size:
        done += os.pwrite(fd, data[done:], place + done)
    os.fsync(fd)
    os.close(fd)
    return {"seconds": time.monotonic() - began, "files": 1, "bytes": size}


def copy(root: bytes, names: list[bytes], target: bytes, threads: int) -> dict[str, object]:
    """Copy the files *names* from *root* to *target*, as threads that read and write them whole do."""

    def one(name: bytes) -> int:
        with open(root + b"/" + name, "rb") as file:
            data = file.read()
        with open(target + b"/" + name, "wb") as file:
            return file.write(data)

    began = time.monotonic()
    for parent in sorted({os.path.dirname(name) for name in names}):
        os.makedirs(target + b"/" + parent, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(one, names))
    return {"seconds": time.monotonic() - began, "files": len(names), "bytes": total}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.writer")
    modes = parser.add_subparsers(dest="mode", required=True)
    whole = modes.add_parser("sequential")
    whole.add_argument("file")
    whole.add_argument("bytes", type=int)
    byte = modes.add_parser("byte")
    byte.add_argument("file")
    byte.add_argument("place", type=int)
    part = modes.add_parser("patch")
    part.add_argument("file")
    part.add_argument("place", type=int)
    part.add_argument("bytes", type=int)
    many = modes.add_parser("copy")
    for name in ("root", "list", "target"):
        many.add_argument(name)
    many.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    if told.mode == "copy":
        with open(told.list, "rb") as file:
            names = file.read().split(b"\0")[:-1]
        print(json.dumps(copy(os.fsencode(told.root), names, os.fsencode(told.target), told.threads)))
        return
    path = os.fsencode(told.file)
    if told.mode == "sequential":
        result = sequential(path, told.bytes)
    elif told.mode == "patch":
        result = patch(path, told.place, told.bytes)
    else:
        result = change_byte(path, told.place)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
