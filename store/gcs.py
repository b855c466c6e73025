"""A store below a prefix of a bucket of Google Cloud Storage, over its JSON API.

google-cloud-storage, of the extra `gcs`, is imported when the first backend is made. It finds credentials (those that
Google's libraries look for), the endpoint and `STORAGE_EMULATOR_HOST` (spoken to without credentials), reading the
environment itself. The requests are made here, on its session, as its own ways to read and write repeat what fails,
send packs in two requests and look at no length: one request for each call of the protocol, and `Retrying` repeats,
as it knows about doubt.

An etag is the generation of the object, the number that conditional writes speak of. Bodies are sent with their
CRC32C, which the service checks before it keeps them.

Thread-safe. Does not create buckets. A child of a fork makes backends of its own.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dvfs.store.backend import Blob, ObjectInfo, check_range
from dvfs.store.digest import Buffer
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

if TYPE_CHECKING:
    from google.cloud.storage import Client
    from requests import Response

_THROTTLED = re.compile(r"rateLimitExceeded|RateLimitExceeded|quotaExceeded")
_NO_BUCKET = re.compile(r"bucket does not exist", re.IGNORECASE)
_GENERATION = re.compile(r"[1-9][0-9]{0,18}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CRC32C = re.compile(r"crc32c=([^,\s]+)")


@dataclass(frozen=True, slots=True)
class GcsOptions:
    """How a bucket is spoken to. None leaves a setting to the environment of Google's libraries.

    *endpoint_url*: of a service that is not Google's, spoken to with the credentials that are found. *user_project*:
    the project that pays, for requester-pays buckets. *kms_key_name*: the key for what is written, in place of the
    bucket's own. Timeouts in seconds, of each attempt: for the connection, and between two bytes. *max_connections*:
    kept open in the pool. *list_page*: keys per LIST request, at most 1000.
    """

    endpoint_url: str | None = None
    user_project: str | None = None
    kms_key_name: str | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    max_connections: int = 32
    list_page: int = 1000


class GcsBackend:
    """The `Backend` protocol below *prefix* ("" or without slashes at its ends) of *bucket*."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        options: GcsOptions | None = None,
        *,
        client: Client | None = None,
    ) -> None:
        """Make the client unless *client* is handed in, to be shared; no request is made.

        Raises Unsupported without google-cloud-storage, AccessDenied without credentials, InvalidInput on settings
        that cannot be.
        """
        self._options = options or GcsOptions()
        self._bucket = bucket
        self._prefix = prefix + "/" if prefix else ""
        self._timeouts = (self._options.connect_timeout, self._options.read_timeout)
        self._payer = {"userProject": self._options.user_project} if self._options.user_project else {}
        self._owns_client = client is None
        if client is None:
            check_installed()
            with self._errors("cannot open", ""):
                client = make_client(self._options)
        self._client = client
        self._session: Any = client._http
        self._api = client.api_endpoint.rstrip("/")
        self._objects = f"{self._api}/storage/v1/b/{quote(bucket, safe='')}/o"
        self._uploads = f"{self._api}/upload/storage/v1/b/{quote(bucket, safe='')}/o"

    @property
    def url(self) -> str:
        return f"gs://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        """See `Backend.get`."""
        check_range(key, start, length)
        if length == 0:
            return Blob(b"", self.head(key).etag)
        headers = {"Accept-Encoding": "identity"}
        if start or length is not None:
            headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        with self._errors("cannot read", key):
            params = {"alt": "media", **self._payer}
            with self._request("GET", self._object(key), params, headers=headers, stream=True) as answer:
                if answer.status_code != 416:
                    self._check(answer, "cannot read", key)
                    data: bytes = answer.raw.read(decode_content=False)
            if answer.status_code == 416:
                return Blob(b"", self.head(key).etag)
            self._check_body(answer, data, key, start, length)
            if "Range" in headers and answer.status_code == 200:  # the server sent all
                data = data[start : None if length is None else start + length]
            return Blob(data, answer.headers["X-Goog-Generation"])

    def put_if_absent(self, key: str, data: Buffer) -> str:
        """See `Backend.put_if_absent`."""
        with self._errors("cannot write", key):
            answer = self._put(key, data, "0")
            if answer.status_code == 412:
                raise AlreadyExists(f"{self._name(key)} exists already")
            return self._written(answer, "cannot write", key, data)

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        """See `Backend.replace_if`."""
        if not _GENERATION.fullmatch(etag):  # and 0 would mean: if it is absent
            raise Conflict(f"{self._name(key)} was changed by somebody else")
        with self._errors("cannot replace", key):
            answer = self._put(key, data, etag)
            if answer.status_code == 412:
                raise Conflict(f"{self._name(key)} was changed by somebody else, or is gone")
            return self._written(answer, "cannot replace", key, data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Backend.list`. All keys are fetched before the first is yielded, some 300 bytes each."""
        params: dict[str, Any] = {
            "prefix": self._prefix + prefix,
            "maxResults": self._options.list_page,
            "fields": "items(name,generation,size),nextPageToken",
            **self._payer,
        }
        found: list[ObjectInfo] = []
        while True:
            with self._errors("cannot list", prefix):
                page = self._json(self._objects, "cannot list", prefix, params)
                found += [
                    ObjectInfo(item["name"][len(self._prefix) :], item["generation"], int(item["size"]))
                    for item in page.get("items", ())
                ]
            if not page.get("nextPageToken"):
                break
            params["pageToken"] = page["nextPageToken"]
        found.sort(key=lambda item: item.key)
        yield from found

    def head(self, key: str) -> ObjectInfo:
        """See `Backend.head`."""
        params = {"fields": "generation,size", **self._payer}
        with self._errors("cannot look at", key):
            item = self._json(self._object(key), "cannot look at", key, params)
            return ObjectInfo(key, item["generation"], int(item["size"]))

    def delete(self, key: str) -> None:
        """See `Backend.delete`."""
        with self._errors("cannot delete", key):
            answer = self._request("DELETE", self._object(key), self._payer)
            if answer.status_code != 404 or _NO_BUCKET.search(answer.text):
                self._check(answer, "cannot delete", key)

    def close(self) -> None:
        """Close the connections, if no others share them."""
        if self._owns_client:
            self._client.close()

    def _object(self, key: str) -> str:
        return f"{self._objects}/{quote(self._prefix + key, safe='')}"

    def _json(self, url: str, what: str, key: str, params: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._request("GET", url, params)
        self._check(answer, what, key)
        document: dict[str, Any] = answer.json()
        return document

    def _put(self, key: str, data: Buffer, generation: str) -> Response:
        """Write *data* in one request if the object is of that *generation*, 0 for none; return the answer."""
        boundary = secrets.token_hex(16)
        told = json.dumps({"name": self._prefix + key, "crc32c": _crc32c(data)})
        body = b"".join(
            (
                f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{told}\r\n".encode(),
                f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
                data,
                f"\r\n--{boundary}--".encode(),
            )
        )
        params = {"uploadType": "multipart", "ifGenerationMatch": generation, **self._payer}
        if self._options.kms_key_name:
            params["kmsKeyName"] = self._options.kms_key_name
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        return self._request("POST", self._uploads, params, data=body, headers=headers)

    def _request(self, method: str, url: str, params: Mapping[str, Any], **more: Any) -> Response:
        answer: Response = self._session.request(
            method, url, params=params, timeout=self._timeouts, hooks={"response": _read_refusal}, **more
        )
        return answer

    def _written(self, answer: Response, what: str, key: str, data: Buffer) -> str:
        """Return the etag of what was written. Raises what the *answer* means."""
        self._check(answer, what, key)
        item = answer.json()
        size = memoryview(data).nbytes
        if int(item["size"]) != size or item.get("crc32c", _crc32c(data)) != _crc32c(data):
            raise Unavailable(f"{self._name(key)} did not arrive as it was sent: {item['size']} bytes, not {size}")
        generation: str = item["generation"]
        return generation

    def _check_body(self, answer: Response, data: bytes, key: str, start: int, length: int | None) -> None:
        """Raise Unavailable unless *data* is whole, and what was asked for."""
        expected = int(answer.headers["Content-Length"])
        if answer.status_code == 206:
            part = _CONTENT_RANGE.fullmatch(answer.headers["Content-Range"])
            if part is None:
                raise Unavailable(f"cannot read {self._name(key)}: the answer is no range of it")
            first, total = int(part[1]), int(part[3])
            expected = (total if length is None else min(total, start + length)) - start
            if first != start:
                raise Unavailable(f"cannot read {self._name(key)}: bytes from {first} on came, not from {start} on")
        if len(data) != expected:
            raise Unavailable(f"{len(data)} bytes of {self._name(key)} came, not {expected}")
        told = _CRC32C.search(answer.headers.get("X-Goog-Hash", ""))
        if answer.status_code == 200 and told is not None and told[1] != _crc32c(data):
            raise Unavailable(f"{self._name(key)} came damaged: its CRC32C is not {told[1]}")

    def _check(self, answer: Response, what: str, key: str) -> None:
        """Raise the error that *answer* means, if it means one."""
        if answer.status_code in (200, 204, 206):
            return
        message = f"{what} {self._name(key)}"
        said = _message(answer)
        text = f"{message}: {said} ({answer.status_code})"
        is_of_bucket = what in ("cannot list", "cannot write", "cannot replace") or _NO_BUCKET.search(said)
        if answer.status_code == 404 and is_of_bucket:
            hint = "create the bucket, or check the store URL"
            raise NotFound(f"{message}: there is no bucket {self._bucket}", hint=hint)
        raise _from_answer(text, answer.status_code, answer.text)

    def _name(self, key: str) -> str:
        return f"gs://{self._bucket}/{self._prefix}{key}"

    @contextmanager
    def _errors(self, what: str, key: str) -> Iterator[None]:
        """Turn exceptions of Google's libraries and those below them into the errors of dvfs."""
        import requests
        import urllib3
        from google.auth import exceptions

        message = f"{what} {self._name(key)}"
        try:
            yield
        except DvfsError:
            raise
        except exceptions.TransportError as exc:  # the service that gives out tokens
            raise Unavailable(f"{message}: {exc}") from exc
        except exceptions.GoogleAuthError as exc:
            if exc.retryable:
                raise Unavailable(f"{message}: {exc}") from exc
            hint = "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
            raise AccessDenied(f"{message}: {_first_line(exc)}", hint=hint) from exc
        except KeyError as exc:
            raise Unavailable(f"{message}: the answer has no {exc}") from exc
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
        ) as exc:
            raise InvalidInput(f"{message}: {exc}") from exc
        except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:  # connections, timeouts, short bodies
            raise Unavailable(f"{message}: {exc}") from exc
        except ValueError as exc:  # settings of the client, or an answer that does not parse
            raise (InvalidInput if what == "cannot open" else Unavailable)(f"{message}: {exc}") from exc


def check_installed() -> None:
    """Raise Unsupported where google-cloud-storage is not installed."""
    try:
        import google.cloud.storage  # noqa: F401
    except ImportError as exc:
        hint = "pip install 'dvfs[gcs]'"
        raise Unsupported(f"stores at gs:// need google-cloud-storage: {exc}", hint=hint) from exc


def make_client(options: GcsOptions) -> Client:
    """Return a client for *options*. Raises exceptions of google.auth."""
    from google.cloud.storage import Client
    from requests.adapters import HTTPAdapter

    told = {"api_endpoint": options.endpoint_url} if options.endpoint_url else None
    client = Client(project=None, client_options=told)
    session = client._http
    for scheme, adapter in list(session.adapters.items()):
        if type(adapter) is HTTPAdapter:  # not that of mutual TLS
            session.mount(scheme, HTTPAdapter(pool_maxsize=options.max_connections, pool_block=False))
    return client


def _read_refusal(answer: Response, **_: Any) -> None:
    """Read what a refusal says, which frees its connection: the session lets go of some of them to try again.

    Not where it says that a range is none: a server may close that connection, which then must not be used again.
    """
    if answer.status_code >= 400 and answer.status_code != 416:
        answer.content  # noqa: B018


def _from_answer(text: str, status: int, body: str) -> DvfsError:
    """Return the error that an answer of this *status* and *body* means."""
    if status == 429 or (status == 403 and _THROTTLED.search(body)):
        return Throttled(text)
    if status >= 500 or status in (408, 409) or (status == 403 and "backendError" in body):
        return Unavailable(text)
    if status == 401:
        return AccessDenied(text, hint="the credentials are missing, wrong or have expired: log in again")
    if status == 403:
        return AccessDenied(text, hint="check the credentials and the bucket's policy")
    if status == 404:
        return NotFound(text)
    if status == 412:
        return Conflict(text)
    return InvalidInput(text)


def _message(answer: Response) -> str:
    """Return what *answer* says, in a line."""
    try:
        said = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = answer.text
    return _first_line(said) or answer.reason


def _first_line(said: object) -> str:
    return str(said).strip().partition("\n")[0][:500]


def _crc32c(data: Buffer) -> str:
    import google_crc32c

    value = google_crc32c.value(data if isinstance(data, bytes) else bytes(data))
    return base64.b64encode(value.to_bytes(4, "big")).decode()
