"""The line of progress."""

from __future__ import annotations

import io
import sys
import threading

import click
import pytest

from dvfs.cli.options import Invocation
from dvfs.cli.progress import Bar, progress


def bar(stream: io.StringIO | None, times: list[float], *, verbose: bool = False) -> Bar:
    return Bar(stream, verbose=verbose, monotonic=lambda: times.pop(0) if len(times) > 1 else times[0])


def test_line_with_totals() -> None:
    counts = bar(None, [0.0, 10.0])
    counts.on_total(4, 100 << 20)
    counts.on_file(b"a", 20 << 20)
    counts.on_bytes(5 << 20)
    assert counts.line() == " 25%  1/4 files  25.0 MiB/100.0 MiB  2.5 MiB/s  0:00:30 left"


def test_line_without_totals() -> None:
    counts = bar(None, [0.0, 1.0])
    counts.on_bytes(512)
    assert counts.line() == "512 B  512 B/s"


def test_line_at_the_start_and_beyond_the_end() -> None:
    counts = bar(None, [0.0])
    counts.on_total(1, 10)
    assert counts.line() == "  0%  0/1 files  0 B/10 B  0 B/s"
    counts.on_file(b"a", 20)
    assert counts.line() == "100%  1/1 files  20 B/10 B  0 B/s"


def test_a_line_is_drawn_over_the_one_before_and_taken_away() -> None:
    stream = io.StringIO()
    counts = bar(stream, [0.0])
    counts.on_bytes(1000)
    counts.draw()
    counts.on_bytes(24)
    counts.draw()
    counts.clear()
    assert stream.getvalue() == "\r1000 B  0 B/s\r1.0 KiB  0 B/s\r" + " " * 14 + "\r"


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and sets *drawn* when it is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.drawn.set()
        return super().write(text)


@pytest.mark.parametrize(
    ("told", "is_drawn"), [(Invocation(), True), (Invocation(json=True), False), (Invocation(quiet=True), False)]
)
def test_a_terminal_gets_a_line_unless_told_otherwise(
    told: Invocation, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with click.Context(click.Command("x"), obj=told), progress() as counts:
        counts.on_bytes(1)
        assert not is_drawn or terminal.drawn.wait(30)
    assert terminal.getvalue().startswith("\r1 B ") == is_drawn
    assert terminal.getvalue().endswith(" \r") == is_drawn
    assert "progress" not in [thread.name for thread in threading.enumerate()]


def test_nothing_is_drawn_without_a_terminal() -> None:
    counts = bar(None, [0.0])
    counts.draw()
    counts.clear()
