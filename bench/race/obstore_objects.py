"""The program that keeps a tree as single objects in S3 with obstore and 16 threads; see bench.objects.

Data goes between disk and wire in memory. It runs in the environment that obstore is installed into, and prints one
JSON object: seconds (from the first request), files, bytes.

    python -m bench.race.obstore_objects upload|download ROOT LIST BUCKET PREFIX
    python -m bench.race.obstore_objects ranges BUCKET PREFIX --bytes BYTES
    python -m bench.race.obstore_objects upload-file|download-file FILE BUCKET KEY
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import S3Store

from bench.ranges import ranged

THREADS = 16
PART_BYTES = 8 * 1024 * 1024
Result = dict[str, object]


def opened(bucket: str) -> S3Store:
    """Return the bucket, reached as the variables AWS_* say."""
    return S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_REGION"],
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def upload(store: S3Store, root: bytes, names: list[bytes], prefix: str) -> Result:
    """Put every file as an object."""

    def put(name: bytes) -> int:
        with open(root + b"/" + name, "rb") as file:
            data = file.read()
        obstore.put(store, f"{prefix}/{os.fsdecode(name)}", data, use_multipart=False)
        return len(data)

    return _all(put, names)


def download(store: S3Store, root: bytes, names: list[bytes], prefix: str) -> Result:
    """Get every object into a file."""
    for parent in {os.path.dirname(name) for name in names}:
        os.makedirs(root + b"/" + parent, exist_ok=True)

    def get(name: bytes) -> int:
        data = obstore.get(store, f"{prefix}/{os.fsdecode(name)}").bytes()
        with open(root + b"/" + name, "wb") as file:
            return file.write(data)

    return _all(get, names)


def upload_file(store: S3Store, path: str, key: str) -> Result:
    """Put one big file, in parts."""
    began = time.monotonic()
    with open(path, "rb") as file:
        obstore.put(store, key, file, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=THREADS)
    return {"seconds": time.monotonic() - began, "files": 1, "bytes": os.path.getsize(path)}


def download_file(store: S3Store, path: str, key: str) -> Result:
    """Get one big object by ranges."""
    began = time.monotonic()
    size = obstore.head(store, key)["size"]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def get(place: int) -> int:
        data = obstore.get_range(store, key, start=place, length=min(PART_BYTES, size - place))
        return os.pwrite(fd, data, place)

    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(get, range(0, size, PART_BYTES)))
    os.close(fd)
    return {"seconds": time.monotonic() - began, "files": 1, "bytes": total}


def get_ranges(store: S3Store, prefix: str, least: int) -> Result:
    """Get the objects below *prefix* by ranges, until there are *least* bytes; nothing is kept."""
    sizes = [(found["path"], found["size"]) for page in obstore.list(store, prefix) for found in page]

    def get(key: str, start: int, stop: int) -> int:
        return len(memoryview(obstore.get_range(store, key, start=start, end=stop)))

    return ranged(get, sizes, least)


def _all(work: Callable[[bytes], int], names: list[bytes]) -> Result:
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(work, names))
    return {"seconds": time.monotonic() - began, "files": len(names), "bytes": total}


def _run(told: argparse.Namespace) -> Result:
    store = opened(told.bucket)
    if told.mode == "upload-file":
        return upload_file(store, told.file, told.key)
    if told.mode == "download-file":
        return download_file(store, told.file, told.key)
    if told.mode == "ranges":
        return get_ranges(store, told.prefix, told.bytes)
    with open(told.list, "rb") as file:
        names = file.read().split(b"\0")[:-1]
    work = upload if told.mode == "upload" else download
    return work(store, os.fsencode(told.root), names, told.prefix)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.race.obstore_objects")
    modes = parser.add_subparsers(dest="mode", required=True)
    for mode in ("upload", "download"):
        many = modes.add_parser(mode)
        for name in ("root", "list", "bucket", "prefix"):
            many.add_argument(name)
    some = modes.add_parser("ranges")
    for name in ("bucket", "prefix"):
        some.add_argument(name)
    some.add_argument("--bytes", type=int, required=True)
    for mode in ("upload-file", "download-file"):
        one = modes.add_parser(mode)
        for name in ("file", "bucket", "key"):
            one.add_argument(name)
    print(json.dumps(_run(parser.parse_args())))


if __name__ == "__main__":
    main()
