"""A store below a prefix of an S3 bucket, or of anything that speaks S3 with conditional writes.

botocore is used without boto3's layer over it (same engine, credential chain and settings; a fifth less to
load) and imported when the first backend is made. It reads the AWS_* environment and ~/.aws itself: what
`S3Options` leaves None is decided there. Its own retries are off: `Retrying` repeats, and knows about doubt.
Checksum trailers are left out where S3 does not require them, as many S3-compatibles refuse them; SigV4
covers the body.

Thread-safe, as botocore's clients are. Does not create buckets.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dvfs.store.backend import Blob, ObjectInfo, check_range, cut
from dvfs.store.digest import Buffer
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

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

    from dvfs.store.s3_ranges import Part, RangeReader

_API_VERSION = "2006-03-01"
_THROTTLED = ("Throttl", "SlowDown", "RequestLimitExceeded", "TooManyRequests")
_PASSING = ("RequestTimeout", "OperationAborted")
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired")
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AllAccessDisabled")


@dataclass(frozen=True, slots=True)
class S3Options:
    """How a bucket is spoken to. None leaves a setting to the AWS environment and config files.

    *path_style*: the bucket in the path and not in the host name; False leaves it to botocore, which does so
    with custom endpoints. *sse*: `AES256` or `aws:kms`, with *sse_kms_key_id*. *requester_pays*: the caller
    accepts the costs. Timeouts in seconds, of each attempt: for the connection, and between two bytes.
    *max_connections*: kept open in the pool. *list_page*: keys per LIST request, at most 1000.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool = False
    sse: str | None = None
    sse_kms_key_id: str | None = None
    requester_pays: bool = False
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    max_connections: int = 32
    list_page: int = 1000


class S3Backend:
    """The `Backend` protocol below *prefix* ("" or without slashes at its ends) of *bucket*."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        options: S3Options | None = None,
        *,
        client: S3Client | None = None,
    ) -> None:
        """Make the client unless *client* is handed in, to be shared; no request is made.

        Raises InvalidInput on settings that cannot be.
        """
        self._options = options or S3Options()
        self._bucket = bucket
        self._prefix = prefix + "/" if prefix else ""
        self._payer: dict[str, Any] = {"RequestPayer": "requester"} if self._options.requester_pays else {}
        self._write_args = self._payer | _encryption(self._options)
        self._owns_client = client is None
        with self._errors("cannot open", ""):
            self._client = client or make_client(self._options)
        self._ranges: RangeReader | None = None
        self._reads_ranges = True

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        """See `Backend.get`."""
        return self._get(key, start, length, {})

    def get_if(self, key: str, start: int, length: int, etag: str) -> Blob:
        """See `ConditionalReads.get_if`."""
        return self._get(key, start, length, {"IfMatch": f'"{etag}"'})

    def stream(self, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        """See `StreamedReads.stream`."""
        length = sum(sizes)
        check_range(key, start, length)
        if not length:
            return
        with self._errors("cannot read", key):
            part = self._open_range(key, start, length, {})
            if part is not None:
                with closing(part):
                    for size in sizes:
                        if piece := part.read(size):
                            yield piece
                return
        yield from cut(self._get_ordinarily(key, start, length, {}).data, sizes)

    def _get(self, key: str, start: int, length: int | None, condition: dict[str, Any]) -> Blob:
        check_range(key, start, length)
        if length == 0:
            return Blob(b"", self.head(key).etag)
        if start or length is not None:
            with self._errors("cannot read", key):
                part = self._open_range(key, start, length, condition)
                if part is not None:
                    with closing(part):
                        return Blob(part.read(), _bare(part.etag))
        return self._get_ordinarily(key, start, length, condition)

    def _get_ordinarily(self, key: str, start: int, length: int | None, condition: dict[str, Any]) -> Blob:
        args: dict[str, Any] = self._payer | condition
        if start or length is not None:
            args["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        with self._errors("cannot read", key):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **args)
            except self._client.exceptions.ClientError as exc:
                if _status(exc) == 412:
                    raise Conflict(f"{self._name(key)} was changed by somebody else") from exc
                if _status(exc) != 416:
                    raise
                return Blob(b"", self.head(key).etag)
            data: bytes = answer["Body"].read()
            if len(data) != answer["ContentLength"]:
                raise Unavailable(f"{len(data)} bytes of {self._name(key)} came, not {answer['ContentLength']}")
            if "Range" in args:
                self._reads_ranges = False  # what went wrong there goes well here
                if not answer.get("ContentRange"):  # the server sent all
                    data = data[start : None if length is None else start + length]
            return Blob(data, _bare(answer["ETag"]))

    def _open_range(self, key: str, start: int, length: int | None, condition: dict[str, Any]) -> Part | None:
        """Return a range asked for in the quick way, None where that does not work."""
        if not self._reads_ranges:
            return None
        if self._ranges is None:
            from dvfs.store.s3_ranges import reader_of

            self._ranges = reader_of(self._client, self._bucket)
            if self._ranges is None:
                self._reads_ranges = False
                return None
        headers = {"x-amz-request-payer": "requester"} if self._payer else {}
        headers |= {"If-Match": condition["IfMatch"]} if condition else {}
        part = self._ranges.open(self._prefix + key, start, None if length is None else start + length, headers)
        if part is not None and not part.etag:
            part.close()
            return None
        return part

    def put_if_absent(self, key: str, data: Buffer) -> str:
        """See `Backend.put_if_absent`."""
        with self._errors("cannot write", key):
            try:
                return self._put(key, data, {"IfNoneMatch": "*"})
            except self._client.exceptions.ClientError as exc:
                if _status(exc) == 412:
                    raise AlreadyExists(f"{self._name(key)} exists already") from exc
                if _status(exc) == 409:  # another write of the key is under way: S3 says to try again
                    raise Unavailable(f"{self._name(key)} is being written by somebody else") from exc
                raise

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        """See `Backend.replace_if`."""
        with self._errors("cannot replace", key):
            try:
                return self._put(key, data, {"IfMatch": f'"{etag}"'})
            except self._client.exceptions.ClientError as exc:
                if _status(exc) in (409, 412):
                    raise Conflict(f"{self._name(key)} was changed by somebody else") from exc
                if _status(exc) == 404 and _code(exc) != "NoSuchBucket":
                    raise Conflict(f"cannot replace {self._name(key)}: it is gone") from exc
                raise

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Backend.list`. All keys are fetched before the first is yielded, some 300 bytes each.

        Not every server lists in order of key as S3 does: SeaweedFS lists by directory, `a/x` before `a-b`.
        """
        args: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": self._prefix + prefix,
            "MaxKeys": self._options.list_page,
            **self._payer,
        }
        found: list[ObjectInfo] = []
        while True:
            with self._errors("cannot list", prefix):
                page = self._client.list_objects_v2(**args)
            found += [
                ObjectInfo(item["Key"][len(self._prefix) :], _bare(item["ETag"]), item["Size"])
                for item in page.get("Contents", ())
            ]
            if not page.get("IsTruncated"):
                break
            args["ContinuationToken"] = page["NextContinuationToken"]
        found.sort(key=lambda item: item.key)
        yield from found

    def head(self, key: str) -> ObjectInfo:
        """See `Backend.head`."""
        with self._errors("cannot look at", key):
            answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key, **self._payer)
        return ObjectInfo(key, _bare(answer["ETag"]), answer["ContentLength"])

    def delete(self, key: str) -> None:
        """See `Backend.delete`."""
        with self._errors("cannot delete", key):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key, **self._payer)
            except self._client.exceptions.ClientError as exc:
                if _code(exc) != "NoSuchKey":
                    raise

    def close(self) -> None:
        """Close the connections, if no others share them."""
        if self._owns_client:
            self._client.close()

    def _put(self, key: str, data: Buffer, condition: dict[str, Any]) -> str:
        body = data if isinstance(data, bytes) else bytes(data)
        answer = self._client.put_object(
            Bucket=self._bucket, Key=self._prefix + key, Body=body, **condition, **self._write_args
        )
        return _bare(answer["ETag"])

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    @contextmanager
    def _errors(self, what: str, key: str) -> Iterator[None]:
        """Turn botocore's exceptions into the errors of dvfs."""
        from botocore import exceptions

        message = f"{what} {self._name(key)}"
        try:
            yield
        except DvfsError:
            raise
        except exceptions.ClientError as exc:
            raise _from_answer(message, self._bucket, exc) from exc
        except (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.NoAuthTokenError,
            exceptions.SSOError,
        ) as exc:
            hint = "set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
            raise AccessDenied(f"{message}: {exc}", hint=hint) from exc
        except (
            exceptions.ProfileNotFound,
            exceptions.InvalidConfigError,
            exceptions.ConfigParseError,
            exceptions.InvalidRegionError,
            exceptions.NoRegionError,
            exceptions.ParamValidationError,
            exceptions.UnsupportedS3ConfigurationError,
            ValueError,  # "Invalid endpoint"
        ) as exc:
            raise InvalidInput(f"{message}: {exc}") from exc
        except KeyError as exc:
            raise Unavailable(f"{message}: the answer has no {exc}") from exc
        except exceptions.BotoCoreError as exc:  # connections, timeouts, short bodies, answers that do not parse
            raise Unavailable(f"{message}: {exc}") from exc


def make_client(options: S3Options) -> S3Client:
    """Return a client for *options*. Raises botocore's exceptions."""
    import botocore.session
    from botocore.config import Config

    from dvfs.store.s3_listing import make_factory
    from dvfs.store.s3_loader import quick_loader

    session = botocore.session.Session(profile=options.profile)
    session.register_component("data_loader", quick_loader(session.get_component("data_loader")))
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        max_pool_connections=options.max_connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if options.path_style else None,
    )
    client = session.create_client(
        "s3",
        region_name=options.region,
        endpoint_url=options.endpoint_url,
        api_version=_API_VERSION,
        config=config,
    )
    cast("Any", client)._endpoint._response_parser_factory = make_factory()  # there is no public way to say so
    return cast("S3Client", client)


def _encryption(options: S3Options) -> dict[str, Any]:
    if options.sse is None:
        if options.sse_kms_key_id:
            raise InvalidInput("an SSE key id needs the encryption aws:kms")
        return {}
    args = {"ServerSideEncryption": options.sse}
    if options.sse_kms_key_id:
        args["SSEKMSKeyId"] = options.sse_kms_key_id
    return args


def _from_answer(message: str, bucket: str, exc: ClientError) -> DvfsError:
    """Return the error that the server's answer *exc* means."""
    status, code = _status(exc), _code(exc)
    text = f"{message}: {exc.response.get('Error', {}).get('Message') or code or status} ({code or status})"
    if code == "NoSuchBucket":
        return NotFound(f"{message}: there is no bucket {bucket}", hint="create the bucket, or check the store URL")
    if status == 429 or any(word in code for word in _THROTTLED):
        return Throttled(text)
    if any(word in code for word in _PASSING):
        return Unavailable(text)
    if code in _EXPIRED:
        return AccessDenied(text, hint="the credentials have expired: log in again")
    if code == "RequestTimeTooSkewed":
        return AccessDenied(text, hint="set this machine's clock")
    if status in (401, 403) or code in _DENIED:
        return AccessDenied(text, hint="check the credentials and the bucket's policy")
    if status == 404:
        return NotFound(text)
    if status == 501:
        return InvalidInput(
            text, hint="the server lacks what a store needs: conditional writes (If-Match, If-None-Match)"
        )
    if status == 507:
        return NoSpace(text)
    if status in (408, 409) or status >= 500:
        return Unavailable(text)
    return InvalidInput(text)


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def _bare(etag: str) -> str:
    return etag.strip('"')
