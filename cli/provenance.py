"""Tells a store which run made or read a version, in threads that nobody waits for longer than a moment.

Best effort: what goes wrong (a store out of reach, credentials that may only read) is one line of the log, and harms
nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvfs.cli.origin import creator, origin
from dvfs.store.ids import VersionId

if TYPE_CHECKING:
    from dvfs.store.backend import Backend

_log = logging.getLogger(__name__)

WAIT_SECONDS = 3.0
"""How long a program that ends waits for its notes."""


class Notes:
    """The notes of this run. Thread-safe. *command*: its words, by default `dvfs` with its arguments."""

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command
        self._threads: list[threading.Thread] = []

    def note(self, backend: Backend, version: str, did: str, folder: Path) -> None:
        """Note that this run *did* something with *version*; returns at once, raises nothing.

        *folder*: the working directory of the run, whose git commit is told.
        """
        arguments = (backend, VersionId(version), did, folder, time.time_ns())
        try:
            thread = threading.Thread(target=self._write, args=arguments, name="dvfs-note", daemon=True)
            thread.start()
        except RuntimeError as exc:  # no more threads, or the program ends
            _log.info("not noted beside %s (%s): %s", version, did, exc)
            return
        self._threads.append(thread)

    def wait(self, timeout_seconds: float = WAIT_SECONDS) -> None:
        """Wait until all is written, or *timeout_seconds* are over: the rest is then left to its threads."""
        deadline = time.monotonic() + timeout_seconds
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _log.info("a note of this run was not written in %.0f s", timeout_seconds)
                return

    def _write(self, backend: Backend, version: VersionId, did: str, folder: Path, time_ns: int) -> None:
        from dvfs.store.errors import DvfsError
        from dvfs.store.runs import Run, note

        try:
            note(backend, version, Run(did, time_ns, creator(), origin(self._command, folder)))
        except DvfsError as exc:
            _log.info("not noted beside %s (%s): %s", version, did, exc.message)
        except Exception as exc:  # a backend that is being closed, a user without a name: none of it is worth an error
            _log.info("not noted beside %s (%s): %s: %s", version, did, type(exc).__name__, exc)
