"""Fetches blocks: from memory, from the cache, or else from their packs, each once however many ask.

A request for a block that is being fetched joins it: all get its bytes, or its error. A caller that waits
(the foreground) fetches in its own thread; blocks that are only wanted are fetched by background threads, which
begin with the first `want`, step back while a caller waits for its turn, and leave some requests to callers.

Threading rule: thread-safe; `read_nowait` and `want` never block and may be called on an event loop. One lock
guards flights, queue and counters; it is never held across I/O. The order of waiting is: the lock of the block
between processes, then the turn for a request. Who waits for the first holds nothing that others wait for; who
waits for the second waits for requests under way only.

Retrying is a wrapper of the backend: an Unavailable that comes out here is the answer for those who wait, and the
next request tries anew.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from dvfs.store.backend import Backend
from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.cache_open import OpenBlock
from dvfs.store.digest import Buffer
from dvfs.store.errors import Corrupt, DvfsError, Internal, Unavailable
from dvfs.store.external import EXTERNAL, external_of
from dvfs.store.externals import Externals
from dvfs.store.fetch_memory import MemoryBlocks
from dvfs.store.fetch_pack import PackReader, check_ref
from dvfs.store.fetch_queue import WantedBlocks, in_one_request
from dvfs.store.fetch_stats import FetchStats
from dvfs.store.log_once import LogOnce
from dvfs.store.stalls import Cause, Course, at, here

_log = logging.getLogger(__name__)

_WANT_BATCH = 128
_DEMAND_SECONDS = 0.2
_MOST_DEMAND_BYTES = 8 << 20
_TOGETHER_BYTES = 8 << 20


class _Flight:
    """A block on its way; *done* is set once *data* or *error* is, or neither: then whoever waits tries itself.

    *course*: what it waits for.
    """

    __slots__ = ("course", "data", "done", "error")

    def __init__(self) -> None:
        self.course = Course(Cause.QUEUE)
        self.done = threading.Event()
        self.data: Buffer | None = None
        self.error: DvfsError | None = None


class Fetcher:
    """Blocks of the storages that *storage* returns for their tags, and of *externals*, through *cache*.

    *parallel*: most requests at a time, of which a quarter (at least one, of several) is left to callers that wait.
    *coalesce_gap_bytes*: two blocks of a pack that lie no further apart are fetched in one request.
    *request_bytes*: longest background request, but for a quarter more that ends it well: each one costs both ends as
    much as a megabyte or two of its bytes. *demand_bytes*: how long the request of a caller may become by wanted
    neighbours: up to 8 MiB, or a background request, where so much comes within a fifth of a second. *memory_bytes*:
    blocks kept in memory when the cache cannot store them. *queue_blocks*: most blocks wanted at a time.
    """

    def __init__(
        self,
        storage: Callable[[int], Backend],
        cache: Cache,
        *,
        externals: Externals | None = None,
        parallel: int = 16,
        coalesce_gap_bytes: int = 256 << 10,
        request_bytes: int = 32 << 20,
        demand_bytes: int = 2 << 20,
        memory_bytes: int = 64 << 20,
        queue_blocks: int = 1 << 16,
    ) -> None:
        self._packs = PackReader(storage, externals)
        self._cache = cache
        self._memory = MemoryBlocks(memory_bytes)
        self._parallel = max(1, parallel)
        self._background = max(1, self._parallel - max(1, self._parallel // 4))
        self._gap_bytes = coalesce_gap_bytes
        self._request_bytes = request_bytes
        self._demand_bytes = demand_bytes
        self._once = LogOnce(_log)

        self._state = threading.Condition()
        self._queue = WantedBlocks(queue_blocks, coalesce_gap_bytes)
        self._flights: dict[bytes, _Flight] = {}
        self._busy = 0  # requests under way, or about to be
        self._busy_background = 0
        self._waiting = 0  # callers that wait for their turn
        self._idle = 0  # background threads with nothing to do
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._misses = self._joins = self._errors = 0
        self._missed_bytes = self._ahead_bytes = 0
        self._hits_lock = threading.Lock()
        self._hits = self._memory_bytes = self._cache_bytes = 0

    def block(self, ref: BlockRef) -> bytes:
        """Return the raw bytes of *ref*. Raises Corrupt, Unavailable, AccessDenied."""
        with at(Cause.DISK):
            data = self._memory.get(ref.digest) or self._cache.get(ref.digest)
        if data is None:
            return bytes(self._fetch(ref, ref.raw))
        if len(data) != ref.raw:
            raise _wrong_length(ref, len(data))
        self._count_hit(cache_bytes=len(data))
        return data

    def read(self, ref: BlockRef, start: int, length: int) -> bytes:
        """Return *length* raw bytes of *ref* from byte *start* on. Raises as `block`; Corrupt beyond its end."""
        return bytes(self._read(ref, start, length))

    def _read(self, ref: BlockRef, start: int, length: int) -> Buffer:
        if start < 0 or length < 0 or start + length > ref.raw:
            raise Corrupt(f"bytes {start} to {start + length} are not in block {ref.digest.hex()} of {ref.raw}")
        with at(Cause.DISK):
            data = self._cache.read(ref.digest, start, length)
        if data is not None:
            if len(data) != length:
                raise _wrong_length(ref, start + len(data))
            self._count_hit(cache_bytes=length)
            return data
        whole: Buffer | None = self._memory.get(ref.digest)
        if whole is None:
            whole = self._fetch(ref, length)
        else:
            self._count_hit(memory_bytes=length)
        return whole if length == len(whole) else memoryview(whole)[start : start + length]

    def readinto(self, ref: BlockRef, start: int, view: memoryview) -> None:
        """Fill *view* with raw bytes of *ref* from byte *start* on. Raises as `read`.

        Where that is the whole block, its file is verified in *view*, and not read again for it.
        """
        if start or len(view) != ref.raw:
            view[:] = self._read(ref, start, len(view))
            return
        with at(Cause.DISK):
            found = self._cache.readinto(ref.digest, view)
        if found is None:
            view[:] = self._read(ref, 0, ref.raw)
            return
        if found != ref.raw:
            raise _wrong_length(ref, found)
        self._count_hit(cache_bytes=found)

    def read_nowait(self, ref: BlockRef, start: int, length: int) -> bytes | None:
        """Do as `read` when the bytes are in memory, the kernel's or ours; return None otherwise. Never blocks."""
        if length < 0:
            return None
        data = bytearray(length)
        return bytes(data) if self.readinto_nowait(ref, start, memoryview(data)) else None

    def readinto_nowait(self, ref: BlockRef, start: int, view: memoryview) -> bool:
        """Fill *view* with raw bytes of *ref* from byte *start* on if they are in memory; return whether."""
        stop = start + len(view)
        if start < 0 or stop > ref.raw:
            return False
        if not self._cache.readinto_nowait(ref.digest, start, view):
            whole = self._memory.get(ref.digest)
            if whole is None or len(whole) < stop:
                return False
            view[:] = whole[start:stop]
        self._count_hit(memory_bytes=len(view))
        return True

    def opened(self, ref: BlockRef) -> OpenBlock | None:
        """Return *ref* as it is open in the cache, None when it is not. Never blocks.

        Who reads from it tells `note_hit`.
        """
        return self._cache.opened(ref.digest)

    def note_hit(self, block: OpenBlock, length: int) -> None:
        """Take note that *length* bytes of *block* were read, which were in memory."""
        block.used = True
        self._count_hit(memory_bytes=length)

    def cached(self, ref: BlockRef) -> bool:
        """Tell whether *ref* can be read without a request."""
        return self._memory.get(ref.digest) is not None or self._cache.has(ref.digest)

    def is_unverified(self, ref: BlockRef) -> bool:
        """Tell whether *ref* is cached, and is verified when it is read next."""
        return self._memory.get(ref.digest) is None and self._cache.is_unverified(ref.digest)

    def foresee(self, ref: BlockRef) -> None:
        """Have the disk begin to read *ref*, if it is cached: it will be read soon."""
        self._cache.foresee(ref.digest)

    def want(self, refs: Iterable[BlockRef], *, urgent: bool = True, sparing: bool = False) -> int:
        """Have *refs* fetched in the background, those not *urgent* after all that are; return how many were taken.

        Between those that are *sparing* no more bytes are fetched than they have themselves.
        Cached blocks that are urgent are opened and verified. Best effort: beyond the queue's capacity they are not
        taken, and what goes wrong later is logged, once for each cause. Never blocks, raises nothing. A wanted block
        that somebody asks for is fetched at once.
        """
        taken = 0
        source = iter(refs)
        while batch := list(itertools.islice(source, _WANT_BATCH)):
            possible = [ref for ref in batch if self._is_possible(ref)]
            done = set() if urgent else {ref.digest for ref in possible if self.cached(ref)}
            with self._state:  # for a batch at a time, so that nobody waits for a long list
                done |= self._flights.keys()
                for ref in possible:
                    if self._closed or (
                        ref.digest not in done and not self._queue.add(ref, urgent=urgent, sparing=sparing)
                    ):
                        return taken
                    taken += 1
                if self._queue:
                    self._staff()
        return taken

    def unwant_all(self) -> None:
        """Forget all wanted blocks but those under way."""
        with self._state:
            self._queue.clear()
            self._state.notify_all()

    def wait_idle(self, timeout_seconds: float | None = None) -> bool:
        """Wait until no wanted block is left; return False when *timeout_seconds* went by before."""
        with self._state:
            return self._state.wait_for(
                lambda: self._closed or not (self._queue or self._busy_background), timeout_seconds
            )

    @property
    def raw_bytes(self) -> int:
        """Bytes that were fetched, as they are when they are not compressed."""
        return self._packs.raw_bytes

    def stats(self) -> FetchStats:
        """Return the counters."""
        packs = self._packs
        latencies, repeats = packs.latencies, packs.repeats
        with self._state:
            return FetchStats(
                requests=packs.requests,
                bytes_fetched=packs.bytes_fetched,
                raw_bytes=packs.raw_bytes,
                hits=self._hits,
                misses=self._misses,
                joins=self._joins,
                errors=self._errors,
                memory_bytes=self._memory_bytes,
                cache_bytes=self._cache_bytes,
                missed_bytes=self._missed_bytes,
                ahead_bytes=self._ahead_bytes,
                latencies=latencies,
                repeats=repeats,
                wanted=len(self._queue),
                under_way=self._busy,
                parallel=self._parallel,
            )

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Forget wanted blocks and end the background threads.

        Waits for requests under way, each thread for *timeout_seconds* at most: a store that hangs does not keep
        the process. Later requests raise Unavailable.
        """
        with self._state:
            self._closed = True
            self._queue.clear()
            self._state.notify_all()
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(timeout_seconds)

    # -- the foreground

    def _fetch(self, ref: BlockRef, length: int) -> Buffer:
        """Return *ref*, of which a caller asked for *length* bytes."""
        check_ref(ref)
        first = True
        while True:
            with self._state:
                if self._closed:
                    raise Unavailable(f"block {ref.digest.hex()} is not cached and the fetcher is closed")
                flight = self._flights.get(ref.digest)
                own = flight is None
                self._misses += first
                self._joins += first and not own
                self._missed_bytes += length if first else 0
                first = False
                if flight is None:
                    self._queue.take(ref.digest)
                    flight = self._flights[ref.digest] = _Flight()
            if own:
                self._fetch_foreground(ref, flight)
            else:
                with at(flight.course):
                    flight.done.wait()
            error = flight.error
            if error is not None:
                if own:
                    raise error
                # Each caller raises an error of its own: a traceback grows with each raise.
                raise type(error)(error.message, hint=error.hint) from error
            if flight.data is not None:
                if len(flight.data) != ref.raw:
                    raise _wrong_length(ref, len(flight.data))
                return flight.data

    def _fetch_foreground(self, ref: BlockRef, flight: _Flight) -> None:
        flights = {ref.digest: flight}
        try:
            with at(Cause.QUEUE), self._cache.fetching(ref.digest), contextlib.ExitStack() as locks:
                # Somebody may have been faster.
                with at(Cause.DISK):
                    data = self._memory.get(ref.digest) or self._cache.get(ref.digest)
                if data is not None:
                    flight.data = data
                    return
                with self._turn():
                    riders = self._take_riders(ref, flights)
                    riders = self._not_fetched(riders, flights, locks)
                    self._request(sorted([ref, *riders], key=lambda member: member.offset), flights, ahead=riders)
        except Exception as exc:
            self._fail(flights, exc)
        finally:
            self._end(flights)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._state:
            self._waiting += 1
            try:
                self._state.wait_for(lambda: self._busy < self._parallel)
            finally:
                self._waiting -= 1
            self._busy += 1
        try:
            yield
        finally:
            with self._state:
                self._busy -= 1
                self._state.notify_all()

    def _take_riders(self, ref: BlockRef, flights: dict[bytes, _Flight]) -> list[BlockRef]:
        """Take wanted neighbours of *ref* out of the queue, as flights of this caller."""
        with self._state:
            longest = min(self._request_bytes, _MOST_DEMAND_BYTES, self._packs.pace.bytes_in(_DEMAND_SECONDS))
            most = max(self._demand_bytes, longest)
            riders = self._queue.take_neighbours(ref, most) if self._queue else []
            return self._depart(riders, flights)

    # -- the background

    def _staff(self) -> None:
        """See that somebody works on the queue; called with the lock held."""
        if not self._idle and len(self._threads) < self._background and not self._closed:
            thread = threading.Thread(target=self._work, name="dvfs-fetch", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._state.notify_all()

    def _work(self) -> None:
        while True:
            flights: dict[bytes, _Flight] = {}
            with self._state:
                self._idle += 1
                self._state.wait_for(lambda: self._closed or self._may_work())
                self._idle -= 1
                if self._closed:
                    return
                refs = self._depart(self._queue.take_run(self._request_bytes, among=self._parallel), flights)
                self._busy += 1
                self._busy_background += 1
                if self._queue:
                    self._staff()
            try:
                with contextlib.ExitStack() as locks:
                    for run in in_one_request(self._not_fetched(refs, flights, locks), self._gap_bytes):
                        self._request(run, flights, ahead=run)
            except Exception as exc:
                self._fail(flights, exc)
            finally:
                self._end(flights)
                with self._state:
                    self._busy -= 1
                    self._busy_background -= 1
                    self._state.notify_all()

    def _is_ready(self, ref: BlockRef) -> bool:
        """Tell whether *ref* need not be fetched; a cached block is verified now, not when its reader comes."""
        return self._memory.get(ref.digest) is not None or self._cache.ready(ref.digest)

    def _is_possible(self, ref: BlockRef) -> bool:
        try:
            check_ref(ref)
        except Corrupt as exc:
            self._once.warning(ref.digest, "wanted block: %s", exc)
            return False
        return True

    def _may_work(self) -> bool:
        return bool(self._queue) and not self._waiting and self._busy < self._background

    # -- both

    def _depart(self, refs: list[BlockRef], flights: dict[bytes, _Flight]) -> list[BlockRef]:
        """Make flights of those *refs* that are on no other's way; called with the lock held."""
        own = [ref for ref in refs if ref.digest not in self._flights]
        for ref in own:
            flights[ref.digest] = self._flights[ref.digest] = _Flight()
        return own

    def _not_fetched(
        self, refs: list[BlockRef], flights: dict[bytes, _Flight], locks: contextlib.ExitStack
    ) -> list[BlockRef]:
        """Return those wanted *refs* that are neither cached nor on their way to another process, locked."""
        wanted = []
        for ref in refs:
            with contextlib.ExitStack() as lock:
                locked = not self._is_ready(ref) and lock.enter_context(self._cache.try_fetching(ref.digest))
                if locked and not self.cached(ref):
                    wanted.append(ref)
                    locks.push(lock.pop_all())
                    continue
            self._end({ref.digest: flights.pop(ref.digest)})
        return wanted

    def _request(self, run: list[BlockRef], flights: dict[bytes, _Flight], *, ahead: list[BlockRef]) -> None:
        """Fetch *run*, of at least one block, in one request, and land each block as it is verified.

        *ahead*: those of them that nobody has asked for yet.
        """
        for ref in run:
            flights[ref.digest].course.enter(here())
        not_asked_for = {ref.digest for ref in ahead}
        arrived: list[tuple[BlockRef, Buffer]] = []
        try:
            for ref, data in self._packs.blocks(run):
                flight = flights[ref.digest]
                if isinstance(data, Corrupt):
                    self._fail({ref.digest: flight}, data)
                    continue
                flight.data = data
                flight.done.set()  # who waits need not wait for the disk; who comes meanwhile finds the flight
                arrived.append((ref, data))
                waits = self._cache.is_laid(ref.digest)  # to be written with those behind it
                if not waits or sum(ref.raw for ref, _ in arrived) >= _TOGETHER_BYTES:
                    landing, arrived = arrived, []
                    self._land(landing, flights, not_asked_for)
                    del landing, data  # it may take long until the next one comes
        finally:
            self._land(arrived, flights, not_asked_for)
        self._once.forget(("fetch", Unavailable))

    def _land(
        self, arrived: Sequence[tuple[BlockRef, Buffer]], flights: dict[bytes, _Flight], not_asked_for: set[bytes]
    ) -> None:
        """End the flights of blocks that have *arrived*, when they are stored, and forget them: they hold the bytes."""
        with at(Cause.DISK):
            stored = self._store(arrived)
        for (ref, data), is_stored in zip(arrived, stored, strict=True):
            if not is_stored:
                self._memory.put(ref.digest, bytes(data))
            ahead_bytes = ref.stored if ref.digest in not_asked_for else 0
            self._end({ref.digest: flights.pop(ref.digest)}, ahead_bytes=ahead_bytes)

    def _store(self, arrived: Sequence[tuple[BlockRef, Buffer]]) -> list[bool]:
        """Put blocks into the cache that are not on a local disk already; return of each whether it is there now."""
        if arrived and arrived[0][0].storage == EXTERNAL:
            return [
                external_of(ref).scheme != "file" and self._cache.put(ref.digest, data, sealed=True)
                for ref, data in arrived
            ]
        return self._cache.put_all([(ref.digest, data) for ref, data in arrived])

    def _fail(self, flights: dict[bytes, _Flight], exc: Exception) -> None:
        """Give *exc* to all who wait for those *flights* that did not land, and to the log."""
        error = exc
        if not isinstance(error, DvfsError):
            _log.error("fetching blocks failed", exc_info=exc)
            error = Internal(f"fetching a block failed: {exc!r}")
            error.__cause__ = exc
        failed = 0
        for flight in flights.values():
            if not flight.done.is_set():
                failed += 1
                flight.error = error
        self._end(flights)
        with self._state:
            self._errors += failed
        if failed:
            cause = error.message if isinstance(error, Corrupt) else type(error)
            self._once.warning(("fetch", cause), "blocks cannot be fetched: %s", error)

    def _end(self, flights: dict[bytes, _Flight], *, ahead_bytes: int = 0) -> None:
        """End *flights*; those that neither landed nor failed are tried by whoever waits for them.

        *ahead_bytes*: stored bytes that came with them before anybody had asked.
        """
        with self._state:
            self._ahead_bytes += ahead_bytes
            for digest, flight in flights.items():
                if self._flights.get(digest) is flight:
                    del self._flights[digest]
                flight.done.set()

    def _count_hit(self, *, memory_bytes: int = 0, cache_bytes: int = 0) -> None:
        with self._hits_lock:
            self._hits += 1
            self._memory_bytes += memory_bytes
            self._cache_bytes += cache_bytes


def _wrong_length(ref: BlockRef, found: int) -> Corrupt:
    return Corrupt(f"block {ref.digest.hex()} has {found} bytes, not the {ref.raw} that its reference says")
