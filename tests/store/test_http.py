"""Reading from http servers, good ones and others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from dvfs.store.backend import get_if
from dvfs.store.errors import AccessDenied, Conflict, DvfsError, NotFound, ReadOnly, Throttled, Unavailable, Unsupported
from dvfs.store.http import HttpBackend, HttpOptions
from tests.http_server import MODIFIED, HttpServer, Request

DATA = bytes(range(256)) * 8


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as running:
        yield running


@pytest.fixture
def backend() -> Iterator[HttpBackend]:
    with closing(HttpBackend(HttpOptions(connect_timeout=5, read_timeout=5))) as opened:
        yield opened


def test_a_range_is_read_under_the_pin(server: HttpServer, backend: HttpBackend) -> None:
    url = server.put("/a", DATA)
    head = backend.head(url)
    etag = server.objects["/a"].etag
    assert (head.key, head.etag, head.size) == (url, f"{etag}, {len(DATA)} bytes", len(DATA))
    assert backend.get(url).data == DATA
    blob = get_if(backend, url, 3, 5, head.etag)
    assert (blob.data, blob.etag) == (DATA[3:8], head.etag)
    asked = server.requests[-1].headers
    assert (asked["if-match"], asked["range"], asked["accept-encoding"]) == (etag, "bytes=3-7", "identity")
    assert get_if(backend, url, len(DATA) - 2, 10, head.etag).data == DATA[-2:]


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "no quotes"])
def test_without_a_strong_etag_the_time_is_the_pin(server: HttpServer, backend: HttpBackend, etag: str | None) -> None:
    url = server.put("/a", DATA, etag=etag, modified=MODIFIED)
    head = backend.head(url)
    assert head.etag == f"modified {MODIFIED}, {len(DATA)} bytes"
    assert get_if(backend, url, 0, 4, head.etag).data == DATA[:4]
    assert server.requests[-1].headers["if-unmodified-since"] == MODIFIED
    server.put("/a", DATA, etag=etag, modified=MODIFIED.replace("2015", "2016"))
    with pytest.raises(Conflict):
        get_if(backend, url, 0, 4, head.etag)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_either_there_is_no_pin(server: HttpServer, backend: HttpBackend, etag: str | None) -> None:
    url = server.put("/a", DATA, etag=etag)
    with pytest.raises(Unsupported, match="neither a strong ETag nor a Last-Modified") as caught:
        backend.head(url)
    assert caught.value.hint


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_other_bytes_never_come(server: HttpServer, backend: HttpBackend, ranges: bool, conditions: bool) -> None:
    """Also of a server that heeds neither Range nor If-Match."""
    url = server.put("/a", DATA, ranges=ranges, conditions=conditions)
    pin = backend.head(url).etag
    assert get_if(backend, url, 300, 7, pin).data == DATA[300:307]
    server.put("/a", DATA[::-1], ranges=ranges, conditions=conditions)
    with pytest.raises(Conflict):
        get_if(backend, url, 300, 7, pin)
    server.put("/a", DATA, ranges=ranges, conditions=conditions)
    assert get_if(backend, url, 300, 7, pin).data == DATA[300:307]


def test_the_length_counts_with_the_time(server: HttpServer, backend: HttpBackend) -> None:
    """Appended to within the second that the time tells, or shortened."""
    url = server.put("/a", DATA, etag=None, modified=MODIFIED)
    pin = backend.head(url).etag
    for data in (DATA + b"x", DATA[:2000]):
        server.put("/a", data, etag=None, modified=MODIFIED)
        with pytest.raises(Conflict):
            get_if(backend, url, 0, 10, pin)


def test_a_range_behind_the_end_is_a_conflict(server: HttpServer, backend: HttpBackend) -> None:
    url = server.put("/a", DATA, etag='"same"', conditions=False)
    pin = backend.head(url).etag
    server.put("/a", b"short", etag='"same"', conditions=False)
    with pytest.raises(Conflict):
        get_if(backend, url, 100, 10, pin)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_short_body_is_no_answer(server: HttpServer, backend: HttpBackend, ranges: bool) -> None:
    url = server.put("/a", DATA, ranges=ranges, cut=3)
    with pytest.raises(Unavailable):
        backend.get(url, 0, len(DATA))
    server.objects["/a"].cut = 0
    assert backend.get(url, 0, len(DATA)).data == DATA


def test_a_large_object_without_ranges_is_refused(
    server: HttpServer, backend: HttpBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvfs.store.http._MOST_SKIPPED_BYTES", 1000)
    url = server.put("/a", DATA, ranges=False)
    assert backend.get(url, 990, 10).data == DATA[990:1000]
    with pytest.raises(Unsupported, match="sends no ranges") as caught:
        backend.get(url, 990, 11)
    assert caught.value.hint


def test_redirects_are_followed_to_http_alone(server: HttpServer, backend: HttpBackend) -> None:
    with HttpServer() as other:
        other.put("/there", DATA)
        url = server.put("/a", b"", location=f"{other.url}/there")
        server.put("/b", b"", location="a")
        pin = backend.head(url).etag
        assert get_if(backend, f"{server.url}/b", 1, 3, pin).data == DATA[1:4]
        assert other.requests[-1].headers["if-match"] == other.objects["/there"].etag
        assert other.requests[-1].headers["range"] == "bytes=1-3"
    server.put("/loop", b"", location="/loop")
    server.put("/out", b"", location="file:///etc/passwd")
    for path in ("/loop", "/out"):
        with pytest.raises(Unavailable):
            backend.get(server.url + path)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotFound),
        (410, NotFound),
        (401, AccessDenied),
        (403, AccessDenied),
        (405, AccessDenied),
        (429, Throttled),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_what_a_server_says_is_an_error_of_ours(
    server: HttpServer, backend: HttpBackend, status: int, error: type[DvfsError]
) -> None:
    server.statuses["/a"] = status
    for ask in (backend.head, backend.get):
        with pytest.raises(error, match=f"/a: the server says {status}"):
            ask(f"{server.url}/a")


def test_a_server_that_is_gone_and_back(server: HttpServer, backend: HttpBackend) -> None:
    url = server.put("/a", DATA)
    assert backend.get(url).data == DATA
    server.stop()
    with pytest.raises(Unavailable):
        backend.get(url)
    server.start_again()
    assert backend.get(url).data == DATA


def test_an_answer_of_another_range_is_refused(server: HttpServer, backend: HttpBackend) -> None:
    url = server.put("/a", DATA)

    def shift(request: Request) -> None:
        request.headers["range"] = "bytes=5-9"

    server.before = shift
    with pytest.raises(Unavailable, match="another range"):
        backend.get(url, 1, 5)


def test_nothing_is_written_or_listed(server: HttpServer, backend: HttpBackend) -> None:
    url = f"{server.url}/a"
    for call in (
        lambda: backend.put_if_absent(url, b""),
        lambda: backend.replace_if(url, b"", "x"),
        lambda: backend.delete(url),
    ):
        with pytest.raises(ReadOnly):
            call()
    with pytest.raises(Unsupported):
        backend.list(url)
    assert server.requests == []
