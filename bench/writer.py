"""The program that writes one file: from its start to its end, or one byte of it.

Prints one JSON object as the reader does: seconds, files, bytes, and the digests of the sample that the reader takes.

    python -m bench.writer sequential FILE BYTES        a new file of random bytes, 1 MiB a write, then fsync
    python -m bench.writer byte FILE PLACE              open, change one byte, fsync, close
"""

from __future__ import annotations

import argparse
import json
import os
import time

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.writer")
    modes = parser.add_subparsers(dest="mode", required=True)
    whole = modes.add_parser("sequential")
    whole.add_argument("file")
    whole.add_argument("bytes", type=int)
    byte = modes.add_parser("byte")
    byte.add_argument("file")
    byte.add_argument("place", type=int)
    told = parser.parse_args()
    path = os.fsencode(told.file)
    print(json.dumps(sequential(path, told.bytes) if told.mode == "sequential" else change_byte(path, told.place)))


if __name__ == "__main__":
    main()
