"""What a fetcher counted."""

from __future__ import annotations

from dataclasses import dataclass

from dvfs.store.latencies import Latencies
from dvfs.store.retry import Repeats


@dataclass(frozen=True, slots=True)
class FetchStats:
    """Counters since the fetcher was made.

    *requests* sent for blocks, *bytes_fetched* stored bytes received, *raw_bytes* of verified blocks made of them;
    *ahead_bytes*: stored bytes of blocks that nobody had asked for when they were requested; *latencies* of requests,
    *repeats*: what was tried again. *hits* and *misses* of callers that asked for bytes, *joins*: misses that found the
    block on its way, *errors*: blocks that could not be had. What callers asked for: *memory_bytes* were in memory,
    *cache_bytes* in files of the cache, *missed_bytes* had to be waited for.

    Now: *wanted* blocks in the queue, requests *under_way* of *parallel* at most.
    """

    requests: int
    bytes_fetched: int
    raw_bytes: int
    hits: int
    misses: int
    joins: int
    errors: int
    memory_bytes: int
    cache_bytes: int
    missed_bytes: int
    ahead_bytes: int
    latencies: Latencies
    repeats: Repeats
    wanted: int
    under_way: int
    parallel: int
