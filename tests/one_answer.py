"""A server that always says the same, byte for byte: what no real server does when it is asked to."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class OneAnswer:
    """A loopback server that reads a request, sends *answer* and closes the connection. `requests`: what came."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                self.requests.append(_request(connection))
                connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def answering(answer: bytes) -> Iterator[OneAnswer]:
    """Run a server that sends *answer*, for the time of a `with`."""
    server = OneAnswer(answer)
    try:
        yield server
    finally:
        server.close()


def http(status: int, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return an answer of HTTP with these *headers*, and the length of the *body* unless they tell another."""
    told = {"Content-Length": str(len(body)), "Connection": "close"} | dict(headers)
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status} Of A Test\r\n{lines}\r\n".encode() + body


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    length = _LENGTH.search(data)
    end = data.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
    parts = [data]
    left = end - len(data)
    while left > 0 and (more := connection.recv(65536)):
        parts.append(more)
        left -= len(more)
    return b"".join(parts)
