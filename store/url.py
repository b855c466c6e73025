"""Store URLs: what may be written for a store, and the backend that it means.

A path, `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix` or `azure://container/prefix` (also `az://`, which is
written `azure://` in the canonical URL). A relative path is taken from the working directory; `~` is
not expanded here (store/ reads no environment).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote_to_bytes

from dvfs.store.azure import AzureBackend, AzureOptions
from dvfs.store.backend import Backend
from dvfs.store.clock import Clock
from dvfs.store.errors import InvalidInput
from dvfs.store.folder import FolderBackend
from dvfs.store.gcs import GcsBackend, GcsOptions
from dvfs.store.retry import Retrying, RetryPolicy
from dvfs.store.s3 import S3Backend, S3Options

SUPPORTED = "a path, file:///path, s3://bucket/prefix, gs://bucket/prefix, azure://container/prefix"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True, slots=True)
class FolderLocation:
    """A store in the folder *root* (absolute)."""

    root: Path

    def __str__(self) -> str:
        return "file://" + quote(os.fsencode(self.root))


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """A store below *prefix* of *bucket*: "" or a key without slashes at its ends."""

    bucket: str
    prefix: str

    scheme: ClassVar[str]
    table: ClassVar[str]
    """The field of `BackendOptions` that is about this kind."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}" if self.prefix else f"{self.scheme}://{self.bucket}"


class S3Location(BucketLocation):
    """A store in S3."""

    __slots__ = ()
    scheme = "s3"
    table = "s3"


class GcsLocation(BucketLocation):
    """A store in Google Cloud Storage."""

    __slots__ = ()
    scheme = "gs"
    table = "gcs"


class AzureLocation(BucketLocation):
    """A store in Azure Blob Storage; its bucket is a container."""

    __slots__ = ()
    scheme = "azure"
    table = "azure"


Location = FolderLocation | S3Location | GcsLocation | AzureLocation

_BUCKETS: dict[str, type[S3Location | GcsLocation | AzureLocation]] = {
    "s3": S3Location,
    "gs": GcsLocation,
    "azure": AzureLocation,
    "az": AzureLocation,
}
_CREDENTIALS = {
    S3Location: "set them as for any AWS tool: environment, profile, role",
    GcsLocation: "set them as for any tool of Google Cloud: gcloud, GOOGLE_APPLICATION_CREDENTIALS, a service account",
    AzureLocation: "set them as for any Azure tool: AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_CONNECTION_STRING",
}


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How each kind of storage is spoken to."""

    s3: S3Options = field(default_factory=S3Options)
    gcs: GcsOptions = field(default_factory=GcsOptions)
    azure: AzureOptions = field(default_factory=AzureOptions)


def parse_url(text: str) -> Location:
    """Return what the store URL *text* names; `str` of it is the canonical URL. Raises InvalidInput."""
    match = _SCHEME.fullmatch(text)
    if match is None:
        if not text or "\0" in text:
            raise InvalidInput("the store URL is empty or holds a NUL byte", hint=f"supported: {SUPPORTED}")
        if re.match(r"(s3|gs|azure|az|file):", text):
            raise InvalidInput(f"{text} is no store URL: `//` is missing", hint=f"supported: {SUPPORTED}")
        return FolderLocation(Path(os.path.abspath(text)))
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return _parse_file(text, rest)
    if scheme in _BUCKETS:
        return _parse_bucket(text, _BUCKETS[scheme], rest)
    raise InvalidInput(f"unsupported store URL {_without_credentials(text)}", hint=f"supported: {SUPPORTED}")


def open_backend(
    url: str | Location,
    options: BackendOptions | None = None,
    *,
    clock: Clock | None = None,
    policy: RetryPolicy | None = None,
    wrap: Callable[[Backend], Backend] | None = None,
) -> Backend:
    """Return the backend of *url*, wrapped in `Retrying`; no request is made.

    *wrap* lays a wrapper (metrics, faults) around the bare backend, inside `Retrying`. Raises InvalidInput,
    Unsupported where the library for this kind is not installed, AccessDenied where there are no credentials.
    """
    location = parse_url(url) if isinstance(url, str) else url
    backend = _bare_backend(location, options or BackendOptions())
    if wrap is not None:
        backend = wrap(backend)
    return Retrying(backend, clock, policy)


def _bare_backend(location: Location, options: BackendOptions) -> Backend:
    if isinstance(location, FolderLocation):
        return FolderBackend(location.root)
    if isinstance(location, S3Location):
        return S3Backend(location.bucket, location.prefix, options.s3)
    if isinstance(location, GcsLocation):
        return GcsBackend(location.bucket, location.prefix, options.gcs)
    return AzureBackend(location.bucket, location.prefix, options.azure)


def _parse_file(text: str, rest: str) -> FolderLocation:
    host, slash, path = rest.partition("/")
    if not slash or host not in ("", "localhost"):
        raise InvalidInput(f"{text} names another machine or no folder", hint="write file:///path")
    raw = unquote_to_bytes(slash + path)
    if b"\0" in raw:
        raise InvalidInput(f"{text} holds a NUL byte")
    return FolderLocation(Path(os.path.abspath(os.fsdecode(raw))))


def _parse_bucket(text: str, kind: type[S3Location | GcsLocation | AzureLocation], rest: str) -> Location:
    bucket, _, prefix = rest.partition("/")
    noun = "container" if kind is AzureLocation else "bucket"
    if "@" in bucket:
        raise InvalidInput("a store URL holds no credentials", hint=_CREDENTIALS[kind])
    if not _BUCKET.fullmatch(bucket):
        raise InvalidInput(f"{text} names no {noun}", hint=f"write {kind.scheme}://{noun}/prefix")
    prefix = prefix.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise InvalidInput(f"{text} has an empty or dotted component in its prefix")
    return kind(bucket, prefix)


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//", text)
