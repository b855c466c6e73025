"""Makes many versions in a store, and asks for all of them; run as a program, with the settings of dvfs.

    python -m bench.versions make COUNT     in projects of a hundred, with nothing in them
    python -m bench.versions list           `Dataset.list_datasets()`, timed without the start of Python

Prints seconds and how many versions there were, as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor

from dvfs import Dataset

_IN_A_PROJECT = 100
_THREADS = 8


def make(count: int) -> int:
    """Make *count* finished versions; return how many."""

    def one(number: int) -> None:
        dataset = Dataset.create(f"set-{number:06}", f"many/{number // _IN_A_PROJECT:04}", dataset_tags=["bench"])
        dataset.finalize()

    with ThreadPoolExecutor(_THREADS) as threads:
        return sum(1 for _ in threads.map(one, range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.versions")
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("make").add_argument("count", type=int)
    modes.add_parser("list")
    told = parser.parse_args()
    began = time.monotonic()
    found = make(told.count) if told.mode == "make" else len(Dataset.list_datasets())
    print(json.dumps({"seconds": time.monotonic() - began, "versions": found}))


if __name__ == "__main__":
    main()
