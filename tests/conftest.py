"""Fixtures of all tests: a clean environment, stores in a folder, S3, Google Cloud Storage and Azure.

    store_url, store_backend      each test runs on a folder and on S3
    folder_backend                a bare FolderBackend
    s3_url, s3_backend            a fresh prefix of the bucket; AWS_* is set for this process and those it starts
    s3_readonly                   the same prefix with credentials that may only read
    private_s3_server             a server that a test may pause, resume, stop and start
    gcs_url, gcs_backend          the same for Google Cloud Storage and STORAGE_EMULATOR_HOST
    azure_url, azure_backend      the same for Azure and AZURE_STORAGE_*
    cloud_url                     each test runs on Google Cloud Storage and on Azure

The servers start when the first test asks for one.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from dvfs.store.azure import AzureBackend
from dvfs.store.backend import Backend
from dvfs.store.folder import FolderBackend
from dvfs.store.gcs import GcsBackend
from dvfs.store.s3 import S3Backend, S3Options, make_client
from dvfs.store.url import open_backend
from tests.azurite import AzureServer
from tests.fake_gcs import GcsServer
from tests.seaweed import SeaweedServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """Nothing of the developer's settings of clouds or dvfs reaches a test, nor a service of the machine's cloud; nor
    that Ctrl-C is ignored, as by what a shell runs in the background, which children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "AZURE_", "CLOUDSDK_", "DVFS_", "GCE_", "GOOGLE_", "STORAGE_")):
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("CLOUDSDK_CONFIG", os.devnull)
        patch.setenv("AZURE_MSI_ENDPOINT", "http://127.0.0.1:1/nobody-listens")
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """An S3 server shared by all tests."""
    with SeaweedServer(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def _private_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    server = SeaweedServer(tmp_path_factory.mktemp("private-s3"))
    yield server
    server.stop()


@pytest.fixture
def private_s3_server(_private_server: SeaweedServer) -> Iterator[SeaweedServer]:
    """An S3 server for this test alone to `pause`, `resume`, `stop` and `start`."""
    if not _private_server.is_running:
        _private_server.start()
    yield _private_server
    if _private_server.is_running:
        _private_server.resume()


@pytest.fixture(scope="session")
def _s3_clients(s3_server: SeaweedServer) -> Iterator[dict[str, S3Client]]:
    """A client of each identity: making one costs more than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        clients = {name: make_client(S3Options(profile=name)) for name in ("writer", "reader")}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture
def s3_url(s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh prefix, reachable with the AWS_* variables that are set with it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket}/{secrets.token_hex(6)}"


@pytest.fixture
def s3_backend(s3_url: str, _s3_clients: dict[str, S3Client]) -> S3Backend:
    """A bare S3Backend on `s3_url`."""
    return _s3_backend(s3_url, _s3_clients["writer"])


@pytest.fixture
def s3_readonly(s3_url: str, _s3_clients: dict[str, S3Client]) -> S3Backend:
    """A bare S3Backend on `s3_url` that is allowed to read and list."""
    return _s3_backend(s3_url, _s3_clients["reader"])


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A server of Google Cloud Storage shared by all tests."""
    with GcsServer(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """A server of Azure Blob Storage shared by all tests."""
    with AzureServer(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture
def gcs_url(gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh prefix, reachable with the variable that is set with it."""
    for name, value in gcs_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"gs://{gcs_server.bucket}/{secrets.token_hex(6)}"


@pytest.fixture
def azure_url(azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh prefix, reachable with the AZURE_STORAGE_* variables that are set with it."""
    for name, value in azure_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"azure://{azure_server.bucket}/{secrets.token_hex(6)}"


@pytest.fixture(params=["gcs", "azure"])
def cloud_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store in Google Cloud Storage and in Azure."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def gcs_backend(gcs_server: GcsServer, gcs_url: str) -> Iterator[GcsBackend]:
    """A bare GcsBackend on `gcs_url`."""
    backend = GcsBackend(gcs_server.bucket, gcs_url.rpartition("/")[2])
    yield backend
    backend.close()


@pytest.fixture
def azure_backend(azure_server: AzureServer, azure_url: str) -> Iterator[AzureBackend]:
    """A bare AzureBackend on `azure_url`."""
    backend = AzureBackend(azure_server.bucket, azure_url.rpartition("/")[2])
    yield backend
    backend.close()


@pytest.fixture
def folder_backend(tmp_path: Path) -> FolderBackend:
    """A bare FolderBackend on a folder that is not there yet."""
    return FolderBackend(tmp_path / "store")


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, of each kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    return str(tmp_path / "store")


@pytest.fixture
def store_backend(store_url: str) -> Iterator[Backend]:
    """The backend of `store_url` as the program opens it."""
    backend = open_backend(store_url)
    yield backend
    backend.close()


def _s3_backend(url: str, client: S3Client) -> S3Backend:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Backend(bucket, prefix, client=client)
