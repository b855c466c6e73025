"""The line of progress."""

from __future__ import annotations

import io

from dvfs.cli.progress import Bar


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


def test_nothing_is_drawn_without_a_terminal() -> None:
    counts = bar(None, [0.0])
    counts.draw()
    counts.clear()
