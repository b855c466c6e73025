"""Azure Blob Storage: settings, answers as they come back, faults, forks."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dvfs.store.azure import AzureBackend, AzureOptions
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
from dvfs.store.retry import RetryPolicy
from dvfs.store.url import BackendOptions, open_backend
from tests.azurite import KEY, AzureServer
from tests.one_answer import OneAnswer, answering, http
from tests.store.noise import noise

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since Python 3.12, where threads are

RECORD = "datasets/0123.json"
ONCE = RetryPolicy(attempts=1)
CHILD_SECONDS = 20
HEADERS = {"ETag": '"0x1"', "Last-Modified": "Sat, 28 Nov 2026 03:44:21 GMT", "x-ms-request-id": "1"}
NO_PAGE = b"<?xml version='1.0'?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"
DELETED = (
    b"--part\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n"
    b"HTTP/1.1 202 Accepted\r\nx-ms-request-id: 1\r\n\r\n\r\n--part--\r\n"
)

OPERATIONS: dict[str, Callable[[Backend], object]] = {
    "get": lambda backend: backend.get(RECORD),
    "head": lambda backend: backend.head(RECORD),
    "list": lambda backend: list(backend.list("datasets/")),
    "put": lambda backend: backend.put_if_absent(RECORD, b"x"),
    "replace": lambda backend: backend.replace_if(RECORD, b"x", "0x0"),
    "delete": lambda backend: backend.delete(RECORD),
}

Spoken = Callable[..., tuple[AzureBackend, OneAnswer]]


@pytest.fixture
def spoken() -> Iterator[Spoken]:
    """Makes a backend on a server that always gives the same answer."""
    opened: list[tuple[AzureBackend, OneAnswer]] = []

    def make(answer: bytes, **options: float) -> tuple[AzureBackend, OneAnswer]:
        server = OneAnswer(answer)
        told = f"AccountName=account;AccountKey={KEY};BlobEndpoint={server.endpoint}/account"
        backend = AzureBackend("box", "p", AzureOptions(connection_string=told, **options))  # type: ignore[arg-type]
        opened.append((backend, server))
        return opened[-1]

    yield make
    for backend, server in opened:
        backend.close()
        server.close()


def good(operation: str) -> bytes:
    """Return what a server says to an *operation* that worked."""
    if operation in ("put", "replace"):
        return http(201, HEADERS)
    if operation == "delete":
        return http(202, {"Content-Type": "multipart/mixed; boundary=part"}, DELETED)
    return http(200, HEADERS, NO_PAGE if operation == "list" else b"x")


# What goes out


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_is_one_signed_request(spoken: Spoken, operation: str) -> None:
    backend, server = spoken(good(operation))
    OPERATIONS[operation](backend)
    (request,) = server.requests
    assert b"\r\nauthorization: sharedkey account:" in request.lower()
    assert b" /account/box" in request


@pytest.mark.parametrize(("operation", "condition"), [("put", b"if-none-match: *"), ("replace", b'if-match: "0x0"')])
def test_writes_are_conditional(spoken: Spoken, operation: str, condition: bytes) -> None:
    backend, server = spoken(good(operation))
    assert OPERATIONS[operation](backend) == "0x1"
    (request,) = server.requests
    assert b"\r\n" + condition + b"\r\n" in request.lower()


def test_a_pack_is_one_request_too(spoken: Spoken) -> None:
    backend, server = spoken(good("put"))
    backend.put_if_absent("packs/00/aa", data := noise(20 << 20))
    (request,) = server.requests
    assert request.endswith(data)


# Settings


@pytest.mark.parametrize(
    ("connection_string", "options", "environ"),
    [
        ("AccountName=account;AccountKey={key};BlobEndpoint={url}/account", {}, {}),
        ("AccountKey={key};BlobEndpoint={url}/account/;AccountName=other", {"account_name": "account"}, {}),
        (None, {"endpoint_url": "{url}/account"}, {"AZURE_STORAGE_ACCOUNT_NAME": "account"}),
        (None, {"account_name": "account"}, {"AZURE_STORAGE_ENDPOINT": "{url}/account"}),
        ("AccountName=account;AccountKey={key}", {}, {"AZURE_STORAGE_ENDPOINT": "{url}/account"}),
    ],
)
def test_where_settings_come_from(
    connection_string: str | None, options: dict[str, str], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(good("get")) as server:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        for name, value in environ.items():
            monkeypatch.setenv(name, value.format(url=server.endpoint))
        told = {name: value.format(url=server.endpoint) for name, value in options.items()}
        if connection_string is not None:
            told["connection_string"] = connection_string.format(url=server.endpoint, key=KEY)
        backend = AzureBackend("box", "p", AzureOptions(**told))  # type: ignore[arg-type]
        assert backend.get(RECORD).data == b"x"
        assert b"GET /account/box/p/" in server.requests[0]
        assert b"sharedkey account:" in server.requests[0].lower()
        backend.close()


def test_a_signature_of_a_connection_string_is_in_no_message() -> None:
    told = "BlobEndpoint=http://127.0.0.1:1/account;SharedAccessSignature=sv=2021&sig=secret%3D"
    backend = AzureBackend("box", "p", AzureOptions(connection_string=told))
    with pytest.raises(Unavailable) as caught:
        backend.get(RECORD)
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    backend.close()


@pytest.mark.parametrize(
    ("told", "kind", "hint"),
    [
        (None, InvalidInput, "azure.account_name"),
        ("nonsense", InvalidInput, None),
        ("AccountName=a;AccountKey=not base64", AccessDenied, "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_settings_that_cannot_be(told: str | None, kind: type[DvfsError], hint: str | None) -> None:
    with pytest.raises(kind) as caught:
        AzureBackend("box", "p", AzureOptions(connection_string=told))
    assert (hint or "") in str(caught.value.hint)
    assert "not base64" not in str(caught.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore._obstore", None)
    monkeypatch.setattr("dvfs.store.obstore_library._process.core", None)
    with pytest.raises(Unsupported) as caught:
        open_backend("az://box/p")
    assert "obstore" in str(caught.value)
    assert caught.value.hint == "pip install 'dvfs[azure]'"


def test_without_credentials() -> None:
    backend = AzureBackend("box", "p", AzureOptions(account_name="account"))
    for operation in OPERATIONS.values():
        with pytest.raises(AccessDenied) as caught:
            operation(backend)
        assert "AZURE_STORAGE_ACCOUNT_KEY" in str(caught.value.hint)
    backend.close()


# What comes back


def error(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Of a test.\nRequestId:1</Message></Error>"
    return http(status, {"x-ms-error-code": code}, body.encode())


@pytest.mark.parametrize(
    ("answer", "operation", "kind"),
    [
        (error(409, "BlobAlreadyExists"), "put", AlreadyExists),
        (error(412, "ConditionNotMet"), "put", AlreadyExists),
        (error(409, "ContainerBeingDeleted"), "put", Unavailable),
        (error(412, "ConditionNotMet"), "replace", Conflict),
        (error(404, "BlobNotFound"), "replace", Conflict),
        (error(404, "BlobNotFound"), "get", NotFound),
        (http(404, {}), "head", NotFound),
        (error(404, "ContainerNotFound"), "get", NotFound),
        (error(404, "ContainerNotFound"), "list", NotFound),
        (error(404, "ContainerNotFound"), "put", NotFound),
        (error(404, "ContainerNotFound"), "replace", NotFound),
        (error(403, "AuthenticationFailed"), "get", AccessDenied),
        (error(403, "AuthorizationPermissionMismatch"), "put", AccessDenied),
        (error(403, "AuthorizationFailure"), "list", AccessDenied),
        (error(401, "NoAuthenticationInformation"), "get", AccessDenied),
        (http(403, {}), "head", AccessDenied),
        (error(429, "TooManyRequests"), "get", Throttled),
        (error(500, "InternalError"), "get", Unavailable),
        (error(500, "OperationTimedOut"), "put", Unavailable),
        (error(503, "ServerBusy"), "list", Throttled),
        (error(503, "ServerBusy"), "delete", Throttled),
        (error(400, "InvalidHeaderValue"), "put", InvalidInput),
        (http(200, {"x-ms-request-id": "1"}, b"x"), "get", Unavailable),
        (http(200, HEADERS, b"<html>"), "list", Unavailable),
    ],
)
def test_answers(spoken: Spoken, answer: bytes, operation: str, kind: type[DvfsError]) -> None:
    backend, server = spoken(answer)
    with pytest.raises(DvfsError) as caught:
        OPERATIONS[operation](backend)
    assert type(caught.value) is kind
    assert "azure://box/p/datasets/" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1, "obstore repeats by itself"
    if b"ContainerNotFound" in answer:
        assert "there is no container box" in str(caught.value)
    if kind is AccessDenied or b"ContainerNotFound" in answer:
        assert caught.value.hint


def part(text: str, body: bytes, **headers: str) -> bytes:
    return http(206, HEADERS | {"Content-Range": text} | headers, body)


@pytest.mark.parametrize(
    "answer",
    [
        http(200, HEADERS | {"Content-Length": "10"}, b"0123"),
        part("bytes 2-9/10", b"2", **{"Content-Length": "8"}),
        part("bytes 2-4/10", b"234"),
        part("bytes 2-9/10", b"234"),
        part("bytes 0-7/10", b"01234567"),
        http(206, HEADERS, b"23456789"),
        b"HTTP/1.1 206 OK\r\nContent-Le",
        b"",
    ],
)
def test_a_body_that_is_cut_short_is_unavailable(spoken: Spoken, answer: bytes) -> None:
    backend, server = spoken(answer)
    with pytest.raises(Unavailable) as caught:
        backend.get(RECORD, 2)
    assert RECORD in str(caught.value)
    assert len(server.requests) == 1


# With a server


def test_a_prefix_that_ends_within_a_name(azure_backend: AzureBackend) -> None:
    for key in ("datasets/aa1", "datasets/aa2", "datasets/ab1", "datasets-aa", "datasets/aa/below"):
        azure_backend.put_if_absent(key, b"x")
    assert [item.key for item in azure_backend.list("datasets/aa")] == [
        "datasets/aa/below",
        "datasets/aa1",
        "datasets/aa2",
    ]


@pytest.mark.usefixtures("azure_url")
def test_a_missing_container() -> None:
    backend = open_backend("azure://no-such-container/p")
    calls: list[Callable[[], object]] = [
        lambda: backend.get(RECORD),
        lambda: list(backend.list("")),
        lambda: backend.put_if_absent(RECORD, b"x"),
        lambda: backend.delete(RECORD),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            call()
        assert "there is no container no-such-container" in str(caught.value)
        assert caught.value.hint
    backend.close()


def test_a_wrong_key(azure_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    backend = open_backend(azure_url)
    for name, operation in OPERATIONS.items():
        with pytest.raises(AccessDenied) as caught:
            operation(backend)
        assert caught.value.hint, name
        assert "d3Jvbmc" not in str(caught.value)
    backend.close()


def test_the_connection_string_of_the_server(azure_server: AzureServer, azure_url: str) -> None:
    options = BackendOptions(azure=AzureOptions(connection_string=azure_server.connection_string))
    backend = open_backend(azure_url, options)
    backend.put_if_absent(RECORD, b"x")
    assert backend.get(RECORD).data == b"x"
    backend.close()


def test_a_server_that_is_gone_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = AzureServer(tmp_path)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    options = BackendOptions(azure=AzureOptions(connect_timeout=0.5, read_timeout=0.5))
    backend = open_backend(f"azure://{server.bucket}/gone", options, policy=ONCE)
    with pytest.raises(Unavailable) as caught:
        backend.get(RECORD)
    assert "Connection refused" in str(caught.value)
    assert server.endpoint in str(caught.value)
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


# Time


@pytest.mark.usefixtures("azure_url")
def test_a_body_may_be_sent_slowly() -> None:
    """obstore's timeout of an answer begins with the request."""
    backend = AzureBackend("box", "p", AzureOptions(read_timeout=2.0))
    for size, timeout in ((1, "2s"), (1 << 20, "2s"), ((1 << 20) + 1, "10s"), (32 << 20, "2m 10s")):
        assert backend._store_for(size).client_options["read_timeout"] == timeout
    assert len(backend._stores) == 3
    backend.close()


# Forks


def in_child(work: Callable[[], None]) -> None:
    """Run *work* in a child that is forked off just here; it must end well, and soon."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills, whatever the child waits for
            signal.alarm(CHILD_SECONDS)
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_child_and_its_child_have_backends_of_their_own(azure_backend: AzureBackend, azure_url: str) -> None:
    azure_backend.put_if_absent(RECORD, b"x")

    def read() -> None:
        backend = open_backend(azure_url)
        assert backend.get(RECORD).data == b"x"
        with pytest.raises(NotFound):
            backend.get("packs/00/aa")
        with pytest.raises(AlreadyExists):
            backend.put_if_absent(RECORD, b"y")
        backend.close()

    def child() -> None:
        read()
        in_child(read)
        import obstore

        assert obstore.exceptions.BaseError is sys.modules["obstore.exceptions"].BaseError

    in_child(child)
    read()


def test_children_are_forked_while_other_threads_read(azure_backend: AzureBackend, azure_url: str) -> None:
    azure_backend.put_if_absent(RECORD, b"x")
    is_over = threading.Event()

    def read_on() -> None:
        while not is_over.is_set():
            assert azure_backend.get(RECORD).data == b"x"

    def child() -> None:
        backend = open_backend(azure_url)
        assert backend.get(RECORD).data == b"x"

    threads = [threading.Thread(target=read_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            in_child(child)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
