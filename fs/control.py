"""The control sockets of a mount, from the side of who asks: requests and answers, a line of JSON each.

Each mount has one in a folder of its own, a writable one another in the overlay's folder; only their user can enter
these. A path of any length is reached through the folder's descriptor: a socket's own may have 107 bytes only.
Who answers is `control_server`.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvfs.store.errors import Unavailable, error_from

SOCKET = "control"


class Control:
    """A connection to the mount that answers at the socket in *folder*. Raises Unavailable when there is none.

    *timeout_seconds*: how long each answer may take, None for as long as it takes.
    """

    def __init__(self, folder: Path, *, timeout_seconds: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        self._timeout_seconds = timeout_seconds
        try:
            with short_path(folder) as short:
                self._socket.connect(short)
        except OSError as exc:
            self._socket.close()
            raise Unavailable(f"no mount answers at {folder / SOCKET}") from exc
        self._file = self._socket.makefile("rb")

    def call(self, name: str, /, **fields: object) -> dict[str, Any]:
        """Return the answer to the request *name*. Raises what the mount met, Unavailable when it is gone.

        After an answer that took too long the connection cannot be used any more.
        """
        try:
            self._socket.sendall(json.dumps({"call": name, **fields}).encode() + b"\n")
            line = self._file.readline()
        except TimeoutError as exc:
            raise Unavailable(
                f"the mount does not answer within {self._timeout_seconds:g} s", hint="its log says what it is at"
            ) from exc
        except OSError as exc:
            raise Unavailable(f"the mount does not answer: {exc.strerror}") from exc
        if not line:
            raise Unavailable("the mount ended before it answered")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise error_from(answer["error"])
        return answer

    def wait_end(self, timeout_seconds: float) -> bool:
        """Wait until the mount ends the connection; return False when *timeout_seconds* went by before."""
        return bool(select.select([self._socket], [], [], timeout_seconds)[0])

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._socket.close()


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Return a short path of the socket in *folder*, good until the `with` block ends."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)
