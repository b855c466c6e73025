"""A backend in memory that notes each request and can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from dvfs.store.backend import Backend, Blob, ObjectInfo
from dvfs.store.block import BlockRef, Codec
from dvfs.store.codec import Compression, compress
from dvfs.store.digest import Buffer, block_digest
from dvfs.store.errors import AlreadyExists, Conflict, NotFound
from dvfs.store.ids import PackId, pack_key

Get = tuple[str, int, int | None]


class MemoryBackend:
    """Fulfils `Backend`. *gets* lists all calls of `get`; *on_get* is called in each, and may block or raise."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.gets: list[Get] = []
        self.on_get: Callable[[Get], None] = lambda get: None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return "memory:"

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        with self._lock:
            self.gets.append((key, start, length))
        self.on_get((key, start, length))
        data = self._find(key)
        return Blob(data[start : None if length is None else start + length], _etag(data))

    def put_if_absent(self, key: str, data: Buffer) -> str:
        with self._lock:
            if key in self.objects:
                raise AlreadyExists(f"{key} is there")
            self.objects[key] = bytes(data)
        return _etag(bytes(data))

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        with self._lock:
            if key not in self.objects or _etag(self.objects[key]) != etag:
                raise Conflict(f"{key} was changed")
            self.objects[key] = bytes(data)
        return _etag(bytes(data))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key, data in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, _etag(data), len(data))

    def head(self, key: str) -> ObjectInfo:
        data = self._find(key)
        return ObjectInfo(key, _etag(data), len(data))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def close(self) -> None:
        pass

    def _find(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError as exc:
            raise NotFound(f"{key} is not there") from exc


def _etag(data: bytes) -> str:
    return f"{hash(data):x}"  # which Python computes once for each object


def store_blocks(
    backend: Backend, blocks: Sequence[bytes], *, seed: int = 0, compression: str = "none", gap_bytes: int = 0
) -> list[BlockRef]:
    """Write *blocks* as one pack, *gap_bytes* apart, and return references to them; *seed* makes packs differ."""
    pack = PackId(seed.to_bytes(24, "big"))
    body = bytearray()
    refs = []
    for raw in blocks:
        codec, stored = compress(raw, Compression.parse(compression))
        refs.append(BlockRef(0, pack, len(body), len(stored), len(raw), codec, block_digest(raw)))
        body += bytes(stored) + bytes(gap_bytes)
    assert compression != "none" or all(ref.codec == Codec.RAW for ref in refs)
    backend.put_if_absent(pack_key(pack), bytes(body))
    return refs
