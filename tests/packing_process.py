"""A process that packs what is staged: `python -m tests.packing_process ROOT POINT COUNT LETTER`.

ROOT holds a `PackingBench` and its store. The process kills itself with SIGKILL when it passes the crash point POINT
for the COUNT-th time, in whatever thread that is. LETTER makes the ids of its packs differ from those of other runs.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

from dvfs.store.folder import FolderBackend
from dvfs.store.packing import Reuse
from tests.packing_bench import PackingBench

_ROOT = Path(__file__).resolve().parent.parent


def pack_and_die(root: Path, point: str, count: int, *, letter: str = "k", timeout: float = 120.0) -> None:
    """Run the process and check that it died as it was told."""
    command = [sys.executable, "-m", "tests.packing_process", os.fspath(root), point, str(count), letter]
    assert subprocess.run(command, cwd=_ROOT, timeout=timeout, check=False).returncode == -signal.SIGKILL


def main() -> None:
    root, point, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    passes = itertools.count(1)

    def crash(passed: str) -> None:
        if passed == point and next(passes) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    bench = PackingBench(root, FolderBackend(root / "store"), names=sys.argv[4].encode())
    bench.pack(reuse=Reuse(blocks=bench.staging.sent_blocks()), crash=crash)


if __name__ == "__main__":
    main()
