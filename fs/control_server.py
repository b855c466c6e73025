"""Answers at the control socket of a mount. See `control`."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from dvfs.fs.control import SOCKET, short_path
from dvfs.store.errors import DvfsError, Internal, described

_log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20

Handler = Callable[..., Awaitable[dict[str, Any]]]


async def serve_control(
    folder: Path, handlers: Mapping[str, Handler], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests at the socket in *folder* by *handlers*, each called with the fields of its request, for good."""
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    with short_path(folder) as short:
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
