"""Gets blocks out of packs: one ranged request, then each block checked against its own reference.

Blocks of external files come from where these are; there is no digest of their bytes to check, but the pin.

Stateless but for its figures; thread-safe. Knows no cache and starts no thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import pairwise

from dvfs.store.backend import Backend, stream
from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef, Codec
from dvfs.store.codec import decompress
from dvfs.store.digest import DIGEST_SIZE, Buffer, block_digest
from dvfs.store.errors import Corrupt, NotFound
from dvfs.store.external import EXTERNAL, external_of
from dvfs.store.externals import Externals
from dvfs.store.ids import PACK_ID_SIZE, pack_key
from dvfs.store.latencies import Histogram, Latencies
from dvfs.store.log_once import LogOnce
from dvfs.store.retry import Repeats, repeats_of
from dvfs.store.stalls import Cause, at

_log = logging.getLogger(__name__)

_MAX_OFFSET = 1 << 62
_LONG_BYTES = 1 << 20
_PIECE_BYTES = 4 << 20
_ALONE_BYTES = 256 << 10
_LONG_REQUEST_BYTES = 16 << 20
"""Nobody waits for each block of such a request."""
_CODECS = frozenset(int(codec) for codec in Codec)


def check_ref(ref: BlockRef) -> None:
    """Raise Corrupt when *ref*, which came out of a store, cannot be that of any block."""
    if ref.storage == EXTERNAL:
        external_of(ref)
        return
    stored_fits = ref.stored == ref.raw if ref.codec == Codec.RAW else 0 < ref.stored <= MAX_BLOCK_BYTES
    if not (
        0 < ref.raw <= MAX_BLOCK_BYTES
        and ref.codec in _CODECS
        and stored_fits
        and 0 <= ref.offset <= _MAX_OFFSET
        and ref.storage >= 0
        and len(ref.pack) == PACK_ID_SIZE
        and len(ref.digest) == DIGEST_SIZE
    ):
        raise Corrupt(
            f"reference to a block that cannot be: pack {ref.pack.hex()}, offset {ref.offset}, "
            f"{ref.stored} bytes stored, {ref.raw} raw, codec {ref.codec}, digest {ref.digest.hex()}"
        )


class Pace:
    """How fast long requests bring their bytes; the latest ones count most."""

    def __init__(self) -> None:
        self._bytes_per_second = 0.0

    def note(self, size: int, seconds: float) -> None:
        """Take note that a request brought *size* bytes in *seconds*; a short one tells of the latency alone."""
        if size >= _LONG_BYTES:
            rate = size / max(seconds, 1e-9)
            self._bytes_per_second += (rate - self._bytes_per_second) / (4 if self._bytes_per_second else 1)

    def bytes_in(self, seconds: float) -> int:
        """Return how many bytes a request brings in *seconds*; 0 as long as that is not known."""
        return int(self._bytes_per_second * seconds)


def _in_pieces(refs: Sequence[BlockRef]) -> list[tuple[int, list[BlockRef]]]:
    """Return in which pieces, of how many bytes, *refs* are to come, and which of them are in each.

    Together they span what *refs* do, in order of offset. Several blocks are a piece, as each costs the interpreter a
    turn; but long ones that are not compressed are one each where the request is short, so that each is here early.
    What lies before a new piece is one without blocks.
    """
    is_long = max(ref.offset + ref.stored for ref in refs) - refs[0].offset >= _LONG_REQUEST_BYTES
    pieces: list[tuple[int, list[BlockRef]]] = []
    members = [refs[0]]
    start, stop = refs[0].offset, refs[0].offset + refs[0].stored
    for before, ref in pairwise(refs):
        is_full = stop - start >= _PIECE_BYTES or (not is_long and (_needs_no_copy(before) or _needs_no_copy(ref)))
        if is_full and ref.offset >= stop:
            pieces.append((stop - start, members))
            members = []
            if ref.offset > stop:
                pieces.append((ref.offset - stop, []))
            start = ref.offset
        members.append(ref)
        stop = max(stop, ref.offset + ref.stored)
    return [*pieces, (stop - start, members)]


def _needs_no_copy(ref: BlockRef) -> bool:
    """Tell whether *ref* is as good in a piece as by itself: of a short one the piece would stay in memory."""
    return ref.codec == Codec.RAW and ref.raw == ref.stored >= _ALONE_BYTES


class PackReader:
    """Reads blocks from the storages that *storage* returns for their tags, which may raise dvfs errors.

    *externals*: reads external files; None where there are none.
    """

    def __init__(self, storage: Callable[[int], Backend], externals: Externals | None = None) -> None:
        self._storage = storage
        self._externals = externals
        self._once = LogOnce(_log)
        self._lock = threading.Lock()
        self._asked: dict[int, Backend] = {}
        self._histogram = Histogram()
        self.pace = Pace()
        self.requests = 0
        self.bytes_fetched = 0
        self.raw_bytes = 0

    @property
    def latencies(self) -> Latencies:
        """How long the requests took that were answered or failed, each with all its attempts."""
        with self._lock:
            return self._histogram.latencies()

    @property
    def repeats(self) -> Repeats:
        """What the backends that were asked for packs tried again, for whomever."""
        with self._lock:
            asked = list(self._asked.values())
        return sum((repeats_of(backend) for backend in asked), Repeats())

    def blocks(self, refs: Sequence[BlockRef]) -> Iterator[tuple[BlockRef, Buffer | Corrupt]]:
        """Yield each of *refs*, of one pack and in order of offset, with its raw bytes, or what is wrong with it.

        The bytes may be part of a piece of several blocks, in memory as long as one of them is.

        One request for all; one more for each block whose bytes were not its own. Raises Corrupt (the pack is
        missing), Unavailable, AccessDenied when a request fails: then for all that were not yielded before.
        """
        first = refs[0]
        if first.storage == EXTERNAL:
            yield from self._external_blocks(refs)
            return
        groups = _in_pieces(refs)
        sizes = [size for size, _ in groups]
        with closing(self._stream(first, first.offset, sizes)) as pieces:
            start = first.offset
            for size, members in groups:
                data = next(pieces, b"")
                for ref in members:
                    yield ref, self._decode_or_again(ref, data, ref.offset - start)
                start += size

    def _external_blocks(self, refs: Sequence[BlockRef]) -> Iterator[tuple[BlockRef, Buffer | Corrupt]]:
        external, start = external_of(refs[0]), refs[0].offset
        if self._externals is None:
            raise Corrupt(f"{external.shown} is an external file where none belongs")
        externals = self._externals
        length = max(ref.offset + ref.raw for ref in refs) - start
        data = b"".join(self._noted(externals.read(external, start, length) for _ in range(1)))
        with self._lock:
            self.raw_bytes += sum(ref.raw for ref in refs)
        for ref in refs:
            at = ref.offset - start
            yield ref, data[at : at + ref.raw]

    def _decode_or_again(self, ref: BlockRef, data: bytes, at: int) -> Buffer | Corrupt:
        alone = at == 0 and ref.stored == len(data)
        try:
            return self._decode(ref, data if alone else memoryview(data)[at : at + ref.stored])
        except Corrupt as exc:
            self._once.warning(ref.digest, "%s; fetching it again", exc)
            return self._again(ref)

    def _again(self, ref: BlockRef) -> Buffer | Corrupt:
        try:
            with closing(self._stream(ref, ref.offset, [ref.stored])) as pieces:
                return self._decode(ref, next(pieces, b""))
        except Corrupt as exc:
            return exc

    def _stream(self, ref: BlockRef, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        """Yield bytes from *start* on of the pack of *ref*, in pieces of *sizes* bytes."""
        backend = self._storage(ref.storage)
        key = pack_key(ref.pack)
        with self._lock:
            self._asked[id(backend)] = backend
        try:
            with closing(stream(backend, key, start, sizes)) as pieces:
                yield from self._noted(pieces)
        except NotFound as exc:
            raise Corrupt(f"pack {key} is missing in {backend.url}") from exc

    def _noted(self, pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
        """Yield *pieces* of one request to a store, and take note of it."""
        with self._lock:
            self.requests += 1
        began = time.monotonic()
        waited = 0.0
        fetched = 0
        try:
            while True:
                asked = time.monotonic()
                try:
                    with at(Cause.NETWORK):
                        piece = next(pieces, None)
                finally:
                    waited += time.monotonic() - asked
                if piece is None:
                    return
                fetched += len(piece)
                with self._lock:
                    self.bytes_fetched += len(piece)
                yield piece
        finally:
            with self._lock:
                self._histogram.add(waited)
                self.pace.note(fetched, time.monotonic() - began)

    def _decode(self, ref: BlockRef, stored: Buffer) -> Buffer:
        with at(Cause.DECOMPRESSION):
            raw = self._raw(ref, stored)
        with self._lock:
            self.raw_bytes += len(raw)
        return raw

    def _raw(self, ref: BlockRef, stored: Buffer) -> Buffer:
        if len(stored) != ref.stored:
            raise self._corrupt(ref, f"the pack ends {ref.stored - len(stored)} bytes before the block does")
        try:
            raw = stored if _needs_no_copy(ref) else decompress(ref.codec, stored, ref.raw)
        except Corrupt as exc:
            raise self._corrupt(ref, exc.message) from exc
        if block_digest(raw) != ref.digest:
            raise self._corrupt(ref, "its bytes do not have its digest")
        return raw

    def _corrupt(self, ref: BlockRef, why: str) -> Corrupt:
        where = f"{pack_key(ref.pack)} at {ref.offset} ({ref.stored} bytes) in {self._storage(ref.storage).url}"
        return Corrupt(f"block {ref.digest.hex()} of {where} is damaged: {why}")
