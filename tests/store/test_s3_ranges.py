"""Ranges read in the quick way: the same bytes, and the ordinary way wherever something else comes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dvfs.store.backend import get_if
from dvfs.store.errors import AccessDenied, Conflict, NotFound
from dvfs.store.s3 import S3Backend, S3Options, make_client
from dvfs.store.s3_ranges import RangeReader, reader_of
from tests.seaweed import SeaweedServer
from tests.store.noise import noise

KEY = "packs/00/a b+%/x"
DATA = noise(200_000)


class Counted:
    """Counts how often *client* is asked in the ordinary way."""

    def __init__(self, client: Any) -> None:
        self.calls = 0
        self._client = client

    def get_object(self, **words: Any) -> Any:
        self.calls += 1
        return self._client.get_object(**words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture
def client(s3_url: str) -> Counted:
    return Counted(make_client(S3Options()))


@pytest.fixture
def backend(client: Counted, s3_server: SeaweedServer, request: pytest.FixtureRequest) -> S3Backend:
    name = request.node.name
    backend = S3Backend(s3_server.bucket, f"ranges/{name}", client=cast("Any", client))
    backend.put_if_absent(KEY, DATA)
    return backend


def test_ranges_are_those_of_the_object(backend: S3Backend, client: Counted) -> None:
    whole = backend.get(KEY)
    assert (whole.data, client.calls) == (DATA, 1)
    for start, length in ((0, 1), (5, 100_000), (199_999, 1), (199_999, 50), (150_000, 100_000), (1, None)):
        part = backend.get(KEY, start, length)
        assert part.data == DATA[start : None if length is None else start + length]
        assert part.etag == whole.etag
    assert client.calls == 1


def test_a_stream_is_one_request(backend: S3Backend, client: Counted) -> None:
    assert list(backend.stream(KEY, 10, [5, 100_000, 90_000])) == [DATA[10:15], DATA[15:100_015], DATA[100_015:190_015]]
    assert list(backend.stream(KEY, 150_000, [40_000, 40_000])) == [DATA[150_000:190_000], DATA[190_000:]]
    assert client.calls == 0


def test_the_version_that_is_asked_for_is_read(backend: S3Backend, client: Counted) -> None:
    etag = backend.head(KEY).etag
    assert get_if(backend, KEY, 10, 20, etag).data == DATA[10:30]
    assert client.calls == 0
    with pytest.raises(Conflict, match="was changed by somebody else"):
        get_if(backend, KEY, 10, 20, "0" * 32)


def test_what_goes_wrong_is_told_by_the_ordinary_way(backend: S3Backend, client: Counted) -> None:
    with pytest.raises(NotFound):
        backend.get("packs/00/nothing", 1, 2)
    assert backend.get(KEY, 200_000, 5).data == b""
    assert client.calls == 2
    assert backend.get(KEY, 7, 5).data == DATA[7:12]  # and the quick way goes on
    assert client.calls == 2


def test_keys_that_are_wrong_are_told_by_the_ordinary_way(s3_server: SeaweedServer, backend: S3Backend) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        other = S3Backend(s3_server.bucket)
    with pytest.raises(AccessDenied):
        other.get(KEY, 1, 2)
    other.close()


def test_a_server_that_sends_something_else_is_asked_in_the_ordinary_way_from_then_on(
    backend: S3Backend, client: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(RangeReader, "open", lambda self, key, *_: asked.append(key))
    for _ in range(3):
        assert backend.get(KEY, 7, 5).data == DATA[7:12]
    assert (len(asked), client.calls) == (1, 3)


@pytest.mark.parametrize("bucket", ["arn:aws:s3:eu-west-1:123456789012:accesspoint/x", "dir--use1-az4--x-s3"])
def test_buckets_that_need_more_than_a_signature(bucket: str, client: Counted) -> None:
    assert reader_of(cast("Any", client), bucket) is None


def test_requests_that_are_signed_in_another_way(client: Counted, s3_server: SeaweedServer) -> None:
    client._request_signer._signature_version = "s3"
    assert reader_of(cast("Any", client), s3_server.bucket) is None


def test_a_client_of_another_make_is_asked_in_the_ordinary_way() -> None:
    class Other:
        def generate_presigned_url(self, *_: Any, **__: Any) -> str:
            return "http://127.0.0.1/bucket/k"

    assert reader_of(cast("Any", Other()), "bucket") is None
