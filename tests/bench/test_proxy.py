"""The proxy of the race, before a real S3 server and before plain HTTP servers."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from bench.race.proxy import MOST_HEAD_BYTES, Proxy, Requests
from tests.seaweed import SeaweedServer

DELAY = 0.2
HEAD_BYTES = 8 * 1024
"""More than heads of a request or an answer take."""


@pytest.fixture
def proxy(server: SeaweedServer) -> Iterator[Proxy]:
    proxy = Proxy(server.endpoint)
    yield proxy
    proxy.stop()


@pytest.fixture
def s3(server: SeaweedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=proxy.endpoint, config=Config(retries={"total_max_attempts": 1}))
    with closing(client):
        yield client


def connection(proxy: Proxy) -> closing[http.client.HTTPConnection]:
    target = urlsplit(proxy.endpoint)
    return closing(http.client.HTTPConnection(str(target.hostname), target.port, timeout=60))


def status_seconds(http_client: http.client.HTTPConnection) -> float:
    """Return how long one answer took; the connection stays open."""
    began = time.monotonic()
    http_client.request("GET", "/")
    http_client.getresponse().read()
    return time.monotonic() - began


@pytest.mark.parametrize("size", [0, 1, 100_000, 12 * 1024 * 1024])
def test_objects_go_through_unchanged_and_are_counted(server: SeaweedServer, proxy: Proxy, s3, size: int) -> None:  # type: ignore[no-untyped-def]
    data = os.urandom(size)
    before = proxy.counts()
    s3.put_object(Bucket=server.bucket, Key="one", Body=data)
    written = proxy.counts() - before
    assert s3.get_object(Bucket=server.bucket, Key="one")["Body"].read() == data
    read = proxy.counts() - before - written

    assert (written.requests, read.requests) == (1, 1)
    assert size < written.sent < size + size // 1000 + HEAD_BYTES  # it may be sent in chunks, with checksums
    assert size < read.fetched < size + HEAD_BYTES
    assert 0 < written.fetched < HEAD_BYTES
    assert 0 < read.sent < HEAD_BYTES


def test_many_at_once_through_many_connections(server: SeaweedServer, proxy: Proxy, s3) -> None:  # type: ignore[no-untyped-def]
    bodies = {f"many-{number}": os.urandom(50_000 + number) for number in range(100)}
    before = proxy.counts()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=server.bucket, Key=key, Body=bodies[key]), bodies))
        got = pool.map(lambda key: s3.get_object(Bucket=server.bucket, Key=key)["Body"].read(), bodies)
        assert [hashlib.sha256(data).digest() for data in got] == [
            hashlib.sha256(data).digest() for data in bodies.values()
        ]
    assert (proxy.counts() - before).requests == 200


def test_each_request_waits_for_the_delay(proxy: Proxy) -> None:
    with connection(proxy) as client:
        assert status_seconds(client) < DELAY
        proxy.set_delay(DELAY)
        assert DELAY <= status_seconds(client) < 2 * DELAY  # on the connection that is there
        assert DELAY <= status_seconds(client) < 2 * DELAY
        proxy.set_delay(0)
        assert status_seconds(client) < DELAY


def test_requests_wait_beside_each_other(proxy: Proxy) -> None:
    proxy.set_delay(DELAY)

    def one(_: int) -> float:
        with connection(proxy) as client:
            return status_seconds(client)

    with ThreadPoolExecutor(16) as pool:
        began = time.monotonic()
        taken = list(pool.map(one, range(16)))
        seconds = time.monotonic() - began
    assert min(taken) >= DELAY
    assert seconds < 4 * DELAY


def test_only_the_first_byte_waits(server: SeaweedServer, proxy: Proxy, s3) -> None:  # type: ignore[no-untyped-def]
    data = os.urandom(32 * 1024 * 1024)
    s3.put_object(Bucket=server.bucket, Key="large", Body=data)
    proxy.set_delay(DELAY)
    began = time.monotonic()
    assert s3.get_object(Bucket=server.bucket, Key="large")["Body"].read() == data
    assert DELAY <= time.monotonic() - began < 10 * DELAY  # it comes in hundreds of pieces


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = Proxy(f"http://127.0.0.1:{unused.getsockname()[1]}")
        try:
            with connection(proxy) as client, pytest.raises((http.client.HTTPException, OSError)):
                status_seconds(client)
        finally:
            proxy.stop()


def test_a_slow_reader_gets_all_and_holds_nobody_up(server: SeaweedServer, proxy: Proxy, s3) -> None:  # type: ignore[no-untyped-def]
    data = os.urandom(32 * 1024 * 1024)
    s3.put_object(Bucket=server.bucket, Key="large", Body=data)
    body = s3.get_object(Bucket=server.bucket, Key="large")["Body"]
    with connection(proxy) as other:
        assert status_seconds(other) < 5
    assert body.read() == data


def test_when_it_ends_so_do_its_connections(server: SeaweedServer) -> None:
    proxy = Proxy(server.endpoint)
    with connection(proxy) as client:
        status_seconds(client)
        ended = threading.Event()

        def wait_for_the_end() -> None:
            assert client.sock is not None
            if client.sock.recv(1) == b"":
                ended.set()

        waiting = threading.Thread(target=wait_for_the_end)
        waiting.start()
        proxy.stop()
        waiting.join(30)
        assert ended.is_set()


# -- where requests begin

PUT = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
GET = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"PUT /c HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n"
CHUNKS = b"3;sign=1\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_requests_are_found_however_they_are_cut(step: int) -> None:
    sent = PUT + b"GET /" + GET + CHUNKED + CHUNKS + GET + PUT + b"hello"
    found = Requests()
    pieces = [piece for at in range(0, len(sent), step) for piece in found.split(sent[at : at + step])]

    assert b"".join(data for _, data in pieces) == sent
    assert [data for is_start, data in pieces if is_start] == [PUT, GET, CHUNKED, GET, PUT]


def test_what_is_not_http_is_refused() -> None:
    with pytest.raises(ValueError, match="has no end"):
        list(Requests().split(b"x" * (MOST_HEAD_BYTES + 1)))


def test_it_ends_with_the_process_that_started_it(server: SeaweedServer) -> None:
    """Its stdin ends then."""
    proxy = Proxy(server.endpoint)
    pid = proxy._process.pid
    proxy.stop()
    assert not Path(f"/proc/{pid}").exists()
