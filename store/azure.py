"""A store below a prefix of a container of Azure Blob Storage.

obstore, of the extra `azure`, is loaded when the first backend is made. It reads the AZURE_* environment itself: what
`AzureOptions` leaves None is decided there. Its own retries are off: `Retrying` repeats, and knows about doubt.

obstore tells a status and an error code of the service only in the text of its exceptions: they are read from there.
It lists folders, not prefixes of names: of a prefix that ends within a name, all of its folder is fetched. Its timeout
of an answer begins with the request, not behind its body, so it grows with the body.

Thread-safe. Does not create containers. A child of a fork makes backends of its own (see `obstore_library`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

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
)
from dvfs.store.obstore_library import obstore_core

SLOWEST_BYTES_PER_SECOND = 256 << 10
"""A body may be sent as slowly as this, besides the read timeout."""

_WHOLE_SECONDS = 24 * 3600.0  # the bound of a whole request; what ends one that stalls are the other two timeouts
_SMALL_BYTES = 1 << 20
_STATUS = re.compile(r"status code: (\d{3})|\(code: (\d{3})\)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_SAID = re.compile(r"<Message>([^\n<]*)")
_CAUSE = re.compile(r'\bmessage: "([^"]+)"|kind: (Timeout)\b')
_QUERY = re.compile(r"(https?://[^\s?]*)\?\S*")
_PAST_END = re.compile(r"Wanted range starting at \d+, but object was only")  # what obstore says to an answer of none
_NO_CONTAINER = re.compile(r"ContainerNotFound|specified container does not exist")
_TAKEN = ("BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet", "")
_HINT = "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID and its like, or a managed identity"


@dataclass(frozen=True, slots=True)
class AzureOptions:
    """How a container is spoken to. None leaves a setting to the AZURE_* environment.

    *endpoint_url*: of the blob service, with the account in its path where the service has it there.
    *connection_string*: as the Azure portal gives it; it may hold credentials, and is in no text made of the options.
    Timeouts in seconds, of each attempt: for the connection, and between two bytes of an answer.
    *max_connections*: kept open when idle.
    """

    account_name: str | None = None
    endpoint_url: str | None = None
    connection_string: str | None = field(default=None, repr=False)
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    max_connections: int = 32


class AzureBackend:
    """The `Backend` protocol below *prefix* ("" or without slashes at its ends) of *container*."""

    def __init__(self, container: str, prefix: str = "", options: AzureOptions | None = None) -> None:
        """Make the client; no request is made.

        Raises Unsupported without obstore, InvalidInput on settings that cannot be, AccessDenied on a broken key.
        """
        self._options = options or AzureOptions()
        self._container = container
        self._prefix = prefix + "/" if prefix else ""
        self._core = obstore_core()
        self._config = configuration(self._options)
        self._stores: dict[int, Any] = {}  # a power of two of bytes → the store whose timeout is for such bodies
        self._store = self._store_for(0)

    @property
    def url(self) -> str:
        return f"azure://{self._container}/{self._prefix}".rstrip("/")

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        """See `Backend.get`."""
        check_range(key, start, length)
        if length == 0:
            return Blob(b"", self.head(key).etag)
        options: dict[str, Any] = {}
        if start or length is not None:
            options["range"] = {"offset": start} if length is None else (start, start + length)
        with self._errors("cannot read", key):
            try:
                answer = self._core.get(self._store, self._prefix + key, options=options)
            except self._core.exceptions.BaseError as exc:
                if _status(exc) != 416 and not _PAST_END.search(str(exc)):
                    raise
                return Blob(b"", self.head(key).etag)
            data = bytes(answer.bytes())
            total = answer.meta["size"]
            stop = total if length is None else min(total, start + length)
            if answer.range != (start, stop) or len(data) != stop - start:
                raise Unavailable(f"{len(data)} bytes of {self._name(key)} came, not {stop - start}")
            return Blob(data, self._etag(answer.meta, key))

    def put_if_absent(self, key: str, data: Buffer) -> str:
        """See `Backend.put_if_absent`."""
        with self._errors("cannot write", key):
            try:
                return self._put(key, data, "create")
            except (self._core.exceptions.AlreadyExistsError, self._core.exceptions.PreconditionError) as exc:
                if _code(exc) in _TAKEN:
                    raise AlreadyExists(f"{self._name(key)} exists already") from exc
                raise

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        """See `Backend.replace_if`."""
        with self._errors("cannot replace", key):
            try:
                return self._put(key, data, {"e_tag": f'"{etag}"'})
            except self._core.exceptions.PreconditionError as exc:
                raise Conflict(f"{self._name(key)} was changed by somebody else, or is gone") from exc
            except FileNotFoundError as exc:
                if _NO_CONTAINER.search(str(exc)):
                    raise
                raise Conflict(f"cannot replace {self._name(key)}: it is gone") from exc

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Backend.list`. All keys are fetched before the first is yielded, some 300 bytes each."""
        folder = (self._prefix + prefix).rpartition("/")[0]
        found: list[ObjectInfo] = []
        with self._errors("cannot list", prefix):
            for page in self._core.list(self._store, folder or None, chunk_size=1000):
                for item in page:
                    key = item["path"][len(self._prefix) :]
                    if key.startswith(prefix):
                        found.append(ObjectInfo(key, self._etag(item, key), item["size"]))
        found.sort(key=lambda item: item.key)
        yield from found

    def head(self, key: str) -> ObjectInfo:
        """See `Backend.head`."""
        with self._errors("cannot look at", key):
            item = self._core.head(self._store, self._prefix + key)
            return ObjectInfo(key, self._etag(item, key), item["size"])

    def delete(self, key: str) -> None:
        """See `Backend.delete`."""
        with self._errors("cannot delete", key):
            try:
                self._core.delete(self._store, self._prefix + key)
            except FileNotFoundError as exc:
                if _NO_CONTAINER.search(str(exc)):
                    raise

    def close(self) -> None:
        """Let go of the client; its connections are closed when no call uses it any more."""
        self._stores.clear()
        self._store = None

    def _put(self, key: str, data: Buffer, mode: str | dict[str, str]) -> str:
        body = data if isinstance(data, bytes) else bytes(data)
        store = self._store if len(body) <= _SMALL_BYTES else self._store_for(len(body))
        answer = self._core.put(store, self._prefix + key, body, mode=mode)
        return self._etag(answer, key)

    def _store_for(self, size: int) -> Any:
        """Return a store whose timeouts are for bodies of *size* bytes."""
        top = 1 << max(size - 1, _SMALL_BYTES - 1).bit_length()
        store = self._stores.get(top)
        if store is None:
            with self._errors("cannot open", ""):
                store = self._stores[top] = self._made_store(top)
        return store

    def _made_store(self, size: int) -> Any:
        sending = size / SLOWEST_BYTES_PER_SECOND if size > _SMALL_BYTES else 0.0
        client_options = {
            "allow_http": True,  # where the endpoint says so
            "connect_timeout": timedelta(seconds=self._options.connect_timeout),
            "read_timeout": timedelta(seconds=self._options.read_timeout + sending),
            "timeout": timedelta(seconds=_WHOLE_SECONDS),
            "pool_max_idle_per_host": str(self._options.max_connections),
        }
        return self._core._store.AzureStore(
            self._container,
            config=self._config,
            client_options=client_options,
            retry_config={"max_retries": 0},
        )

    def _etag(self, meta: Any, key: str) -> str:
        etag: str | None = meta["e_tag"]
        if not etag:
            raise Unavailable(f"the answer has no etag of {self._name(key)}")
        return etag.strip('"')

    def _name(self, key: str) -> str:
        return f"azure://{self._container}/{self._prefix}{key}"

    @contextmanager
    def _errors(self, what: str, key: str) -> Iterator[None]:
        """Turn obstore's exceptions into the errors of dvfs."""
        message = f"{what} {self._name(key)}"
        try:
            yield
        except DvfsError:
            raise
        except FileNotFoundError as exc:
            if _NO_CONTAINER.search(str(exc)):
                raise self._no_container(message) from exc
            raise NotFound(f"{message}: {_told(exc)}") from exc
        except self._core.exceptions.BaseError as exc:
            if _NO_CONTAINER.search(str(exc)):
                raise self._no_container(message) from exc
            if what == "cannot open":
                raise _from_settings(message, exc) from exc
            raise _from_answer(message, exc) from exc
        except ValueError as exc:  # a path or a setting that obstore does not take
            raise InvalidInput(f"{message}: {exc}") from exc
        except OSError as exc:
            raise Unavailable(f"{message}: {exc}") from exc

    def _no_container(self, message: str) -> NotFound:
        hint = "create the container, or check the store URL"
        return NotFound(f"{message}: there is no container {self._container}", hint=hint)


def configuration(options: AzureOptions) -> dict[str, str]:
    """Return what *options* say in obstore's words: `account_name`, `endpoint` and credentials. Raises InvalidInput."""
    found = _parsed(options.connection_string) if options.connection_string else {}
    if options.account_name:
        found["account_name"] = options.account_name
    if options.endpoint_url:
        found["endpoint"] = options.endpoint_url.rstrip("/")
    return found


def _parsed(connection_string: str) -> dict[str, str]:
    """Return what a connection string says in obstore's words. Raises InvalidInput, which does not repeat it."""
    told: dict[str, str] = {}
    for part in connection_string.split(";"):
        name, equals, value = part.strip().partition("=")
        if name and not equals:
            raise InvalidInput("the Azure connection string is not of the form Name=value;Name=value")
        told[name.lower()] = value.strip()
    if told.get("usedevelopmentstorage", "").lower() == "true":
        return {"use_emulator": "true"}
    words = {"accountname": "account_name", "accountkey": "account_key", "sharedaccesssignature": "sas_key"}
    found = {ours: told[theirs] for theirs, ours in words.items() if told.get(theirs)}
    if told.get("blobendpoint"):
        found["endpoint"] = told["blobendpoint"].rstrip("/")
    elif told.get("endpointsuffix") and "account_name" in found:
        protocol = told.get("defaultendpointsprotocol") or "https"
        found["endpoint"] = f"{protocol}://{found['account_name']}.blob.{told['endpointsuffix']}"
    if "account_name" not in found and "endpoint" in found:  # a string with a signature has no account of its own
        found["account_name"] = re.sub(r"https?://([^./:]+).*", r"\1", found["endpoint"])
    return found


def _from_settings(message: str, exc: Exception) -> DvfsError:
    """Return the error that settings mean with which obstore makes no client."""
    text = f"{message}: {_told(exc)}"
    if "Account must be specified" in text:
        return InvalidInput(text, hint="set azure.account_name, or AZURE_STORAGE_ACCOUNT_NAME")
    if "Access Key" in text or "SAS" in text:
        return AccessDenied(text, hint="check AZURE_STORAGE_ACCOUNT_KEY, or the connection string")
    return InvalidInput(text)


def _from_answer(message: str, exc: Exception) -> DvfsError:
    """Return the error that obstore's *exc* means."""
    status, code = _status(exc), _code(exc)
    text = f"{message}: {_told(exc)}"
    if status == 429 or code == "ServerBusy":
        return Throttled(text)
    if status in (408, 409) or status >= 500:
        return Unavailable(text)
    if "token request" in text:
        return AccessDenied(text, hint=_HINT)
    if status in (401, 403):
        hint = "check the credentials and the roles of the account"
        if code == "AuthenticationFailed":
            hint = "check the key or token, whether it has expired, and this machine's clock"
        return AccessDenied(text, hint=hint)
    if status == 404:
        return NotFound(text)
    if status == 412:
        return Conflict(text)
    return InvalidInput(text) if 400 <= status < 500 else Unavailable(text)


def _status(exc: Exception) -> int:
    found = _STATUS.search(str(exc))
    return int(found[1] or found[2]) if found else 0


def _code(exc: Exception) -> str:
    found = _CODE.search(str(exc))
    return found[1] if found else ""


def _told(exc: Exception) -> str:
    """Return what *exc* says, in a line: the service's own words where it has some."""
    text = str(exc)
    said, code = _SAID.search(text), _code(exc)
    if said is not None:
        return f"{said[1]} ({code})"
    line = _QUERY.sub(r"\1", text.partition("\n")[0].removeprefix("Generic MicrosoftAzure error: "))
    cause = _CAUSE.search(text)
    return f"{line}: {cause[1] or 'timed out'}" if cause else line
