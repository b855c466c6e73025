"""A process that shares a cache with the test: `python -m tests.cache_process`, told what to do by JSON on stdin.

The first line is the task; the answer is one line of JSON on stdout. Actions:
`read`: fetch all blocks, *order* a seed, with *lay* into one whole file; answers requests and the number of right
blocks. `hold`: take the fetch
lock of block 0 and keep it until stdin closes. `put`: store *count* blocks made of *seed* and close. `fork`: put in
this process and in forked children of a cache made before. With *crash* = [point, n] the process kills itself
with SIGKILL when it passes that point for the n-th time.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.cache_whole import Place
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.fetch import Fetcher
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import PackId
from tests.store.noise import noise

BLOCK_BYTES = 64 << 10
_ROOT = Path(__file__).resolve().parent.parent


def unfinished(cache: Path) -> list[Path]:
    """Return the temporary files of the cache folder *cache*."""
    return [path for path in (cache / "tmp").rglob("*") if path.is_file()]


def lay(cache: Cache, refs: Sequence[BlockRef]) -> Path:
    """Have the blocks *refs*, in order, lie in a whole file; return where that will be."""
    size, start = sum(ref.raw for ref in refs), 0
    file = file_digest(size, [ref.digest for ref in refs])
    for ref in refs:
        cache.lay(ref.digest, Place(file, start, ref.raw), size)
        start += ref.raw
    return Path("files") / file.hex()[:2] / file.hex()


class CacheProcess:
    """The process, from the test's side; ends with the `with` block."""

    def __init__(
        self,
        action: str,
        cache: Path,
        *,
        store: Path | None = None,
        refs: Sequence[BlockRef] = (),
        **options: object,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cache_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        rows = [[ref.storage, ref.pack.hex(), *ref[2:6], ref.digest.hex()] for ref in refs]
        task = {"action": action, "cache": str(cache), "store": str(store), "refs": rows, **options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self) -> Any:
        """Wait for the answer; None when the process died before."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def wait(self) -> int:
        """Let it end; return its exit status, negative for a signal."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(120)

    def __enter__(self) -> CacheProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def _crash_at(point: str, count: int) -> CrashPoint:
    passed = itertools.count(1)

    def crash(here: str) -> None:
        if here == point and next(passed) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash


def _read(task: dict[str, Any], cache: Cache) -> object:
    refs = [
        BlockRef(storage, PackId(bytes.fromhex(pack)), offset, stored, raw, codec, bytes.fromhex(digest))
        for storage, pack, offset, stored, raw, codec, digest in task["refs"]
    ]
    backend = FolderBackend(Path(task["store"]))
    fetcher = Fetcher(lambda tag: backend, cache, parallel=4)
    if task.get("lay"):
        lay(cache, refs)
    random.Random(task.get("order", 0)).shuffle(refs)
    if task.get("want"):
        fetcher.want(refs)
    right = sum(block_digest(fetcher.block(ref)) == ref.digest for ref in refs)
    fetcher.close()
    cache.settle()
    cache.close()
    return {"requests": fetcher.stats().requests, "right": right}


def _put(task: dict[str, Any], cache: Cache) -> object:
    stored = 0
    for number in range(task["count"]):
        data = noise(BLOCK_BYTES, task["seed"] * 1000 + number)
        stored += cache.put(block_digest(data), data)
    cache.close()
    return {"stored": stored}


def _fork(task: dict[str, Any], cache: Cache) -> object:
    data = noise(BLOCK_BYTES, 1)
    digest = block_digest(data)
    cache.get(digest)  # what a parent may do: read
    children = []
    for child in range(2):
        pid = os.fork()
        if not pid:
            with cache.fetching(digest) as held:
                mine = noise(BLOCK_BYTES, 100 + child)
                stored = held and cache.put(block_digest(mine), mine)
            cache.close()
            os._exit(0 if stored else 1)
        children.append(pid)
    return {"failed": sum(os.waitpid(pid, 0)[1] != 0 for pid in children)}


def main() -> None:
    """Do the one task."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    task = json.loads(sys.stdin.readline())
    crash = _crash_at(*task["crash"]) if task.get("crash") else no_crash
    cache = Cache(
        Path(task["cache"]),
        budget_bytes=task.get("budget", 1 << 30),
        reserve_bytes=0,
        lock_wait_seconds=task.get("lock_wait", 60),
        crash=crash,
    )
    if task["action"] == "hold":
        with cache.fetching(bytes.fromhex(task["refs"][0][-1])) as held:
            print(json.dumps({"held": held}), flush=True)
            sys.stdin.read()
        return
    print(json.dumps({"read": _read, "put": _put, "fork": _fork}[task["action"]](task, cache)), flush=True)


if __name__ == "__main__":
    main()
