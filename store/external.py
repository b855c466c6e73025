"""External files: entries whose bytes stay at a URL, pinned to what was there when they were added.

The *pin* is what the server says of the object in a word that changes when its bytes do: an ETag, or the best that
there is. The content of an external file is cut at fixed places into blocks that are referred to like those of packs:
their storage is `EXTERNAL`, their pack the file itself, their digest over URL, pin and range instead of bytes.

All here is immutable and reads nothing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.digest import external_block_digest, external_digest
from dvfs.store.errors import Corrupt, InvalidInput
from dvfs.store.ids import PackId

EXTERNAL = 1 << 16
"""The storage tag of blocks of external files; no page can hold it, for tags of packs have 16 bits."""

BLOCK_BYTES = 1 << 20
URL_MAX = 4096
PIN_MAX = 1024
SIZE_MAX = 1 << 62

SCHEMES = ("s3", "gs", "azure", "http", "https", "file")

_HEAD = struct.Struct("<QHH")
_URL = re.compile(rb"([a-z][a-z0-9]*)://([^/?#]+)(/.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRETS = frozenset(
    (
        "x-amz-signature",
        "x-amz-credential",
        "x-amz-security-token",
        "awsaccesskeyid",
        "signature",
        "x-goog-signature",
        "x-goog-credential",
        "sig",
        "access_token",
        "token",
    )
)
"""Words of a query that grant access, as signed URLs have them."""


class External(NamedTuple):
    """An external file of *size* bytes at *url*, as it was when the server said *pin* of it."""

    url: bytes
    pin: bytes
    size: int

    @property
    def digest(self) -> bytes:
        """The digest of its entry: over size, URL and pin, not over bytes, which nobody has read."""
        return external_digest(self.size, self.url, self.pin)

    @property
    def scheme(self) -> str:
        """How the URL begins."""
        return self.url.partition(b":")[0].decode()

    @property
    def shown(self) -> str:
        """The URL, for people."""
        return self.url.decode("utf-8", "backslashreplace")

    def extents(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield the extents that cover the bytes from *start* to *stop*, less where the file ends."""
        stop = min(stop, self.size)
        if start >= stop:
            return
        digest, pack = self.digest, PackId(to_bytes(self))
        for at in range(start // BLOCK_BYTES * BLOCK_BYTES, stop, BLOCK_BYTES):
            raw = min(BLOCK_BYTES, self.size - at)
            block = BlockRef(EXTERNAL, pack, at, raw, raw, Codec.RAW, external_block_digest(digest, at, raw))
            first, last = max(start, at), min(stop, at + raw)
            yield Extent(block, first - at, last - first)


def to_bytes(external: External) -> bytes:
    """Return *external* as it lies in a page: size, lengths of URL and pin, both."""
    url, pin, size = external
    return b"".join((_HEAD.pack(size, len(url), len(pin)), url, pin))


def from_bytes(data: bytes) -> External:
    """Return the external file that `to_bytes` made *data* of. Raises Corrupt for one that cannot be."""
    if len(data) < _HEAD.size:
        raise Corrupt("an external file that ends inside its lengths")
    size, url_length, pin_length = _HEAD.unpack_from(data)
    url, pin = data[_HEAD.size : _HEAD.size + url_length], data[_HEAD.size + url_length :]
    if len(url) != url_length or len(pin) != pin_length or not 0 < pin_length <= PIN_MAX or size > SIZE_MAX:
        raise Corrupt("an external file whose lengths do not fit")
    try:
        check_url(url)
    except InvalidInput as exc:
        raise Corrupt(f"an external file whose URL cannot be: {exc.message}") from exc
    if not pin.isascii() or _CONTROL.search(pin.decode()):
        raise Corrupt(f"the external file {url!r} has a pin that no server gives")
    return External(url, pin, size)


def external_of(block: BlockRef) -> External:
    """Return the external file that *block* is a range of. Raises Corrupt where it is none."""
    external = from_bytes(block.pack)
    expected = external_block_digest(external.digest, block.offset, block.raw)
    if not 0 < block.raw <= BLOCK_BYTES or block.offset + block.raw > external.size or block.digest != expected:
        raise Corrupt(f"reference to a range that {external.shown} does not have")
    return external


def check_url(url: bytes) -> None:
    """Raise InvalidInput unless *url* is one that an external file may have, in the form that is kept."""
    shown = url[:200].decode("utf-8", "backslashreplace")
    if len(url) > URL_MAX:
        raise InvalidInput(f"a URL of {len(url)} bytes is too long: {shown}…", hint=f"{URL_MAX} bytes at most")
    try:
        text = url.decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{shown!r} is no URL: it is not UTF-8") from exc
    if _CONTROL.search(text):
        raise InvalidInput(f"{text[:200]!r} is no URL: it holds a control character")
    match = _URL.fullmatch(url) if not url.startswith(b"file:") else re.fullmatch(rb"(file)://()(/.*)", url)
    if match is None or match[1].decode() not in SCHEMES:
        names = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InvalidInput(f"{_without_user(shown)} is no URL of an external file", hint=f"supported: {names}")
    _check_secrets(match[1].decode(), match[2].decode(), text)


def _check_secrets(scheme: str, place: str, text: str) -> None:
    if "@" in place:
        raise InvalidInput(
            f"{_without_user(text)[:200]}: a URL holds no credentials",
            hint="they would be kept in the version: set them as for the store, or use a URL that needs none",
        )
    if scheme not in ("http", "https"):
        return
    if not text.isascii() or " " in text or "#" in text:
        raise InvalidInput(
            f"{text[:200]!r} is no URL as it is sent", hint="percent-encode it, and leave the part after # out"
        )
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as exc:
        raise InvalidInput(f"{text[:200]!r} is no URL: {exc}") from exc
    secret = next((name for name, _ in parse_qsl(parts.query, True) if name.lower() in _SECRETS), None)
    if secret is not None:
        raise InvalidInput(
            f"{parts._replace(query='').geturl()[:200]}: its query holds a credential, {secret}",
            hint="a signed URL would be kept in the version, and expire; use s3://, gs:// or azure://",
        )


def _without_user(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//", text)
