"""The control sockets of a mount: requests and answers, a line of JSON each.

Each mount has one in a folder of its own, a writable one another in the overlay's folder; only their user can enter
these. A path of any length is reached through the folder's descriptor: a socket's own may have 107 bytes only.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from dvfs.store.errors import DvfsError, Internal, Unavailable, described, error_from

_log = logging.getLogger(__name__)

SOCKET = "control"
_MOST_BYTES = 1 << 20

Handler = Callable[..., Awaitable[dict[str, Any]]]


async def serve_control(
    folder: Path, handlers: Mapping[str, Handler], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests at the socket in *folder* by *handlers*, each called with the fields of its request, for good."""
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    with _short(folder) as short:
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await listener.bind(short)
        listener.listen()
    try:
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                connection, _ = await listener.accept()
                nursery.start_soon(_answer_all, trio.SocketStream(connection), handlers)
    finally:
        listener.close()
        path.unlink(missing_ok=True)


async def _answer_all(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    buffer = bytearray()
    try:
        async with stream:
            async for data in stream:
                buffer += data
                while b"\n" in buffer:
                    line, _, rest = buffer.partition(b"\n")
                    buffer = bytearray(rest)
                    await stream.send_all(json.dumps(await _answer(bytes(line), handlers)).encode() + b"\n")
                if len(buffer) > _MOST_BYTES:
                    return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # whoever asked is gone


async def _answer(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        return await handlers[request.pop("call")](**request)
    except DvfsError as exc:
        return {"error": described(exc)}
    except Exception as exc:
        _log.exception("a request at the control socket failed")
        return {"error": described(Internal(f"{type(exc).__name__}: {exc}"))}


class Control:
    """A connection to the mount that answers at the socket in *folder*. Raises Unavailable when there is none.

    *timeout_seconds*: how long each answer may take, None for as long as it takes.
    """

    def __init__(self, folder: Path, *, timeout_seconds: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        self._timeout_seconds = timeout_seconds
        try:
            with _short(folder) as short:
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
def _short(folder: Path) -> Iterator[str]:
    """A short path of the socket in *folder*."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)
