"""Store URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvfs.store.errors import InvalidInput, Unavailable
from dvfs.store.metrics import Counts, Metered
from dvfs.store.retry import RetryPolicy
from dvfs.store.s3 import S3Options
from dvfs.store.url import (
    AzureLocation,
    BackendOptions,
    BucketLocation,
    FolderLocation,
    GcsLocation,
    S3Location,
    open_backend,
    parse_url,
)
from tests.clocks import FakeClock
from tests.faulty import Faulty


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("/data/store", "/data/store"),
        ("/data/store/", "/data/store"),
        ("/data/../x", "/x"),
        ("file:///data/store", "/data/store"),
        ("FILE:///data/store", "/data/store"),
        ("file://localhost/data/store", "/data/store"),
        ("file:///with%20space/%C3%A9", "/with space/é"),
        ("/with%20percent", "/with%20percent"),
    ],
)
def test_folders(text: str, root: str) -> None:
    location = parse_url(text)
    assert location == FolderLocation(Path(root))
    assert parse_url(str(location)) == location


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_url("some/store") == FolderLocation(tmp_path / "some" / "store")


def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    location = FolderLocation(Path("/x\udcff/y"))
    assert str(location) == "file:///x%FF/y"
    assert parse_url(str(location)) == location


@pytest.mark.parametrize(
    ("text", "location", "canonical"),
    [
        ("s3://bucket", S3Location("bucket", ""), "s3://bucket"),
        ("s3://bucket/", S3Location("bucket", ""), "s3://bucket"),
        ("s3://bucket/a/b/", S3Location("bucket", "a/b"), "s3://bucket/a/b"),
        ("S3://my.bucket-1/a b", S3Location("my.bucket-1", "a b"), "s3://my.bucket-1/a b"),
        ("gs://bucket", GcsLocation("bucket", ""), "gs://bucket"),
        ("GS://my_bucket/a/b/", GcsLocation("my_bucket", "a/b"), "gs://my_bucket/a/b"),
        ("azure://container/a/", AzureLocation("container", "a"), "azure://container/a"),
        ("az://container", AzureLocation("container", ""), "azure://container"),
    ],
)
def test_buckets(text: str, location: BucketLocation, canonical: str) -> None:
    parsed = parse_url(text)
    assert parsed == location
    assert str(parsed) == canonical
    assert parse_url(canonical) == location


def test_the_same_name_elsewhere_is_another_store() -> None:
    assert len({parse_url(f"{scheme}://name/x") for scheme in ("s3", "gs", "azure", "az")}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3://",
        "s3:///x",
        "s3:bucket/x",
        "s3:/bucket",
        "file://host/x",
        "file://",
        "file:x",
        "s3://b ad/x",
        "s3://b/../x",
        "s3://b/a//c",
        "gs:bucket/x",
        "gs:///x",
        "azure:/container",
        "az://",
        "azure://b/../x",
        "a\0b",
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_url(text)


@pytest.mark.parametrize("text", ["gcs://bucket/x", "abfs://container/x", "https://user:secret@host/x"])
def test_other_schemes_say_what_is_supported(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_url(text)
    assert "unsupported store URL" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "s3://bucket/prefix" in str(caught.value.hint)


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure", "az"])
def test_credentials_in_a_url_are_refused_and_not_repeated(scheme: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_url(f"{scheme}://key:secret@bucket/x")
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_an_opened_backend_tries_again(tmp_path: Path) -> None:
    wrapped: list[Faulty] = []
    metered: list[Metered] = []

    def wrap(inner):  # type: ignore[no-untyped-def]
        wrapped.append(Faulty(inner))
        metered.append(Metered(wrapped[0]))
        return metered[0]

    clock = FakeClock()
    backend = open_backend(str(tmp_path / "store"), clock=clock, policy=RetryPolicy(attempts=3), wrap=wrap)
    backend.put_if_absent("packs/00/aa", b"x")
    wrapped[0].fail("get", times=2)
    assert backend.get("packs/00/aa").data == b"x"
    assert metered[0].counts == Counts(get=3, put_if_absent=1, errors=2, bytes_in=1, bytes_out=1)
    wrapped[0].fail("get", times=3)
    with pytest.raises(Unavailable):
        backend.get("packs/00/aa")


def test_opening_makes_no_request(tmp_path: Path) -> None:
    open_backend(str(tmp_path / "store")).close()
    assert not (tmp_path / "store").exists()
    backend = open_backend("s3://bucket/prefix/", BackendOptions(S3Options(endpoint_url="http://127.0.0.1:1")))
    assert backend.url == "s3://bucket/prefix"
    backend.close()
