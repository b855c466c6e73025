"""Compression of blocks and of catalog pages: the only module that knows zstandard.

All functions are thread-safe: contexts are kept per thread, because zstandard's are not shareable.
Nothing here verifies digests; `decompress` checks that the bytes are one whole frame of the declared length.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

import zstandard

from dvfs.store.block import MAX_BLOCK_BYTES, Codec
from dvfs.store.digest import Buffer
from dvfs.store.errors import Corrupt, InvalidInput

DEFAULT_LEVEL = 3
PAGE_LEVEL = 3
MAX_LEVEL = 22

_SAMPLE_LEVEL = 1
_SAMPLE_PIECE_BYTES = 16 << 10
_SAMPLE_PIECES = 3
_MIN_BYTES = 64
"""Shorter data is stored raw: a frame's header eats what little there is to win."""

_MODES = ("auto", "zstd", "none")
_SPEC = re.compile(r"(auto|none|zstd)(?::([0-9]{1,2}))?")


@dataclass(frozen=True, slots=True)
class Compression:
    """What to do with raw bytes before they are stored.

    *mode*: `none` stores them raw, `zstd` compresses all at *level*, `auto` compresses at *level* where a
    sample of the block says that it pays. Whatever the mode, bytes that did not get shorter are stored raw.
    """

    mode: str = "auto"
    level: int = DEFAULT_LEVEL

    def __post_init__(self) -> None:
        if self.mode not in _MODES or not 1 <= self.level <= MAX_LEVEL:
            raise InvalidInput(f"unknown compression {self.mode!r}, level {self.level}", hint=_HINT)

    @classmethod
    def parse(cls, text: str) -> Compression:
        """Return the policy that *text* names: auto, none, zstd or zstd:LEVEL. Raises InvalidInput."""
        match = _SPEC.fullmatch(text.strip())
        if match is None or (match[2] is not None and match[1] != "zstd"):
            raise InvalidInput(f"unknown compression {text!r}", hint=_HINT)
        return cls(match[1], DEFAULT_LEVEL if match[2] is None else int(match[2]))

    def __str__(self) -> str:
        return self.mode if self.mode != "zstd" else f"zstd:{self.level}"


_HINT = f"give auto, none, zstd or zstd:LEVEL with a level of 1 to {MAX_LEVEL}"


class _Contexts(threading.local):
    """The contexts of one thread."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        found = self._compressors.get(level)
        if found is None:
            found = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
            self._compressors[level] = found
        return found


_contexts = _Contexts()


def compress(data: Buffer, policy: Compression) -> tuple[int, Buffer]:
    """Return the codec and the stored bytes of the block *data* under *policy*.

    Stored bytes are never longer than *data*; with codec RAW they are *data* itself, not a copy.
    """
    if policy.mode == "none" or len(data) < _MIN_BYTES or (policy.mode == "auto" and not _pays(data)):
        return Codec.RAW, data
    stored = _contexts.compressor(policy.level).compress(data)
    # Under `auto` a saving of less than 1/32 is not worth what it takes from small files: their own ranges.
    enough = len(data) if policy.mode == "zstd" else len(data) - (len(data) >> 5)
    return (Codec.ZSTD, stored) if len(stored) < enough else (Codec.RAW, data)


def _pays(data: Buffer) -> bool:
    """Guess from a few pieces of *data* whether compressing it saves at least 1/32."""
    size = len(data)
    if size <= 2 * _SAMPLE_PIECES * _SAMPLE_PIECE_BYTES:
        return True
    view = memoryview(data)
    step = (size - _SAMPLE_PIECE_BYTES) // (_SAMPLE_PIECES - 1)
    compressor = _contexts.compressor(_SAMPLE_LEVEL)
    stored = raw = 0
    for start in range(0, size - _SAMPLE_PIECE_BYTES + 1, step):
        stored += len(compressor.compress(view[start : start + _SAMPLE_PIECE_BYTES]))
        raw += _SAMPLE_PIECE_BYTES
    return stored < raw - (raw >> 5)


def decompress(codec: int, stored: Buffer, raw_len: int) -> bytes:
    """Return the *raw_len* raw bytes of a block stored under *codec* as *stored*.

    Never makes more than *raw_len* bytes, whatever *stored* claims. Raises Corrupt when *stored* is not
    exactly one block of that length, or when *raw_len* is beyond what a block may have.
    """
    if not 0 <= raw_len <= MAX_BLOCK_BYTES:
        raise Corrupt(f"a block claims to be of {raw_len} bytes; none is longer than {MAX_BLOCK_BYTES}")
    if codec == Codec.RAW:
        if len(stored) != raw_len:
            raise Corrupt(f"a raw block has {len(stored)} bytes instead of {raw_len}")
        return bytes(stored)
    if codec != Codec.ZSTD:
        raise Corrupt(f"a block has the unknown codec {codec}")
    size = _frame_bytes(stored)
    if size != raw_len:
        raise Corrupt(f"a compressed block says it has {size} bytes instead of {raw_len}")
    return _inflate(stored, raw_len)


def compress_page(raw: Buffer) -> bytes:
    """Return the stored bytes of a catalog page, a zstd frame with its content size; deterministic."""
    return _contexts.compressor(PAGE_LEVEL).compress(raw)


def decompress_page(stored: Buffer, max_raw: int) -> bytes:
    """Return the raw bytes of a catalog page.

    Raises Corrupt when *stored* is not one whole frame, or one of more than *max_raw* bytes.
    """
    size = _frame_bytes(stored)
    if size > max_raw:
        raise Corrupt(f"a page claims to be of {size} bytes; at most {max_raw} are allowed")
    return _inflate(stored, size)


def _frame_bytes(stored: Buffer) -> int:
    """Return the length in bytes that the frame's header declares. Raises Corrupt when it declares none."""
    try:
        frame = zstandard.get_frame_parameters(stored)
    except zstandard.ZstdError as exc:
        raise Corrupt(f"compressed bytes do not start a zstd frame: {exc}") from exc
    if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN or frame.dict_id:
        raise Corrupt("a zstd frame does not declare its length, or wants a dictionary")
    return int(frame.content_size)


def _inflate(stored: Buffer, size: int) -> bytes:
    """Decompress one whole frame whose header declares *size* bytes, which bounds what is allocated."""
    if size == 0:  # zstandard looks no further than the header then
        if bytes(stored) != compress_page(b""):
            raise Corrupt("a zstd frame of no bytes is followed by others")
        return b""
    try:
        raw = _contexts.decompressor.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise Corrupt(f"compressed bytes are damaged: {exc}") from exc
    if len(raw) != size:
        raise Corrupt(f"compressed bytes hold {len(raw)} bytes instead of {size}")
    return raw
