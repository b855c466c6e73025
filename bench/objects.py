"""The program that keeps a tree as single objects in S3, one a file, with boto3 and 16 threads.

What people do without dvfs. One client for all threads, objects in memory between disk and wire: no faster
way is known with boto3. Prints one JSON object: seconds (from the first request), files, bytes.

    python -m bench.objects upload|download ROOT LIST BUCKET PREFIX
    python -m bench.objects get BUCKET KEY                      one object, whole
    python -m bench.objects sum BUCKET PREFIX                   how many objects there are, and their bytes
    python -m bench.objects ranges BUCKET PREFIX --bytes BYTES  objects by ranges, until there are so many bytes
    python -m bench.objects upload-file|download-file FILE BUCKET KEY
    python -m bench.objects random BUCKET KEY --size BYTES --reads 1000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from bench.ranges import ranged
from bench.reader import RANDOM_BYTES, SAMPLES, digest, offsets

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

THREADS = 16
Result = dict[str, object]


def client() -> S3Client:
    """Return a client with a connection for each thread; all else as boto3 comes."""
    return boto3.client("s3", config=Config(max_pool_connections=THREADS))


def upload(s3: S3Client, root: bytes, names: list[bytes], bucket: str, prefix: str) -> Result:
    """Put every file as an object."""

    def put(name: bytes) -> int:
        with open(root + b"/" + name, "rb") as file:
            data = file.read()
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{os.fsdecode(name)}", Body=data)
        return len(data)

    return _all(put, names)


def download(s3: S3Client, root: bytes, names: list[bytes], bucket: str, prefix: str) -> Result:
    """Get every object into a file."""
    for parent in {os.path.dirname(name) for name in names}:
        os.makedirs(root + b"/" + parent, exist_ok=True)

    def get(name: bytes) -> int:
        data = s3.get_object(Bucket=bucket, Key=f"{prefix}/{os.fsdecode(name)}")["Body"].read()
        with open(root + b"/" + name, "wb") as file:
            file.write(data)
        return len(data)

    return _all(get, names)


def get_one(s3: S3Client, bucket: str, key: str) -> Result:
    """Get one object."""
    began = time.monotonic()
    data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return {"seconds": time.monotonic() - began, "files": 1, "bytes": len(data)}


def sum_up(s3: S3Client, bucket: str, prefix: str) -> Result:
    """Count the objects below *prefix* and their bytes."""
    began = time.monotonic()
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    sizes = [found["Size"] for page in pages for found in page.get("Contents", [])]
    return {"seconds": time.monotonic() - began, "files": len(sizes), "bytes": sum(sizes)}


def get_ranges(s3: S3Client, bucket: str, prefix: str, least: int) -> Result:
    """Get the objects below *prefix* by ranges, until there are *least* bytes; nothing is kept."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    sizes = [(found["Key"], found["Size"]) for page in pages for found in page.get("Contents", [])]

    def get(key: str, start: int, stop: int) -> int:
        part = f"bytes={start}-{stop - 1}"
        return len(s3.get_object(Bucket=bucket, Key=key, Range=part)["Body"].read())

    return ranged(get, sizes, least)


def transfer(s3: S3Client, told: argparse.Namespace) -> Result:
    """Upload or download one big file in parts, with 16 threads."""
    config = TransferConfig(max_concurrency=THREADS)
    began = time.monotonic()
    if told.mode == "upload-file":
        s3.upload_file(told.file, told.bucket, told.key, Config=config)
    else:
        s3.download_file(told.bucket, told.key, told.file, Config=config)
    return {"seconds": time.monotonic() - began, "files": 1, "bytes": os.path.getsize(told.file)}


def random_reads(s3: S3Client, told: argparse.Namespace) -> Result:
    """Get 64 KiB at random places of one object, one after the other."""
    every = max(1, told.reads // SAMPLES)
    samples: dict[str, bytes] = {}
    total = 0
    places = offsets(told.size, told.reads, told.seed)
    began = time.monotonic()
    for number, place in enumerate(places):
        part = f"bytes={place}-{place + RANDOM_BYTES - 1}"
        data = s3.get_object(Bucket=told.bucket, Key=told.key, Range=part)["Body"].read()
        total += len(data)
        if number % every == 0:
            samples[str(place)] = data
    seconds = time.monotonic() - began
    digests = {place: digest(data) for place, data in samples.items()}
    return {"seconds": seconds, "files": 1, "bytes": total, "samples": digests}


def _all(work: Callable[[bytes], int], names: list[bytes]) -> Result:
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(work, names))
    return {"seconds": time.monotonic() - began, "files": len(names), "bytes": total}


def _told() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.objects")
    modes = parser.add_subparsers(dest="mode", required=True)
    for mode in ("upload", "download"):
        many = modes.add_parser(mode)
        for name in ("root", "list", "bucket", "prefix"):
            many.add_argument(name)
    for mode in ("upload-file", "download-file"):
        one = modes.add_parser(mode)
        for name in ("file", "bucket", "key"):
            one.add_argument(name)
    below = modes.add_parser("sum")
    below.add_argument("bucket")
    below.add_argument("prefix")
    some = modes.add_parser("ranges")
    for name in ("bucket", "prefix"):
        some.add_argument(name)
    some.add_argument("--bytes", type=int, required=True)
    for mode in ("get", "random"):
        one = modes.add_parser(mode)
        for name in ("bucket", "key"):
            one.add_argument(name)
        one.add_argument("--size", type=int, default=0)
        one.add_argument("--reads", type=int, default=1000)
        one.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    told = _told()
    s3 = client()
    result: Result
    if told.mode in {"upload", "download"}:
        with open(told.list, "rb") as file:
            names = file.read().split(b"\0")[:-1]
        work = upload if told.mode == "upload" else download
        result = work(s3, os.fsencode(told.root), names, told.bucket, told.prefix)
    elif told.mode == "get":
        result = get_one(s3, told.bucket, told.key)
    elif told.mode == "ranges":
        result = get_ranges(s3, told.bucket, told.prefix, told.bytes)
    elif told.mode == "sum":
        result = sum_up(s3, told.bucket, told.prefix)
    elif told.mode == "random":
        result = random_reads(s3, told)
    else:
        result = transfer(s3, told)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
