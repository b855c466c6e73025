"""Waiting for what other threads and processes do: for a condition, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds, half a minute at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_until_no_thread(name: str) -> None:
    """Wait until no thread is called *name*."""
    wait_until(lambda: all(thread.name != name for thread in threading.enumerate()))
