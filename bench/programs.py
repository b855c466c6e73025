"""Runs the measured programs as a user would: dvfs by its command line, the reader, boto3; times and checks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import ROOT, environment


class Failed(Exception):
    """A program failed, or what it read is not what was written."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader read: *seconds* by its own clock, *wall_seconds* with its start, and the digests of *samples*.

    *p99_seconds*: all but one in a hundred of its single reads took no longer; 0 where it does not tell.
    """

    seconds: float
    wall_seconds: float
    files: int
    bytes: int
    samples: dict[str, str]
    p99_seconds: float = 0.0

    def check(self, truth: Read) -> Read:
        """Return self. Raises Failed where files, bytes or samples differ from *truth*."""
        if (self.files, self.bytes, self.samples) != (truth.files, truth.bytes, truth.samples):
            raise Failed(
                f"read {self.files} files of {self.bytes} bytes, written were {truth.files} of {truth.bytes}; "
                f"{sum(self.samples.get(key) != value for key, value in truth.samples.items())} samples differ"
            )
        return self


class Programs:
    """Starts programs with the environment *variables*, as they are then, in the root of the checkout. Not thread-safe.

    One that takes longer than *most_seconds* is killed, and has failed.
    """

    def __init__(self, variables: Mapping[str, str], most_seconds: float | None = None) -> None:
        self._variables = variables
        self._most_seconds = most_seconds

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        extra: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> Ran:
        """Run *command* in *folder* to its end. Raises Failed with what it said when its exit code is not 0."""
        shown = " ".join(os.fspath(word) for word in command)
        began = time.monotonic()
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment(dict(self._variables) | dict(extra or {})),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                timeout=self._most_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{shown}: took longer than {self._most_seconds:.0f} s") from error
        seconds = time.monotonic() - began
        if done.returncode:
            raise Failed(f"{shown}: exit code {done.returncode}\n{done.stderr[-4000:]}")
        return Ran(seconds, done.stdout)

    def seconds_of(self, command: Sequence[str | os.PathLike[str]]) -> float:
        """Run *command* with its output thrown away; return the seconds it took. Raises Failed."""
        shown = " ".join(os.fspath(word) for word in command)
        began = time.monotonic()
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment(dict(self._variables)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=self._most_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{shown}: took longer than {self._most_seconds:.0f} s") from error
        seconds = time.monotonic() - began
        if done.returncode:
            raise Failed(f"{shown}: exit code {done.returncode}")
        return seconds

    def lines_of(self, command: Sequence[str | os.PathLike[str]]) -> int:
        """Return how many lines *command* prints. Raises Failed."""
        return self.run(command).output.count("\n")

    def read_epoch(self, root: Path, list_file: Path, *, threads: int, seed: int = 1, epochs: int = 1) -> Read:
        """Read all files of *list_file* below *root* in shuffled order; seconds: the median of the epochs."""
        numbers = ("--threads", str(threads), "--seed", str(seed), "--epochs", str(epochs))
        return self._read("bench.reader", "epoch", root, list_file, *numbers)

    def read_sequentially(self, file: Path) -> Read:
        return self._read("bench.reader", "sequential", file)

    def read_randomly(self, file: Path, *, reads: int, seed: int = 1) -> Read:
        return self._read("bench.reader", "random", file, "--reads", str(reads), "--seed", str(seed))

    def write_sequentially(self, file: Path, size: int) -> Read:
        """Write the new *file* and have it on the disk; *samples* are what a reader must find."""
        return self._read("bench.writer", "sequential", file, str(size))

    def change_byte(self, file: Path, place: int) -> Read:
        return self._read("bench.writer", "byte", file, str(place))

    def patch(self, file: Path, place: int, size: int) -> Read:
        """Write *size* random bytes at *place* of *file*, on the disk too."""
        return self._read("bench.writer", "patch", file, str(place), str(size))

    def objects(self, mode: str, *arguments: str | os.PathLike[str]) -> Read:
        """Run the boto3 program."""
        return self._read("bench.objects", mode, *arguments)

    def _read(self, module: str, mode: str, *arguments: str | os.PathLike[str]) -> Read:
        return self.read_by([sys.executable, "-m", module, mode, *arguments])

    def read_by(self, command: Sequence[str | os.PathLike[str]]) -> Read:
        """Run *command*, which prints what it read as the reader does."""
        ran = self.run(command)
        told: dict[str, Any] = json.loads(ran.output)
        samples, p99 = told.get("samples", {}), told.get("p99_seconds", 0.0)
        return Read(told["seconds"], ran.seconds, told["files"], told["bytes"], samples, p99)


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ended well: how long it took from start to end, and what it printed."""

    seconds: float
    output: str


@dataclass(slots=True)
class Usage:
    """What a daemon used: seconds of processor time, the peak of its memory in bytes."""

    cpu_seconds: float
    peak_bytes: int


def usage(pid: int) -> Usage:
    """Return what process *pid* used since it began."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    fields = stat[stat.rindex(b")") + 2 :].split()
    ticks = int(fields[11]) + int(fields[12])
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), peak)


def shown_bytes(count: float) -> str:
    """Return *count* bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
