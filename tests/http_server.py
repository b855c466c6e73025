"""An HTTP server for tests, on loopback: objects with ETags and ranges, and ways of being worse than that."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


@dataclass
class Object:
    """What the server has at a path.

    *etag*, *modified*: what it says of it, None for nothing; the default is a strong ETag of the bytes. *location*:
    where it leads to instead. *ranges*, *conditions*: whether it heeds Range, and If-Match and If-Unmodified-Since.
    *cut*: bytes of the body that it keeps back.
    """

    data: bytes = b""
    etag: str | None = ""
    modified: str | None = None
    location: str | None = None
    ranges: bool = True
    conditions: bool = True
    cut: int = 0

    def __post_init__(self) -> None:
        if self.etag == "":
            self.etag = f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'


@dataclass
class Request:
    """What was asked: *method*, *path*, and the headers that matter, in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class HttpServer:
    """A server of *objects*, by path. Use it as a context manager.

    *requests*: all that was asked. *statuses*: paths that have this status instead. *failing*: answer so many requests
    with 503. *before*: called with each request before it is answered.
    """

    objects: dict[str, Object] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    failing: int = 0
    before: Callable[[Request], None] = lambda request: None

    def __enter__(self) -> HttpServer:
        self._start(0)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def put(self, path: str, data: bytes, **words: object) -> str:
        """Have *data* at *path*; return its URL."""
        self.objects[path] = Object(data, **words)  # type: ignore[arg-type]
        return f"{self.url}{path}"

    def asked(self, method: str) -> list[Request]:
        """Return the requests of *method*."""
        return [request for request in self.requests if request.method == method]

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def start_again(self) -> None:
        """Answer at the same port as before."""
        self._start(self._port)

    def _start(self, port: int) -> None:
        handler = type("Handler", (_Handler,), {"shared": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, *words: object) -> None:
        super().__init__(*words)  # type: ignore[arg-type]
        self._open: set[socket.socket] = set()

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.add(request)
        super().process_request(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for kept in self._open:  # a connection that is kept alive would be answered on
            try:
                kept.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has closed it

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no error."""


class _Handler(BaseHTTPRequestHandler):
    shared: HttpServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        shared = self.shared
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(urlsplit(self.path).path), headers)
        shared.requests.append(request)
        shared.before(request)
        if shared.failing:
            shared.failing -= 1
            self._send(503, b"", {})
            return
        found = shared.objects.get(request.path)
        if request.path in shared.statuses:
            self._send(shared.statuses[request.path], b"", {})
            return
        if found is None:
            self._send(404, b"", {})
        elif found.location is not None:
            self._send(302, b"", {"Location": found.location})
        else:
            self._send_object(found, headers)

    def _send_object(self, found: Object, headers: dict[str, str]) -> None:
        told = {"ETag": found.etag, "Last-Modified": found.modified}
        if found.conditions and _is_refused(found, headers):
            self._send(412, b"", told)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked is None or not found.ranges:
            self._send(200, found.data, told, found.cut)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(found.data)) + 1, len(found.data))
        if start >= len(found.data):
            self._send(416, b"", told)
            return
        told["Content-Range"] = f"bytes {start}-{stop - 1}/{len(found.data)}"
        self._send(206, found.data[start:stop], told, found.cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str | None], cut: int = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) - cut])
            self.close_connection = self.close_connection or cut > 0


def _is_refused(found: Object, headers: dict[str, str]) -> bool:
    if "if-match" in headers:
        return headers["if-match"] not in ("*", found.etag)
    return "if-unmodified-since" in headers and headers["if-unmodified-since"] != found.modified
