"""Google Cloud Storage: what goes out, answers as they come back, faults."""

from __future__ import annotations

import base64
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dvfs.store.backend import Backend
from dvfs.store.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    DvfsError,
    InvalidInput,
    NotFound,
    Throttled,
    Unavailable,
    Unsupported,
)
from dvfs.store.gcs import GcsBackend, GcsOptions
from dvfs.store.retry import RetryPolicy
from dvfs.store.url import BackendOptions, open_backend
from tests.fake_gcs import GcsServer
from tests.one_answer import OneAnswer, answering, http
from tests.store.noise import noise

RECORD = "datasets/0123.json"
ONCE = RetryPolicy(attempts=1)
X_CRC32C = base64.b64encode(google_crc32c.value(b"x").to_bytes(4, "big")).decode()
WRITTEN = {"generation": "7", "size": "1", "crc32c": X_CRC32C}

OPERATIONS: dict[str, Callable[[Backend], object]] = {
    "get": lambda backend: backend.get(RECORD),
    "head": lambda backend: backend.head(RECORD),
    "list": lambda backend: list(backend.list("datasets/")),
    "put": lambda backend: backend.put_if_absent(RECORD, b"x"),
    "replace": lambda backend: backend.replace_if(RECORD, b"x", "6"),
    "delete": lambda backend: backend.delete(RECORD),
}


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[GcsBackend, OneAnswer]]]:
    """Makes a backend on a server that always gives the same answer."""
    opened: list[tuple[GcsBackend, OneAnswer]] = []

    def make(answer: bytes, options: GcsOptions | None = None) -> tuple[GcsBackend, OneAnswer]:
        server = OneAnswer(answer)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        opened.append((GcsBackend("bucket", "p", options), server))
        return opened[-1]

    yield make
    for backend, server in opened:
        backend.close()
        server.close()


def good(operation: str) -> bytes:
    """Return what a server says to an *operation* that worked."""
    if operation == "get":
        return http(200, {"X-Goog-Generation": "7"}, b"x")
    return http(204, {}) if operation == "delete" else http(200, {}, json.dumps(WRITTEN).encode())


def asked(server: OneAnswer) -> tuple[str, str, dict[str, list[str]], bytes]:
    """Return method, path, query and body of the only request."""
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    method, target, _version = head.partition(b"\r\n")[0].decode().split(" ")
    url = urlsplit(target)
    return method, url.path, parse_qs(url.query), body


# What goes out


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_is_one_request(spoken: Callable[..., tuple[GcsBackend, OneAnswer]], operation: str) -> None:
    backend, server = spoken(good(operation))
    OPERATIONS[operation](backend)
    _method, path, query, _body = asked(server)
    assert path.startswith(("/storage/v1/b/bucket/o", "/upload/storage/v1/b/bucket/o"))
    assert {"userProject", "kmsKeyName"}.isdisjoint(query)
    assert b"authorization:" not in server.requests[0].lower()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_pays_is_told_always(spoken: Callable[..., tuple[GcsBackend, OneAnswer]], operation: str) -> None:
    backend, server = spoken(good(operation), GcsOptions(user_project="payer"))
    OPERATIONS[operation](backend)
    assert asked(server)[2]["userProject"] == ["payer"]


@pytest.mark.parametrize(("operation", "generation"), [("put", "0"), ("replace", "6")])
def test_writes_are_conditional_and_tell_their_crc(
    spoken: Callable[..., tuple[GcsBackend, OneAnswer]], operation: str, generation: str
) -> None:
    backend, server = spoken(good(operation), GcsOptions(kms_key_name="projects/p/key"))
    assert OPERATIONS[operation](backend) == "7"
    method, _path, query, body = asked(server)
    assert (method, query["ifGenerationMatch"], query["uploadType"]) == ("POST", [generation], ["multipart"])
    assert query["kmsKeyName"] == ["projects/p/key"]
    told = json.loads(body.split(b"\r\n\r\n")[1].partition(b"\r\n")[0])
    assert told == {"name": f"p/{RECORD}", "crc32c": X_CRC32C}
    assert b"\r\n\r\nx\r\n--" in body


def test_a_pack_is_one_request_too(spoken: Callable[..., tuple[GcsBackend, OneAnswer]]) -> None:
    data = noise(20 << 20)
    crc = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    written = {"generation": "7", "size": str(len(data)), "crc32c": crc}
    backend, server = spoken(http(200, {}, json.dumps(written).encode()))
    backend.put_if_absent("packs/00/aa", data)
    assert data in asked(server)[3]


def test_names_are_escaped_once(spoken: Callable[..., tuple[GcsBackend, OneAnswer]]) -> None:
    backend, server = spoken(good("head"))
    backend.head("names/a%20b/~x/1.0.0")
    path = asked(server)[1]
    assert path.count("/") == 6
    assert unquote(path) == "/storage/v1/b/bucket/o/p/names/a%20b/~x/1.0.0"


@pytest.mark.parametrize("etag", ["0", "00", "", "0x1", "-1", "e"])
def test_what_is_no_generation_matches_nothing(spoken: Callable[..., tuple[GcsBackend, OneAnswer]], etag: str) -> None:
    backend, server = spoken(good("replace"))
    with pytest.raises(Conflict):
        backend.replace_if(RECORD, b"x", etag)
    assert server.requests == []


# What comes back


def error(status: int, message: str, reason: str = "") -> bytes:
    told = {"error": {"code": status, "message": message, "errors": [{"reason": reason}]}}
    return http(status, {"Content-Type": "application/json"}, json.dumps(told).encode())


NO_BUCKET = "The specified bucket does not exist."
NO_OBJECT = "No such object: bucket/p/datasets/0123.json"


@pytest.mark.parametrize(
    ("answer", "operation", "kind"),
    [
        (error(412, "At least one of the pre-conditions", "conditionNotMet"), "put", AlreadyExists),
        (error(412, "At least one of the pre-conditions", "conditionNotMet"), "replace", Conflict),
        (error(404, NO_OBJECT, "notFound"), "head", NotFound),
        (http(404, {}, NO_OBJECT.encode()), "get", NotFound),
        (http(404, {}, NO_BUCKET.encode()), "get", NotFound),
        (error(404, NO_BUCKET, "notFound"), "list", NotFound),
        (error(404, NO_BUCKET, "notFound"), "put", NotFound),
        (error(404, NO_BUCKET, "notFound"), "replace", NotFound),
        (error(404, NO_BUCKET, "notFound"), "delete", NotFound),
        (error(401, "Invalid Credentials", "authError"), "get", AccessDenied),
        (error(403, "anonymous caller does not have storage.objects.get access", "forbidden"), "get", AccessDenied),
        (error(403, "Rate Limit Exceeded", "rateLimitExceeded"), "put", Throttled),
        (error(403, "Rate Limit Exceeded", "userRateLimitExceeded"), "list", Throttled),
        (error(409, "conflict", "conflict"), "put", Unavailable),
        (error(429, "exceeded the rate limit for object mutation operations", "rateLimitExceeded"), "put", Throttled),
        (error(408, "timeout"), "put", Unavailable),
        (error(500, "Internal", "backendError"), "get", Unavailable),
        (http(502, {}, b"<html>"), "list", Unavailable),
        (error(503, "Service Unavailable", "backendError"), "replace", Unavailable),
        (
            error(400, "Bucket is a requester pays bucket but no user project provided.", "required"),
            "get",
            InvalidInput,
        ),
        (http(200, {}, b"{}"), "head", Unavailable),
        (http(200, {}, b"<html>"), "list", Unavailable),
        (http(200, {}, b"{}"), "put", Unavailable),
        (http(200, {}, b"no generation"), "get", Unavailable),
    ],
)
def test_answers(
    spoken: Callable[..., tuple[GcsBackend, OneAnswer]], answer: bytes, operation: str, kind: type[DvfsError]
) -> None:
    backend, server = spoken(answer)
    with pytest.raises(DvfsError) as caught:
        OPERATIONS[operation](backend)
    assert type(caught.value) is kind
    assert "gs://bucket/p/datasets/" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1, "a library below repeats by itself"
    if NO_BUCKET.encode() in answer:
        assert "there is no bucket bucket" in str(caught.value)
    if kind is AccessDenied or NO_BUCKET.encode() in answer:
        assert caught.value.hint


def test_deleting_what_is_not_there_is_no_error(spoken: Callable[..., tuple[GcsBackend, OneAnswer]]) -> None:
    backend, server = spoken(error(404, NO_OBJECT, "notFound"))
    backend.delete(RECORD)
    assert len(server.requests) == 1


GENERATION = {"X-Goog-Generation": "7"}


@pytest.mark.parametrize(
    "answer",
    [
        http(200, GENERATION | {"Content-Length": "10"}, b"0123"),
        http(206, GENERATION | {"Content-Range": "bytes 2-9/10", "Content-Length": "8"}, b"2"),
        http(206, GENERATION | {"Content-Range": "bytes 2-4/10"}, b"234"),
        http(206, GENERATION | {"Content-Range": "bytes 0-7/10"}, b"01234567"),
        http(206, GENERATION, b"23456789"),
        http(200, GENERATION | {"X-Goog-Hash": f"crc32c={X_CRC32C},md5=x"}, b"y"),
        b"HTTP/1.1 200 OK\r\nX-Goog-Generation: 7\r\n\r\n0123",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
    ],
)
def test_a_body_that_is_cut_short_or_damaged_is_unavailable(
    spoken: Callable[..., tuple[GcsBackend, OneAnswer]], answer: bytes
) -> None:
    backend, server = spoken(answer)
    with pytest.raises(Unavailable) as caught:
        backend.get(RECORD, 2)
    assert RECORD in str(caught.value)
    assert len(server.requests) == 1


def test_a_server_that_knows_no_ranges(spoken: Callable[..., tuple[GcsBackend, OneAnswer]]) -> None:
    backend, _server = spoken(http(200, GENERATION, b"0123456789"))
    assert backend.get(RECORD, 3, 4).data == b"3456"
    assert backend.get(RECORD, 8).data == b"89"


@pytest.mark.parametrize("stored", [WRITTEN | {"size": "2"}, WRITTEN | {"crc32c": "AAAAAA=="}])
def test_what_was_stored_otherwise_is_no_success(
    spoken: Callable[..., tuple[GcsBackend, OneAnswer]], stored: dict[str, str]
) -> None:
    backend, _server = spoken(http(200, {}, json.dumps(stored).encode()))
    with pytest.raises(Unavailable):
        backend.put_if_absent(RECORD, b"x")


# Credentials


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(Unsupported) as caught:
        open_backend("gs://bucket/p")
    assert "google-cloud-storage" in str(caught.value)
    assert caught.value.hint == "pip install 'dvfs[gcs]'"


def test_without_credentials() -> None:
    with pytest.raises(AccessDenied) as caught:
        open_backend("gs://bucket/p")
    assert "gcloud auth application-default login" in str(caught.value.hint)


@pytest.fixture
def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the credentials of a service account that gets its tokens from a URL."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def use(token_url: str) -> None:
        told = {
            "type": "service_account",
            "client_email": "someone@p.iam.gserviceaccount.com",
            "private_key": key.private_bytes(*formats).decode(),
            "token_uri": token_url,
        }
        (tmp_path / "key.json").write_text(json.dumps(told))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))

    return use


def test_a_token_is_fetched_and_sent_to_an_endpoint_of_ones_own(service_account: Callable[[str], None]) -> None:
    token = json.dumps({"access_token": "the-token", "expires_in": 3600, "token_type": "Bearer"}).encode()
    with answering(http(200, {"Content-Type": "application/json"}, token)) as tokens, answering(good("get")) as server:
        service_account(tokens.endpoint)
        backend = GcsBackend("bucket", "p", GcsOptions(endpoint_url=server.endpoint + "/"))
        assert backend.get(RECORD).data == b"x"
        assert b"authorization: bearer the-token" in server.requests[0].lower()
        backend.close()


def test_tokens_that_are_refused_are_a_denial(service_account: Callable[[str], None]) -> None:
    refused = http(400, {"Content-Type": "application/json"}, b'{"error": "invalid_grant"}')
    with answering(refused) as tokens:
        service_account(tokens.endpoint)
        backend = GcsBackend("bucket", "p")
        with pytest.raises(AccessDenied) as caught:
            backend.get(RECORD)
        assert "invalid_grant" in str(caught.value)
        assert caught.value.hint
        backend.close()


def test_a_token_server_out_of_reach_is_unavailable(service_account: Callable[[str], None]) -> None:
    service_account("http://127.0.0.1:1")
    backend = GcsBackend("bucket", "p")
    with pytest.raises(Unavailable) as caught:
        backend.get(RECORD)
    assert not isinstance(caught.value, AccessDenied)
    backend.close()


def test_a_broken_file_of_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(AccessDenied) as caught:
        GcsBackend("bucket", "p")
    assert "key.json" in str(caught.value)


# With a server


def test_listing_pages(gcs_server: GcsServer, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = GcsBackend(gcs_server.bucket, gcs_url.rpartition("/")[2], GcsOptions(list_page=3))
    keys = [f"names/p{number % 2}{'-x' * (number % 3)}/n/{number}" for number in range(11)]
    for key in keys:
        backend.put_if_absent(key, b"x")
    pages: list[object] = []
    send = backend._session.send

    def counted(request: object, **more: object) -> object:
        pages.append(request)
        return send(request, **more)

    monkeypatch.setattr(backend._session, "send", counted)
    assert [item.key for item in backend.list("names/")] == sorted(keys)
    assert len(pages) == 4
    backend.close()


@pytest.mark.usefixtures("gcs_url")
def test_a_missing_bucket() -> None:
    backend = open_backend("gs://no-such-bucket-here/p")
    for call in (lambda: list(backend.list("")), lambda: backend.put_if_absent(RECORD, b"x")):
        with pytest.raises(NotFound) as caught:
            call()
        assert "there is no bucket no-such-bucket-here" in str(caught.value)
        assert caught.value.hint
    with pytest.raises(NotFound):
        backend.get(RECORD)
    backend.close()


def test_a_server_that_is_gone_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = GcsServer(tmp_path)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
    options = BackendOptions(gcs=GcsOptions(connect_timeout=0.3, read_timeout=0.3))
    backend = open_backend(f"gs://{server.bucket}/gone", options, policy=ONCE)
    with pytest.raises(Unavailable) as caught:
        backend.get(RECORD)
    assert "refused" in str(caught.value)
    server.start()
    try:
        backend.put_if_absent(RECORD, b"x")
        server.pause()
        for call in (lambda: backend.get(RECORD), lambda: backend.replace_if(RECORD, b"y", "1")):
            with pytest.raises(Unavailable):
                call()
        server.resume()
        assert backend.get(RECORD).data == b"x"
    finally:
        backend.close()
        server.stop()


def test_a_server_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        backend = GcsBackend("bucket", "p", GcsOptions(connect_timeout=0.3, read_timeout=0.3))
        with pytest.raises(Unavailable):
            backend.put_if_absent("packs/00/aa", noise(20 << 20))
        backend.close()
