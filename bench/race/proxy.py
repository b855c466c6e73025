"""A proxy before an S3 server: it adds latency to each request, and counts requests and bytes.

It forwards bytes as they come, both ways. Of what clients send it reads heads and lengths, to know where a request
begins: its first byte is held back for the delay, what follows it streams. Answers are not looked into. A connection
to the server is opened for each one of a client, without delay.

As a program it takes orders on stdin, a line each, and ends when stdin does:

    python -m bench.race.proxy HOST PORT        prints its own port first
    delay SECONDS                               prints {}
    counts                                      prints {"requests": …, "sent": …, "fetched": …}
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from bench.machine import ROOT, environment
from bench.programs import Failed, usage
from bench.race.counts import Traffic, when_quiet

MOST_HELD_BYTES = 8 * 1024 * 1024
"""A client is not read further while so much of it waits."""
MOST_HEAD_BYTES = 64 * 1024
SOCKET_BYTES = 256 * 1024
"""Of an answer that its client no longer wants, not much more than this is fetched by anyone and counts."""
_END_SECONDS = 10.0
_QUIET_SECONDS = 1.0


class Requests:
    """Finds the requests in what one connection of a client sends. Raises ValueError where it is not HTTP/1."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._body_left = 0
        self._is_chunked = False

    def split(self, data: bytes) -> Iterator[tuple[bool, bytes]]:
        """Yield pieces of all sent so far, in order: whether a request begins with it, and its bytes."""
        self._waiting += data
        while self._waiting:
            if self._body_left:
                yield False, self._take(min(self._body_left, len(self._waiting)), of_body=True)
            elif self._is_chunked:
                size = self._line_end()
                if size is None:
                    return
                length = int(self._waiting[: size - 2].split(b";")[0], 16) if size > 2 else -1
                if length == 0:
                    # No trailers: then an empty line ends the body.
                    if len(self._waiting) < size + 2:
                        return
                    self._is_chunked = False
                    yield False, self._take(size + 2)
                else:
                    self._body_left = length + 2 if length > 0 else 0
                    yield False, self._take(size)
            else:
                end = self._waiting.find(b"\r\n\r\n")
                if end < 0:
                    if len(self._waiting) > MOST_HEAD_BYTES:
                        raise ValueError("a head of a request has no end")
                    return
                self._read_head(bytes(self._waiting[:end]))
                yield True, self._take(end + 4)

    def _read_head(self, head: bytes) -> None:
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        self._is_chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        self._body_left = 0 if self._is_chunked else int(fields.get(b"content-length", b"0"))

    def _line_end(self) -> int | None:
        end = self._waiting.find(b"\r\n")
        return None if end < 0 else end + 2

    def _take(self, size: int, *, of_body: bool = False) -> bytes:
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        if of_body:
            self._body_left -= size
        return taken


class Server:
    """The proxy itself, in one event loop; *delay* in seconds holds for requests that begin from now on."""

    def __init__(self, host: str, port: int) -> None:
        self.delay = 0.0
        self.requests = self.sent = self.fetched = 0
        self._target = (host, port)
        self._connecting: set[asyncio.Task[None]] = set()

    async def listen(self) -> int:
        """Take connections on a free port of loopback; return it."""
        server = await asyncio.get_running_loop().create_server(lambda: _Client(self), "127.0.0.1", 0, backlog=1024)
        return int(server.sockets[0].getsockname()[1])

    def connect(self, client: _Client) -> None:
        """Connect *client* to the server, and end it where that fails."""
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: _Client) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Upstream(self, client), *self._target)
        except OSError:
            client.transport.abort()


class _Client(asyncio.Protocol):
    """One connection of a client. What it sent waits in *_held*, in order, each with the time when it is due."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._requests = Requests()
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._upstream: asyncio.Transport | None = None
        self._upstream_is_full = False
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self._server.connect(self)

    def upstream_made(self, upstream: asyncio.Transport) -> None:
        self._upstream = upstream
        if self.transport.is_closing():
            upstream.abort()
        else:
            self._forward()

    def data_received(self, data: bytes) -> None:
        server = self._server
        server.sent += len(data)
        try:
            for is_start, piece in self._requests.split(data):
                due = 0.0
                if is_start:
                    server.requests += 1
                    due = self._loop.time() + server.delay if server.delay else 0.0
                self._held.append((due, piece))
                self._held_bytes += len(piece)
        except ValueError:
            self.transport.abort()
            return
        self._forward()

    def eof_received(self) -> bool:
        self._has_ended = True
        self._forward()
        return True  # the answer may still come

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._upstream is not None:
            self._upstream.close()

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None and not self._upstream.is_closing():
            self._upstream.resume_reading()

    def upstream_is_full(self, is_full: bool) -> None:
        self._upstream_is_full = is_full
        self._forward()

    def _forward(self) -> None:
        """Send on what is due, and come back when the next is."""
        if self._upstream is None or self._timer is not None:
            return
        now = self._loop.time()
        while self._held and not self._upstream_is_full:
            due, piece = self._held[0]
            if due > now:
                self._timer = self._loop.call_at(due, self._wake)
                break
            self._held.popleft()
            self._held_bytes -= len(piece)
            self._upstream.write(piece)
        if self._has_ended and not self._held and self._upstream.can_write_eof() and not self._upstream.is_closing():
            self._upstream.write_eof()
        elif self._held_bytes > MOST_HELD_BYTES or self._upstream_is_full:
            self.transport.pause_reading()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    def _wake(self) -> None:
        self._timer = None
        self._forward()


class _Upstream(asyncio.Protocol):
    """The connection to the server behind a client."""

    def __init__(self, server: Server, client: _Client) -> None:
        self._server = server
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        self._client.upstream_made(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._server.fetched += len(data)
        self._client.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.transport.close()

    def pause_writing(self) -> None:
        self._client.upstream_is_full(True)

    def resume_writing(self) -> None:
        self._client.upstream_is_full(False)


class Proxy:
    """The program, in a process of its own, before the server at *endpoint* (`http://host:port`). Not thread-safe."""

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.race.proxy", str(target.hostname), str(target.port)],
            cwd=ROOT,
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.endpoint = f"http://127.0.0.1:{self._answer()}"

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it used since it began."""
        return usage(self._process.pid).cpu_seconds

    def set_delay(self, seconds: float) -> None:
        """Hold back requests that begin from now on for *seconds*."""
        self._order(f"delay {seconds}")

    def counts(self) -> Traffic:
        """Return what went through since it began, with all heads."""
        return Traffic(**self._order("counts"))

    def quiet_counts(self, quiet_seconds: float = _QUIET_SECONDS) -> Traffic:
        """Return the counts as soon as nothing went through for *quiet_seconds*. See `when_quiet`."""
        return when_quiet(lambda: (self.counts(), False), quiet_seconds)

    @contextmanager
    def latency(self, seconds: float) -> Iterator[None]:
        """Hold back requests inside for *seconds* each."""
        self.set_delay(seconds)
        try:
            yield
        finally:
            self.set_delay(0.0)

    def stop(self) -> None:
        """End it, and all connections through it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _order(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return cast("dict[str, Any]", self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the proxy ended with {self._process.wait()}")
        return json.loads(line)


async def _serve(host: str, port: int) -> None:
    server = Server(host, port)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print(await server.listen(), flush=True)
    while line := await orders.readline():
        word, *values = line.decode().split()
        if word == "delay":
            server.delay = float(values[0])
            answer: dict[str, int] = {}
        elif word == "counts":
            answer = {"requests": server.requests, "sent": server.sent, "fetched": server.fetched}
        else:
            raise ValueError(f"an unknown order: {word}")
        print(json.dumps(answer), flush=True)


def main() -> None:
    host, port = sys.argv[1:]
    asyncio.run(_serve(host, int(port)))


if __name__ == "__main__":
    main()
