"""Store URLs: what may be written for a store, and the backend that it means.

A path, `file:///path` or `s3://bucket/prefix`. A relative path is taken from the working directory; `~` is
not expanded here (store/ reads no environment).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from dvfs.store.backend import Backend
from dvfs.store.clock import Clock
from dvfs.store.errors import InvalidInput
from dvfs.store.folder import FolderBackend
from dvfs.store.retry import Retrying, RetryPolicy
from dvfs.store.s3 import S3Backend, S3Options

SUPPORTED = "a path, file:///path, s3://bucket/prefix"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True, slots=True)
class FolderLocation:
    """A store in the folder *root* (absolute)."""

    root: Path

    def __str__(self) -> str:
        return "file://" + quote(os.fsencode(self.root))


@dataclass(frozen=True, slots=True)
class S3Location:
    """A store below *prefix* of *bucket*: "" or a key without slashes at its ends."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


Location = FolderLocation | S3Location


def parse_url(text: str) -> Location:
    """Return what the store URL *text* names; `str` of it is the canonical URL. Raises InvalidInput."""
    match = _SCHEME.fullmatch(text)
    if match is None:
        if not text or "\0" in text:
            raise InvalidInput("the store URL is empty or holds a NUL byte", hint=f"supported: {SUPPORTED}")
        if re.match(r"(s3|file):", text):
            raise InvalidInput(f"{text} is no store URL: `//` is missing", hint=f"supported: {SUPPORTED}")
        return FolderLocation(Path(os.path.abspath(text)))
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return _parse_file(text, rest)
    if scheme == "s3":
        return _parse_s3(text, rest)
    raise InvalidInput(f"unsupported store URL {_without_credentials(text)}", hint=f"supported: {SUPPORTED}")


def open_backend(
    url: str | Location,
    s3: S3Options | None = None,
    *,
    clock: Clock | None = None,
    policy: RetryPolicy | None = None,
    wrap: Callable[[Backend], Backend] | None = None,
) -> Backend:
    """Return the backend of *url*, wrapped in `Retrying`; no request is made.

    *wrap* lays a wrapper (metrics, faults) around the bare backend, inside `Retrying`. Raises InvalidInput.
    """
    location = parse_url(url) if isinstance(url, str) else url
    backend: Backend
    if isinstance(location, FolderLocation):
        backend = FolderBackend(location.root)
    else:
        backend = S3Backend(location.bucket, location.prefix, s3 or S3Options())
    if wrap is not None:
        backend = wrap(backend)
    return Retrying(backend, clock, policy)


def _parse_file(text: str, rest: str) -> FolderLocation:
    host, slash, path = rest.partition("/")
    if not slash or host not in ("", "localhost"):
        raise InvalidInput(f"{text} names another machine or no folder", hint="write file:///path")
    raw = unquote_to_bytes(slash + path)
    if b"\0" in raw:
        raise InvalidInput(f"{text} holds a NUL byte")
    return FolderLocation(Path(os.path.abspath(os.fsdecode(raw))))


def _parse_s3(text: str, rest: str) -> S3Location:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise InvalidInput(
            "a store URL holds no credentials", hint="set them as for any AWS tool: environment, profile, role"
        )
    if not _BUCKET.fullmatch(bucket):
        raise InvalidInput(f"{text} names no bucket", hint="write s3://bucket/prefix")
    prefix = prefix.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise InvalidInput(f"{text} has an empty or dotted component in its prefix")
    return S3Location(bucket, prefix)


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//", text)
