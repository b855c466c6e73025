"""Seconds of `dvfs --help`, beside those of a Python that does nothing."""

from __future__ import annotations

import sys

from bench.session import Session
from bench.timing import Row


def measure(session: Session) -> None:
    """Add the row of `dvfs --help`; its native contestant is `python -c pass`."""
    session.dvfs.help_seconds()
    taken = session.in_turns(
        dvfs=session.dvfs.help_seconds,
        native=lambda: session.programs.seconds_of([sys.executable, "-c", "pass"]),
    )
    session.add(Row("help", "`dvfs --help` (native: `python -c pass`)", taken["dvfs"], native=taken["native"]))
