"""Keeps the cache within its budget and its index true, outside the readers' path.

One daemon thread a process, started at the first need (so a process may fork before), which works in bounded
steps: it writes what readers noted to the index, evicts at most a batch of blocks, least recently used first, and
at times makes one of the 256 folders and the index agree. Several processes do this on one cache at the same time: an
unlinked file is counted out of the index once, by whoever removes its row first.

Thread-safe. `note_*` and `wake` never touch the disk.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

from dvfs.store.cache_budget import disk_space
from dvfs.store.cache_files import SHARDS, BlockFiles
from dvfs.store.cache_index import Index, IndexBusy, Row, Total
from dvfs.store.cache_listing import Listing
from dvfs.store.cache_locks import Sessions
from dvfs.store.clock import Clock
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.log_once import LogOnce

_log = logging.getLogger(__name__)

_NOTED_WAKE = 64
_MAX_NOTED = 1 << 16
_EVICT_BATCH = 64
_SLACK_SHARE = 20
_MAX_SLACK_BYTES = 256 << 20


class Keeper:
    """Index upkeep and eviction of one cache.

    *budget*: returns the budget in bytes, asked once. *reserve_bytes*: what is left free of the disk.
    *interval_seconds*: how long a note may wait to be written. Crash points: `evict:before-unlink`,
    `evict:after-unlink` (before the index knows).
    Invariant: `_step_lock` is held by whoever works on the index and evicts; `_lock` guards the notes alone.
    """

    def __init__(
        self,
        root: Path,
        files: BlockFiles,
        listing: Listing,
        index: Index,
        sessions: Sessions,
        *,
        budget: Callable[[], int],
        reserve_bytes: Callable[[], int],
        clock: Clock,
        log: LogOnce,
        crash: CrashPoint = no_crash,
        interval_seconds: float = 1.0,
    ) -> None:
        self._root = root
        self._files = files
        self._listing = listing
        self._index = index
        self._sessions = sessions
        self._budget = budget
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._log = log
        self._crash = crash
        self._interval_seconds = interval_seconds
        self._lock = threading.Condition(threading.Lock())
        self._puts: dict[bytes, tuple[int, int]] = {}
        self._grown: set[bytes] = set()
        self._uses: dict[bytes, int] = {}
        self._bytes = 0
        self._limit: int | None = None
        self._step_lock = threading.Lock()
        self._sweep_at = 0.0
        self._next_shard = random.randrange(SHARDS)
        self._to_agree = 0
        self._dead: list[str] = []
        self._looked_for_dead = False
        self._agreeing_with = 0
        self._urgent = False
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closed = False
        self._usable = True

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, so that nothing may be stored any more."""
        return self._closed

    def has_room(self, size: int) -> bool:
        """Tell whether a block of *size* bytes may be stored at all."""
        if self._closed:
            return False
        try:
            budget = self._budget()
        except OSError as exc:
            self._log.warning("limit", "cache %s: the disk does not tell its size: %s", self._root, exc)
            return False
        limit = budget if self._limit is None else self._limit
        if size <= limit and self._usable:
            return True
        if budget:
            self.wake()  # the disk may have room again
        return False

    def note_put(self, digest: bytes, size: int) -> None:
        """Note that the block *digest* has a file of *size* bytes."""
        with self._lock:
            self._note(digest, size, size)
        self._start()

    def note_grown(self, file: bytes, size: int) -> None:
        """Note that the whole file *file* takes *size* bytes more; how many in all is looked up later."""
        with self._lock:
            self._grown.add(file)
            self._note(file, size + self._puts.get(file, (0, 0))[0], size)
        self._start()

    def note_use(self, digest: bytes) -> None:
        """Note that the block *digest* was read."""
        with self._lock:
            self._uses[digest] = self._clock.now_ns()
            full = len(self._uses) == _NOTED_WAKE
        if full:
            self.wake()

    def wake(self) -> None:
        """Have the thread do its work now."""
        with self._lock:
            self._urgent = True
            self._lock.notify_all()
        self._start()

    def settle(self, *, everything: bool = False) -> None:
        """Do all the work that waits, now, in this thread; with *everything* check all folders as well."""
        if everything:
            with self._step_lock:
                self._to_agree = SHARDS
        more = self.step(sweep=True)
        while more:
            more = self.step()

    def forget(self, rows: list[bytes]) -> None:
        """Note at once that the files of *rows* are gone. Raises IndexBusy, ImportError."""
        with self._step_lock:
            with self._lock:
                for row in rows:
                    self._puts.pop(row, None)
            self._index.apply({}, {}, rows)

    def spare_bytes(self) -> int:
        """Return how many bytes more the cache may take before something must be evicted.

        Raises IndexBusy, ImportError, OSError.
        """
        with self._step_lock:
            cached = self._index.total().bytes
            limit = self._find_limit(cached)
            with self._lock:
                cached += sum(size for size, _ in self._puts.values())  # which the index does not have yet
            return limit - _slack(limit) - cached

    def total(self) -> Total | None:
        """Return what the index says, None when it cannot be asked."""
        try:
            return self._index.total()
        except (IndexBusy, ImportError):
            return None

    def step(self, *, sweep: bool = False) -> bool:
        """Do a bounded piece of the work; return True when more is waiting.

        With *sweep* look at all open blocks and one of the folders too, which takes ms rather than µs.
        """
        with self._step_lock:
            try:
                if sweep:
                    self._sweep_at = self._clock.monotonic() + self._interval_seconds
                    self._files.sweep_open()
                return self._step(sweep)
            except IndexBusy as exc:
                self._log.warning("busy", "cache index: %s; trying again later", exc)
            except ImportError as exc:
                self._usable = False
                self._log.warning("sqlite", "cache %s: no block is stored, Python has no sqlite3: %s", self._root, exc)
            except OSError as exc:
                self._log.warning(("step", exc.errno), "cache %s: upkeep failed: %s", self._root, exc)
            return False

    def close(self) -> None:
        """Stop the thread, write what was noted, end the session. No thread begins after it, and nothing has room."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._closed = True
            self._lock.notify_all()
        if thread is not None and self._pid == os.getpid():
            thread.join()
        if thread is not None or self._puts or self._uses:
            self.settle()
        if not self._puts:  # else the marker tells the next process to look for blocks that the index lacks
            try:
                self._sessions.end()
            except OSError as exc:
                self._log.warning("session", "cache %s: the session cannot be ended: %s", self._root, exc)
        self._index.close()

    def _note(self, row: bytes, size: int, more: int) -> None:
        is_first = not self._puts
        self._puts[row] = size, self._clock.now_ns()
        self._bytes += more
        if self._limit is None or self._bytes > self._limit or len(self._puts) >= _NOTED_WAKE:
            self._urgent = True
        if is_first or self._urgent:
            self._lock.notify_all()

    def _start(self) -> None:
        if self._thread is not None and self._pid == os.getpid():
            return
        with self._lock:
            if self._closed or (self._thread is not None and self._pid == os.getpid()):
                return
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._run, name="dvfs-cache", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                more = True
                while more and not self._closed:
                    more = self.step(sweep=self._clock.monotonic() >= self._sweep_at)
            except Exception:
                _log.exception("cache %s: upkeep failed", self._root)

    def _wait_for_work(self) -> bool:
        """Wait until notes are old or many enough to be written; return False when the keeper is closed."""
        with self._lock:
            while not (self._urgent or self._puts or self._closed):
                self._lock.wait()
            if not self._urgent:
                self._lock.wait_for(lambda: self._urgent or self._closed, self._interval_seconds)
            self._urgent = False
            return not self._closed

    def _step(self, sweep: bool) -> bool:
        with self._lock:
            puts, self._puts = self._puts, {}
            grown, self._grown = self._grown, set()
            uses, self._uses = self._uses, {}
        try:
            self._index.apply(self._as_they_are(puts, grown), uses)
            agreeing = self._agree(sweep)
            total = self._index.total()
        except BaseException:
            self._take_back(puts, grown, uses)
            raise
        with self._lock:
            self._bytes = total.bytes + sum(size for size, _ in self._puts.values())
        return self._evict(total.bytes) or agreeing

    def _as_they_are(self, puts: dict[bytes, tuple[int, int]], grown: set[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return *puts* with the sizes that the whole files, *grown*, have now; without those that are gone."""
        found = puts.copy()
        for file in grown & puts.keys():
            there = self._listing.row(file)
            if there is None:
                del found[file]
            else:
                found[file] = there[0], puts[file][1]
        return found

    def _take_back(self, puts: dict[bytes, tuple[int, int]], grown: set[bytes], uses: dict[bytes, int]) -> None:
        with self._lock:
            if len(puts) + len(self._puts) > _MAX_NOTED:
                self._to_agree = SHARDS  # the files will tell
                return
            self._puts = puts | self._puts
            self._grown |= grown
            self._uses = uses | self._uses
            self._lock.notify_all()  # who took them may have been another thread than the one that waits for some

    def _agree(self, sweep: bool) -> bool:
        """Make index and files of one folder agree; of all in turn after a process died or the index was lost."""
        if not self._looked_for_dead:
            self._dead = self._sessions.dead()
            self._looked_for_dead = True
            if self._dead:
                self._to_agree = SHARDS
        is_whole = self._index.total().is_whole
        is_reopened = self._agreeing_with != self._index.opened  # so that it may be another one
        self._agreeing_with = self._index.opened
        if (is_reopened and self._to_agree) or not (is_whole or self._to_agree):
            self._to_agree = SHARDS
        if not (self._to_agree or sweep):
            return False
        self._next_shard = (self._next_shard + 1) % SHARDS
        self._agree_shard(self._next_shard)
        if not self._to_agree or self._agreeing_with != self._index.opened:
            return self._to_agree > 0
        self._to_agree -= 1
        if not self._to_agree:
            self._index.set_whole()
            for session in self._dead:
                self._sessions.bury(session)
            self._dead = []
        return self._to_agree > 0

    def _agree_shard(self, shard: int) -> None:
        there = self._listing.rows(shard)
        known = self._index.shard(shard)
        # A row may be younger than the listing, so that a file is looked for again before its row goes.
        gone = [row for row in known - there if self._listing.row(row) is None]
        found = {row: size_and_time for row in there - known if (size_and_time := self._listing.row(row)) is not None}
        for row in self._listing.whole_rows(shard) & known:  # they grow, and who notes it last may not have looked last
            if (size_and_time := self._listing.row(row)) is not None:
                found[row] = size_and_time[0], 0
        self._index.apply(found, {}, gone)

    def _find_limit(self, cached_bytes: int) -> int:
        """Return how many bytes the cache may have now: its budget, less where the disk is short of its reserve."""
        limit = self._budget()
        try:
            free = disk_space(self._root).free_bytes
            limit = max(0, min(limit, cached_bytes + free - self._reserve_bytes()))
        except OSError as exc:
            self._log.warning("limit", "cache %s: the disk does not tell its size: %s", self._root, exc)
        self._limit = limit
        return limit

    def _evict(self, cached_bytes: int) -> bool:
        limit = self._find_limit(cached_bytes)
        if cached_bytes <= limit:
            return False
        # A little more than needed goes at once, so that a full cache does not evict at each block.
        enough = limit - _slack(limit)
        evicted: list[Row] = []
        for row in self._index.oldest(_EVICT_BATCH):
            if cached_bytes <= enough:
                break
            self._crash("evict:before-unlink")
            try:
                self._files.remove(row.digest)
            except OSError as exc:
                self._log.warning("evict", "cache %s: a block cannot be evicted: %s", self._root, exc)
                continue
            self._crash("evict:after-unlink")
            cached_bytes -= row.size
            evicted.append(row)
        self._index.remove(evicted)
        with self._lock:
            self._bytes -= sum(row.size for row in evicted)
        return bool(evicted) and cached_bytes > limit


def _slack(limit: int) -> int:
    return min(limit // _SLACK_SHARE, _MAX_SLACK_BYTES)
