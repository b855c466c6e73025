"""The machine under the benchmark: its page cache, its disk, and the environment that measured programs get."""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.scale import GIB

ROOT = Path(__file__).resolve().parent.parent
"""The checkout that is measured."""

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_KEPT = ("PATH", "HOME", "TMPDIR", "USER", "LOGNAME")
_LOADS_ALL = """
import sys
opened = set()
sys.addaudithook(lambda event, told: opened.add(told[0]) if event == "open" and isinstance(told[0], str) else None)
import importlib, pkgutil, boto3, dvfs
for module in pkgutil.walk_packages(dvfs.__path__, "dvfs."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
boto3.client("s3", region_name="us-east-1")
opened.update(line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "/" in line)
print("\\0".join(path for path in opened if path.startswith("/") and not path.startswith(("/proc/", "/dev/"))))
"""
"""Loads what the measured programs consist of, and prints the files that this took."""


def environment(extra: dict[str, str]) -> dict[str, str]:
    """Return the variables of a measured program: a few of ours, and *extra*. No setting of the user gets in."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"} | extra


def is_root() -> bool:
    return os.geteuid() == 0


def program_files() -> tuple[Path, ...]:
    """Return the files that dvfs and boto3 are loaded from; afterwards their modules are compiled."""
    command = [sys.executable, "-c", _LOADS_ALL]
    done = subprocess.run(
        command, cwd=ROOT, env=environment({}), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    named = (Path(os.fsdecode(name.strip())) for name in done.stdout.split(b"\0"))
    return tuple(path for path in named if path.is_file())


def forget(folder: Path, programs: Iterable[Path]) -> None:
    """Write everything to the disk and empty the page cache, so that the next reader of *folder* reads the disk.

    Only root can empty all of it; else the pages of the files in *folder* go. The files of *programs* are read in
    again: their start is not what is measured cold.
    """
    os.sync()
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text("3\n")
    else:
        for parent, _, names in os.walk(folder):
            for name in names:
                _forget_file(os.path.join(parent, name))
    for path in programs:
        path.read_bytes()


@contextmanager
def used_memory(most_bytes: int) -> Iterator[None]:
    """Use *most_bytes* of memory, or half of what is free, and give it back at the end: who comes next has it at hand.

    A virtual machine that gives free memory back to its host is given it again page by page, ten times as slowly as
    pages are copied: what a program finds would depend on how long ago somebody used as much.
    """
    size = min(most_bytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2)
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1
        yield


def remove_tree(folder: Path) -> None:
    """Remove *folder* and what is in it, also directories that nobody may write to."""
    if not folder.exists():
        return
    for parent, _, _ in os.walk(folder):
        if not os.access(parent, os.W_OK):
            os.chmod(parent, 0o700)
    shutil.rmtree(folder)


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Raise SystemExit where *folder* has less than *needed_bytes* free, or lies in memory."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise SystemExit(f"{folder} has {free / GIB:.0f} GiB free, {needed_bytes / GIB:.0f} are needed; see --work-dir")
    if filesystem(folder) in {"tmpfs", "ramfs"}:
        raise SystemExit(f"{folder} is in memory: choose a folder on a disk with --work-dir")


def filesystem(folder: Path) -> str:
    """Return the type of the file system that holds *folder*."""
    best = ("", "?")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        where, kind = line.split(" ")[1:3]
        inside = where == "/" or str(folder.resolve()).startswith(where + "/") or str(folder.resolve()) == where
        if inside and len(where) >= len(best[0]):
            best = (where, kind)
    return best[1]


def description(folder: Path) -> dict[str, str]:
    """Return what the figures were measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{len(os.sched_getaffinity(0))}x {cpu}",
        "memory": f"{memory / GIB:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": filesystem(folder),
        "user": "root" if is_root() else "unprivileged",
        "page cache emptied by": "drop_caches" if os.access(DROP_CACHES, os.W_OK) else "posix_fadvise",
    }


def _forget_file(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
