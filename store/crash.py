"""Named points at which a test may kill the process, as a collaborator of the code that has them.

The points are named `<area>:<moment>`; the docstring of the class that takes a `CrashPoint` lists its own.
"""

from __future__ import annotations

from collections.abc import Callable

CrashPoint = Callable[[str], None]
"""Called with the name of each point that is passed."""


def no_crash(point: str) -> None:
    """Pass *point*."""
