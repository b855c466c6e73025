"""The progress bar: one line on stderr, on a terminal only, never with `--json` or `--quiet`.

    37%  1234/5678 files  1.2/3.4 GiB  85.0 MiB/s  0:26 left

Counters may be fed from any thread; the line is drawn by a thread of its own, a few times a second.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

from dvfs.cli.output import note, shown, shown_size, wants_json, wants_quiet

_INTERVAL_SECONDS = 0.2


class Bar:
    """Counts of files and bytes done, of totals that may be unknown (0) or grow.

    Thread-safe. *stream* gets the line, None nothing; *monotonic* returns seconds.
    """

    def __init__(
        self, stream: TextIO | None, *, verbose: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._verbose = verbose
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._started = monotonic()
        self._files = self._bytes = self._total_files = self._total_bytes = 0
        self._width = 0

    def on_total(self, files: int, size: int) -> None:
        """Say that there are *files* and *size* bytes to do in all."""
        with self._lock:
            self._total_files, self._total_bytes = files, size

    def on_bytes(self, size: int) -> None:
        """Say that *size* more bytes are done."""
        with self._lock:
            self._bytes += size

    def on_file(self, path: bytes, size: int) -> None:
        """Say that the file at *path*, of *size* bytes, is done."""
        with self._lock:
            self._files += 1
            self._bytes += size
        if self._verbose:
            self.clear()
            note(shown(path))

    def line(self) -> str:
        """Return the line as it stands."""
        with self._lock:
            files, size = self._files, self._bytes
            total_files, total = self._total_files, self._total_bytes
        elapsed = self._monotonic() - self._started
        rate = size / elapsed if elapsed > 0 else 0.0
        parts = []
        if total:
            parts.append(f"{min(100, 100 * size // total):3d}%")
        if files or total_files:
            parts.append(f"{files}/{total_files} files" if total_files else f"{files} files")
        parts.append(f"{shown_size(size)}/{shown_size(total)}" if total else shown_size(size))
        parts.append(f"{shown_size(int(rate))}/s")
        if rate and total > size:
            left = int((total - size) / rate)
            parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        return "  ".join(parts)

    def draw(self) -> None:
        """Write the line over the one before."""
        if self._stream is None:
            return
        line = self.line()
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def clear(self) -> None:
        """Take the line away."""
        if self._stream is not None and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


def progress(verbose: bool = False) -> AbstractContextManager[Bar]:
    """Return a bar that is drawn until the end of the block, where a command is to show one."""
    return drawn(is_shown=sys.stderr.isatty() and not wants_json() and not wants_quiet(), verbose=verbose)


@contextmanager
def drawn(*, is_shown: bool, verbose: bool) -> Iterator[Bar]:
    """Return a bar that, if *is_shown*, is drawn until the end of the block."""
    bar = Bar(sys.stderr if is_shown else None, verbose=verbose)
    if not is_shown:
        yield bar
        return
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(_INTERVAL_SECONDS):
            bar.draw()

    drawer = threading.Thread(target=run, name="progress", daemon=True)
    drawer.start()
    try:
        yield bar
    finally:
        stop.set()
        drawer.join()
        bar.clear()


def path_printer(verbose: bool) -> Callable[[bytes], None] | None:
    """Return what prints each path that it is called with, None unless *verbose*."""
    return (lambda path: note(shown(path))) if verbose else None
