"""A clock that tests own."""

from __future__ import annotations

import threading


class FakeClock:
    """Time that passes only by `sleep` and `advance`. Thread-safe. `sleeps`: what was asked for, in seconds."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self._lock = threading.Lock()
        self._start_ns = now_ns
        self._passed = 0.0
        self.sleeps: list[float] = []

    def now_ns(self) -> int:
        return self._start_ns + int(self.monotonic() * 1e9)

    def monotonic(self) -> float:
        with self._lock:
            return self._passed

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.sleeps.append(seconds)
            self._passed += seconds

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        with self._lock:
            self._passed += seconds
