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
