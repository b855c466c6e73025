"""Log lines that are said once for each cause, however often the cause is met."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable

_MAX_CAUSES = 4096


class LogOnce:
    """A logger that remembers what it said. Thread-safe.

    It remembers a bounded number of causes; beyond it the oldest may be said again.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[Hashable, None] = {}
        self._lock = threading.Lock()

    def warning(self, cause: Hashable, message: str, *args: object) -> None:
        """Log *message* as a warning unless *cause* was logged before."""
        with self._lock:
            if cause in self._said:
                return
            if len(self._said) >= _MAX_CAUSES:
                del self._said[next(iter(self._said))]
            self._said[cause] = None
        self._logger.warning(message, *args)

    def forget(self, cause: Hashable) -> None:
        """Let *cause* be logged again when it comes back."""
        if self._said:
            with self._lock:
                self._said.pop(cause, None)
