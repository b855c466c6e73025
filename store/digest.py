"""BLAKE3 in derive_key mode, one context for each meaning, so that no two kinds of bytes share a digest.

The contexts are part of the format (docs/format.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

DIGEST_SIZE = 32
ZERO = bytes(DIGEST_SIZE)

_BLOCK = "dvfs 1 block"
_FILE = "dvfs 1 file"
_LEAF = "dvfs 1 leaf"
_INNER = "dvfs 1 inner"
_EXTERNAL = "dvfs 1 link"
_EXTERNAL_BLOCK = "dvfs 1 link block"
_SEAL = "dvfs 1 cache seal"

Buffer = bytes | bytearray | memoryview


def block_digest(data: Buffer) -> bytes:
    """Return the digest of *data* as a block: of raw block bytes, stored pages, footers and tails alike."""
    return blake3(data, derive_key_context=_BLOCK).digest()


def file_digest(size: int, block_digests: Iterable[bytes]) -> bytes:
    """Return the digest of a file of several blocks, over its *size* in bytes and its *block_digests* in order."""
    hasher = blake3(size.to_bytes(8, "little"), derive_key_context=_FILE)
    hasher.update(b"".join(block_digests))
    return hasher.digest()


def leaf_digest(digested: Buffer) -> bytes:
    """Return the content digest of a leaf page over its *digested* columns."""
    return blake3(digested, derive_key_context=_LEAF).digest()


def inner_digest(digested: Buffer) -> bytes:
    """Return the content digest of an inner page over its *digested* columns."""
    return blake3(digested, derive_key_context=_INNER).digest()


def external_digest(size: int, url: bytes, pin: bytes) -> bytes:
    """Return the digest of an external file of *size* bytes at *url*, as *pin* says that it is."""
    head = size.to_bytes(8, "little") + len(url).to_bytes(4, "little")
    return blake3(head + url + pin, derive_key_context=_EXTERNAL).digest()


def external_block_digest(external: bytes, start: int, length: int) -> bytes:
    """Return what names *length* bytes from *start* of the external file whose digest is *external*."""
    where = start.to_bytes(8, "little") + length.to_bytes(8, "little")
    return blake3(external + where, derive_key_context=_EXTERNAL_BLOCK).digest()


def seal_of(name: bytes, data: Buffer) -> bytes:
    """Return what shows that *data* are the bytes of *name*, which is not their digest."""
    return blake3(name, derive_key_context=_SEAL).update(data).digest()
