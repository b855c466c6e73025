"""S3: settings as they go out on signed requests, answers as they come back."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import botocore.session
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.loaders import create_loader

from dvfs.store.backend import Backend
from dvfs.store.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    DvfsError,
    InvalidInput,
    NoSpace,
    NotFound,
    Throttled,
    Unavailable,
)
from dvfs.store.retry import Retrying, RetryPolicy
from dvfs.store.s3 import S3Backend, S3Options
from dvfs.store.url import BackendOptions, open_backend
from tests.faulty import Faulty
from tests.one_answer import OneAnswer, answering
from tests.seaweed import SeaweedServer
from tests.store.noise import noise

RECORD = "datasets/0123.json"
ONCE = RetryPolicy(attempts=1)


@pytest.fixture(autouse=True, scope="module")
def _models_are_parsed_once() -> Iterator[None]:
    """Each client parses botocore's description of S3 anew, which takes longer than most tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(create_loader))
        yield


class _Body(BytesIO):
    def stream(self, **kwargs: Any) -> Iterator[bytes]:
        yield self.read()


class Wire:
    """Takes the signed requests of a backend as they would go out, and answers in the place of a server."""

    def __init__(self, backend: S3Backend, status: int = 200, code: str = "") -> None:
        self.requests: list[AWSPreparedRequest] = []
        self._status = status
        self._body = f"<Error><Code>{code}</Code><Message>of a test</Message></Error>".encode() if code else b""
        # An answer of the handler takes the place of the server's, which the stubs do not know.
        backend._client.meta.events.register("before-send.s3", cast("Callable[..., None]", self._answer))

    def _answer(self, request: AWSPreparedRequest, **kwargs: object) -> AWSResponse:
        self.requests.append(request)
        body = b"<ListBucketResult/>" if "list-type" in request.url and not self._body else self._body
        headers = HTTPHeaders()
        headers["ETag"] = '"e"'
        headers["Content-Length"] = str(len(body))
        return AWSResponse(request.url, self._status, headers, _Body(body))

    def header(self, name: str) -> str | None:
        """Return the header *name* of the only request; it must be covered by the signature."""
        (request,) = self.requests
        value = {key.lower(): value for key, value in request.headers.items()}.get(name.lower())
        if value is None:
            return None
        assert name.lower() in self.signed_headers(request)
        return value.decode() if isinstance(value, bytes) else str(value)

    @staticmethod
    def signed_headers(request: AWSPreparedRequest) -> list[str]:
        match = re.search(r"SignedHeaders=([^,]+)", _authorization(request))
        assert match
        return match[1].split(";")


def _authorization(request: AWSPreparedRequest) -> str:
    value = request.headers["Authorization"]
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment, and a region."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "envkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "envsecret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


OPERATIONS: dict[str, Callable[[Backend], object]] = {
    "get": lambda backend: backend.get(RECORD),
    "head": lambda backend: backend.head(RECORD),
    "list": lambda backend: list(backend.list("datasets/")),
    "put": lambda backend: backend.put_if_absent(RECORD, b"x"),
    "replace": lambda backend: backend.replace_if(RECORD, b"x", "e"),
    "delete": lambda backend: backend.delete(RECORD),
}


# What goes out


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("operation", ["put", "replace"])
def test_sse(operation: str) -> None:
    wire = Wire(backend := S3Backend("bucket", "p", S3Options(sse="AES256")))
    OPERATIONS[operation](backend)
    assert wire.header("x-amz-server-side-encryption") == "AES256"
    assert wire.header("x-amz-server-side-encryption-aws-kms-key-id") is None


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("operation", ["put", "replace"])
def test_kms(operation: str) -> None:
    options = S3Options(sse="aws:kms", sse_kms_key_id="arn:aws:kms:eu-west-1:1:key/k")
    wire = Wire(backend := S3Backend("bucket", "p", options))
    OPERATIONS[operation](backend)
    assert wire.header("x-amz-server-side-encryption") == "aws:kms"
    assert wire.header("x-amz-server-side-encryption-aws-kms-key-id") == "arn:aws:kms:eu-west-1:1:key/k"


def test_a_key_without_encryption_is_refused() -> None:
    with pytest.raises(InvalidInput):
        S3Backend("bucket", "p", S3Options(sse_kms_key_id="k"))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_requester_pays(operation: str) -> None:
    wire = Wire(backend := S3Backend("bucket", "p", S3Options(requester_pays=True)))
    OPERATIONS[operation](backend)
    assert wire.header("x-amz-request-payer") == "requester"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_asked_for_unasked(operation: str) -> None:
    wire = Wire(backend := S3Backend("bucket", "p"))
    OPERATIONS[operation](backend)
    (request,) = wire.requests
    assert wire.header("x-amz-request-payer") is None
    assert wire.header("x-amz-server-side-encryption") is None
    names = " ".join(request.headers).lower()
    assert "checksum" not in names
    assert "trailer" not in names


@pytest.mark.usefixtures("keys")
def test_conditions_are_signed() -> None:
    wire = Wire(backend := S3Backend("bucket", "p"))
    backend.put_if_absent(RECORD, b"x")
    assert wire.header("if-none-match") == "*"
    wire.requests.clear()
    assert backend.replace_if(RECORD, b"x", "0123") == "e"
    assert wire.header("if-match") == '"0123"'


@pytest.mark.usefixtures("keys")
def test_the_bucket_is_in_the_host_name_on_aws() -> None:
    wire = Wire(backend := S3Backend("bucket", "p"))
    backend.get(RECORD)
    assert wire.requests[0].url == f"https://bucket.s3.eu-west-1.amazonaws.com/p/{RECORD}"
    assert "Credential=envkey/" in _authorization(wire.requests[0])


@pytest.mark.usefixtures("keys")
def test_path_style() -> None:
    wire = Wire(backend := S3Backend("bucket", "", S3Options(path_style=True)))
    backend.get(RECORD)
    assert wire.requests[0].url == f"https://s3.eu-west-1.amazonaws.com/bucket/{RECORD}"


@pytest.mark.usefixtures("keys")
def test_the_region_given_wins() -> None:
    wire = Wire(backend := S3Backend("bucket", "p", S3Options(region="ap-south-1")))
    backend.get(RECORD)
    assert wire.requests[0].url.startswith("https://bucket.s3.ap-south-1.amazonaws.com/")
    assert "/ap-south-1/s3/aws4_request" in _authorization(wire.requests[0])


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("given", [False, True])
def test_a_custom_endpoint(given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://environment.example:1")
    options = S3Options(endpoint_url="http://given.example:1") if given else S3Options()
    wire = Wire(backend := S3Backend("bucket", "p", options))
    backend.get(RECORD)
    host = "given" if given else "environment"
    assert wire.requests[0].url == f"http://{host}.example:1/bucket/p/{RECORD}"


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two profiles in the config files."""
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=defaultkey\naws_secret_access_key=s\n"
        "[team]\naws_access_key_id=teamkey\naws_secret_access_key=s\n"
    )
    (tmp_path / "config").write_text(
        "[default]\nregion=us-west-2\n[profile team]\nregion=eu-north-1\nendpoint_url=http://team.example:9\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.usefixtures("profiles")
@pytest.mark.parametrize(
    ("environment", "options", "url", "credential"),
    [
        ({}, S3Options(), "https://bucket.s3.us-west-2.amazonaws.com/x", "defaultkey"),
        ({"AWS_PROFILE": "team"}, S3Options(), "http://team.example:9/bucket/x", "teamkey"),
        ({}, S3Options(profile="team"), "http://team.example:9/bucket/x", "teamkey"),
        ({"AWS_PROFILE": "default"}, S3Options(profile="team"), "http://team.example:9/bucket/x", "teamkey"),
    ],
)
def test_profiles(
    environment: dict[str, str], options: S3Options, url: str, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    wire = Wire(backend := S3Backend("bucket", "", options))
    backend.get("x")
    assert wire.requests[0].url == url
    assert f"Credential={credential}/" in _authorization(wire.requests[0])


def test_an_unknown_profile() -> None:
    with pytest.raises(InvalidInput) as caught:
        S3Backend("bucket", "", S3Options(profile="nobody"))
    assert "nobody" in str(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_credentials(operation: str) -> None:
    wire = Wire(backend := S3Backend("bucket", "p", S3Options(region="us-east-1")))
    with pytest.raises(AccessDenied) as caught:
        OPERATIONS[operation](backend)
    assert caught.value.hint
    assert wire.requests == []


@pytest.mark.usefixtures("keys")
def test_options_reach_open_backend() -> None:
    made: list[S3Backend] = []

    def wrap(inner: Backend) -> Backend:
        assert isinstance(inner, S3Backend)
        made.append(inner)
        return inner

    backend = open_backend("s3://bucket/p/q/", BackendOptions(S3Options(path_style=True)), wrap=wrap)
    wire = Wire(made[0])
    backend.get(RECORD)
    assert wire.requests[0].url == f"https://s3.eu-west-1.amazonaws.com/bucket/p/q/{RECORD}"


# What comes back


@contextmanager
def _answered(answer: bytes) -> Iterator[tuple[S3Backend, OneAnswer]]:
    """Run a server that sends *answer*, and a backend that asks it, for the time of a `with`."""
    with answering(answer) as server, closing(S3Backend("bucket", "p", S3Options(endpoint_url=server.endpoint))) as it:
        yield it, server


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("status", "code", "operation", "kind"),
    [
        (412, "PreconditionFailed", "put", AlreadyExists),
        (412, "PreconditionFailed", "replace", Conflict),
        (409, "ConditionalRequestConflict", "put", Unavailable),
        (409, "ConditionalRequestConflict", "replace", Conflict),
        (409, "OperationAborted", "delete", Unavailable),
        (404, "NoSuchKey", "replace", Conflict),
        (404, "NoSuchKey", "get", NotFound),
        (404, "", "head", NotFound),
        (404, "NoSuchBucket", "get", NotFound),
        (404, "NoSuchBucket", "list", NotFound),
        (404, "NoSuchBucket", "put", NotFound),
        (404, "NoSuchBucket", "replace", NotFound),
        (403, "AccessDenied", "get", AccessDenied),
        (403, "", "head", AccessDenied),
        (403, "SignatureDoesNotMatch", "list", AccessDenied),
        (403, "RequestTimeTooSkewed", "get", AccessDenied),
        (400, "ExpiredToken", "get", AccessDenied),
        (400, "RequestTimeout", "put", Unavailable),
        (429, "TooManyRequests", "get", Throttled),
        (500, "InternalError", "get", Unavailable),
        (503, "SlowDown", "put", Throttled),
        (503, "", "head", Unavailable),
        (501, "NotImplemented", "put", InvalidInput),
        (507, "InsufficientStorage", "put", NoSpace),
        (400, "KMS.NotFoundException", "put", InvalidInput),
    ],
)
def test_answers(status: int, code: str, operation: str, kind: type[DvfsError]) -> None:
    wire = Wire(backend := S3Backend("bucket", "p"), status, code)
    with pytest.raises(DvfsError) as caught:
        OPERATIONS[operation](backend)
    assert type(caught.value) is kind
    assert "s3://bucket/p/datasets/" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert len(wire.requests) == 1, "botocore retried by itself"
    if code in ("NoSuchBucket", "RequestTimeTooSkewed", "ExpiredToken", "NotImplemented"):
        assert caught.value.hint


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 10\r\n\r\n0123',
        b'HTTP/1.1 206 Partial\r\nETag: "e"\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
    ],
)
def test_a_body_cut_short_is_unavailable(answer: bytes) -> None:
    with _answered(answer) as (backend, server):
        with pytest.raises(Unavailable) as caught:
            backend.get(RECORD)
        assert RECORD in str(caught.value)
        assert len(server.requests) == 1


@pytest.mark.usefixtures("keys")
def test_a_stream_cut_short_is_unavailable_where_it_ends() -> None:
    head = b'HTTP/1.1 206 Partial\r\nETag: "e"\r\nContent-Range: bytes 3-9/10\r\nContent-Length: 7\r\n\r\n'
    with _answered(head + b"34567") as (backend, server):
        pieces = backend.stream(RECORD, 3, [2, 2, 3])
        assert [next(pieces), next(pieces)] == [b"34", b"56"]
        with pytest.raises(Unavailable, match=RECORD):
            next(pieces)
        assert len(server.requests) == 1


@pytest.mark.usefixtures("keys")
def test_a_server_that_knows_no_ranges() -> None:
    head = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 10\r\nConnection: close\r\n\r\n'
    with _answered(head + b"0123456789") as (backend, _):
        assert backend.get(RECORD, 3, 4).data == b"3456"
        assert backend.get(RECORD, 8).data == b"89"


# With a server


def test_listing_pages(s3_url: str) -> None:
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    backend = S3Backend(bucket, prefix, S3Options(list_page=3))
    keys = [f"names/p{number % 2}{'-x' * (number % 3)}/n/{number}" for number in range(11)]
    for key in keys:
        backend.put_if_absent(key, b"x")
    pages: list[str] = []
    backend._client.meta.events.register("before-send.s3", lambda request, **kwargs: pages.append(request.url))
    assert [item.key for item in backend.list("names/")] == sorted(keys)
    assert len(pages) == 4
    backend.close()


def test_prefixes_of_one_bucket_are_stores_of_their_own(s3_url: str) -> None:
    one, other = open_backend(s3_url + "/one"), open_backend(s3_url + "/one-more")
    one.put_if_absent(RECORD, b"1")
    other.put_if_absent(RECORD, b"2")
    assert one.get(RECORD).data == b"1"
    assert [item.key for item in one.list("")] == [RECORD]
    one.close()
    other.close()


def test_a_stream_of_no_bytes_asks_for_nothing(s3_backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_backend.put_if_absent(RECORD, b"record")
    session = cast("Any", s3_backend._client)._endpoint.http_session
    send, sent = session.send, list[str]()

    def noted(request: AWSPreparedRequest) -> AWSResponse:
        sent.append(request.url)
        return cast("AWSResponse", send(request))

    monkeypatch.setattr(session, "send", noted)
    for sizes in ([], [0], [0, 0]):
        assert list(s3_backend.stream(RECORD, 2, sizes)) == []
    assert sent == []
    assert list(s3_backend.stream(RECORD, 2, [0, 3])) == [b"cor"]
    assert len(sent) == 1


def test_reading_with_readonly_credentials(s3_backend: S3Backend, s3_readonly: S3Backend) -> None:
    etag = s3_backend.put_if_absent(RECORD, b"record")
    assert s3_readonly.get(RECORD).data == b"record"
    assert s3_readonly.get(RECORD, 2, 2).data == b"co"
    assert s3_readonly.head(RECORD).etag == etag
    assert [item.key for item in s3_readonly.list("")] == [RECORD]
    calls: list[Callable[[], object]] = [
        lambda: s3_readonly.put_if_absent("packs/00/aa", b"x"),
        lambda: s3_readonly.put_if_absent(RECORD, b"x"),
        lambda: s3_readonly.replace_if(RECORD, b"x", etag),
        lambda: s3_readonly.delete(RECORD),
    ]
    for call in calls:
        with pytest.raises(AccessDenied):
            call()
    assert [(item.key, item.etag) for item in s3_backend.list("")] == [(RECORD, etag)]


def test_denied_is_not_tried_again(s3_readonly: S3Backend) -> None:
    faulty = Faulty(s3_readonly)
    with pytest.raises(AccessDenied):
        Retrying(faulty).put_if_absent(RECORD, b"x")
    assert faulty.count("put_if_absent") == 1


def test_wrong_keys(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    backend = open_backend(s3_url)
    with pytest.raises(AccessDenied) as caught:
        backend.get(RECORD)
    assert "wrong" not in str(caught.value)
    backend.close()


def test_a_missing_bucket(s3_server: SeaweedServer, s3_url: str) -> None:
    backend = open_backend("s3://no-such-bucket-here/p")
    with pytest.raises(NotFound):
        backend.get(RECORD)
    with pytest.raises(NotFound) as caught:
        list(backend.list(""))
    assert "no-such-bucket-here" in str(caught.value)
    assert caught.value.hint
    backend.close()


def test_a_server_that_hangs_and_comes_back(private_s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in private_s3_server.environment().items():
        monkeypatch.setenv(name, value)
    backend = S3Backend(private_s3_server.bucket, "hang", S3Options(connect_timeout=0.3, read_timeout=0.3))
    data = noise(100_000)
    backend.put_if_absent("packs/00/aa", data)
    private_s3_server.pause()
    for call in (lambda: backend.get("packs/00/aa"), lambda: backend.put_if_absent("packs/00/bb", b"x")):
        with pytest.raises(Unavailable):
            call()
    private_s3_server.resume()
    patient = Retrying(backend)
    assert patient.get("packs/00/aa").data == data
    # The put that was given up may or may not arrive: either way it is ours, and whole.
    try:
        patient.put_if_absent("packs/00/bb", b"x")
    except AlreadyExists:
        assert patient.get("packs/00/bb").data == b"x"
    backend.close()


def test_a_refused_port(private_s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in private_s3_server.environment().items():
        monkeypatch.setenv(name, value)
    private_s3_server.stop()
    backend = open_backend(f"s3://{private_s3_server.bucket}/refused", policy=ONCE)
    with pytest.raises(Unavailable) as caught:
        backend.get(RECORD)
    assert private_s3_server.endpoint in str(caught.value)
    backend.close()
