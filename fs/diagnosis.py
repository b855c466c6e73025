"""Says in words what reading waited for: a table of small rules, each a pure function of the figures of a window.

A rule returns what it found with the figure that shows it, and how much of the time it explains, or None. It takes
nothing but the figures, so that each can be tried with figures that a test makes up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dvfs.fs.figures import Figures
from dvfs.store.stalls import Cause

_LEAST_WAITING = 0.05
_LEAST_WAITING_SECONDS = 1.0
"""Where some request waited for a smaller part of the window, and for less time, nothing was slow."""
_LEAST_PART = 0.1
"""A cause of less than this part of all waiting is not named."""
_BUSY = 0.9
_MANY_TIMES = 4
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What made reading wait. *kind*: a word for machines; *share*: of the waiting, or of the time, 0 to 1."""

    kind: str
    share: float
    text: str
    hint: str | None = None


Rule = Callable[[Figures], Finding | None]


def diagnose(window: Figures) -> list[Finding]:
    """Return what *window* shows, most important first; one finding at least."""
    found = [finding for rule in RULES if (finding := rule(window)) is not None]
    return sorted(found, key=lambda finding: -finding.share) or [nothing_slow(window)]


def unanswered(window: Figures) -> Finding | None:
    """The store answers nothing while requests wait."""
    waits, store = window.waits, window.store
    if not waits.now or store.latencies.count or _part(window, Cause.NETWORK) + _part(window, Cause.CATALOG) < 0.5:
        return None
    text = f"the store answered no request; {_number(waits.now, 'request')} of the kernel wait, the longest for "
    text += _time(waits.longest_now_seconds)
    return Finding("store_unanswered", 1.0, text, "`dvfs doctor` checks the store, the log of the mount says more")


def failing(window: Figures) -> Finding | None:
    """Requests to the store fail and are tried again."""
    store = window.store
    failed = store.retries - store.throttled
    if failed <= 0:
        return None
    text = f"{_number(failed, 'request')} to the store failed and went out again after a pause"
    return Finding("store_failing", _network_or(window, 0.1), text, "the log of the mount and `dvfs doctor` say why")


def throttled(window: Figures) -> Finding | None:
    """The store asks to be asked less."""
    count = window.store.throttled
    if count <= 0:
        return None
    return Finding(
        "store_throttled",
        _network_or(window, 0.1),
        f"the store refused {_number(count, 'request')}, to be asked less",
        "fewer readers at a time, a higher quota, or `dvfs warm` beforehand",
    )


def network(window: Figures) -> Finding | None:
    """Reading waits for answers of the store."""
    part, store = _part(window, Cause.NETWORK), window.store
    if not part:
        return None
    text = f"{part:.0%} of the waiting was for answers of the store"
    if store.latencies.count and window.seconds:
        text += (
            f": {_time(store.latencies.quantile(0.5))} median a request,"
            f" {store.latencies.seconds / window.seconds:.1f} at a time,"
            f" {store.bytes / window.seconds / _MIB:.1f} MiB/s"
        )
    return Finding("network", part, text, _network_hint(window))


def _network_hint(window: Figures) -> str:
    if window.prefetch.mode == "none":
        return "nothing is fetched ahead with `--prefetch none`; `auto` fetches what seems to come"
    if window.cache.version_bytes > window.cache.budget_bytes:
        return "what is read once may be gone when it is read again: see the cache below"
    return "what is in the cache waits for no store: `dvfs warm` beforehand, or `--prefetch all`"


def cold(window: Figures) -> Finding | None:
    """Most of what is read is not in the cache, which has room for it."""
    blocks, cache = window.blocks, window.cache
    asked = blocks.hits + blocks.misses
    if not asked or blocks.misses < asked / 2 or cache.version_bytes > cache.budget_bytes or not _is_slow(window):
        return None
    return Finding(
        "cold",
        _part(window, Cause.NETWORK) * 0.9,
        f"{blocks.misses} of {_number(asked, 'block')} asked for were not in the cache",
        "`dvfs warm` fills the cache with all of the version",
    )


def small_cache(window: Figures) -> Finding | None:
    """The version does not fit into the cache."""
    cache = window.cache
    if not window.blocks.misses or cache.version_bytes <= cache.budget_bytes or not _is_slow(window):
        return None
    return Finding(
        "cache_small",
        _part(window, Cause.NETWORK) * 0.95,
        f"the cache keeps {_size(cache.budget_bytes)}, the files of the version have {_size(cache.version_bytes)}",
        "a larger `--cache-size`; where the order of reads is known, `dvfs prefetch --order`",
    )


def sparse(window: Figures) -> Finding | None:
    """Small reads here and there bring much that nobody reads."""
    store, missed = window.store, window.blocks.missed_bytes
    fetched = store.bytes - store.ahead_bytes
    if missed <= 0 or fetched < _MANY_TIMES * missed or fetched < 4 * _MIB or not _is_slow(window):
        return None
    return Finding(
        "sparse_reads",
        _part(window, Cause.NETWORK) * 0.8,
        f"reads of {_size(missed)} fetched {_size(fetched)}: each took a small part of a block",
        "read neighbours together; blocks that are not compressed (`dvfs upload --compression none`) serve small files"
        " alone with `--prefetch none`",
    )


def decompression(window: Figures) -> Finding | None:
    """Reading waits for decompression and verification."""
    part = _part(window, Cause.DECOMPRESSION)
    if not part:
        return None
    text = f"{part:.0%} of the waiting was for decompressing and verifying {_size(window.store.raw_bytes)}"
    return Finding(
        "decompression", part, text, "the processor is the limit: `dvfs upload --compression none`, or a warm cache"
    )


def queue(window: Figures) -> Finding | None:
    """Reading waits for its turn."""
    part, store = _part(window, Cause.QUEUE), window.store
    if not part:
        return None
    text = f"{part:.0%} of the waiting was for a turn: for a thread, for one of the {store.parallel} requests at a time"
    text += ", or for another process that fetches the same"
    return Finding("queue", part, text, "more readers bring no more; several mounts that begin together fetch in turns")


def catalog(window: Figures) -> Finding | None:
    """Requests wait for pages of the catalog."""
    part = _part(window, Cause.CATALOG)
    if not part:
        return None
    text = f"{part:.0%} of the waiting was for pages of the catalog: names and attributes that were not at hand"
    return Finding("catalog", part, text, "each page is fetched once: `find DIR > /dev/null`, or `dvfs warm`")


def disk(window: Figures) -> Finding | None:
    """Reading waits for files of the cache."""
    part = _part(window, Cause.DISK)
    if not part:
        return None
    text = f"{part:.0%} of the waiting was for files of the cache: {_size(window.blocks.cache_bytes)} read and verified"
    return Finding("disk", part, text, "a faster disk for `cache_dir`, or more memory for the kernel to keep files in")


def busy(window: Figures) -> Finding | None:
    """The daemon has no processor left."""
    daemon = window.daemon
    seconds = window.seconds * daemon.workers
    if not seconds:
        return None
    loop, all_threads = daemon.loop_cpu_seconds / seconds, daemon.cpu_seconds / seconds
    if max(loop, all_threads) < _BUSY:
        return None
    text = f"the daemon used {all_threads:.0%} of a processor, {loop:.0%} in the thread that answers"
    if daemon.workers > 1:
        text = f"each of {daemon.workers} workers" + text.removeprefix("the daemon")
    return Finding("daemon_busy", min(1.0, max(loop, all_threads)), text, _busy_hint(window, loop))


def _busy_hint(window: Figures, loop: float) -> str:
    if loop >= _BUSY:
        return "more `--workers` where processors are idle; fewer, larger reads"
    if _part(window, Cause.DECOMPRESSION):
        return "blocks are decompressed and verified once: a warm cache, or `dvfs upload --compression none`"
    return "blocks are verified once for each mount: a mount that stays has no more to verify"


def opens(window: Figures) -> Finding | None:
    """Opening files costs messages."""
    count = sum(window.requests.get(name, 0) for name in ("open", "opendir", "release", "releasedir"))
    asked = sum(window.requests.values())
    pays = window.daemon.zero_open or window.daemon.passthrough
    if pays or not window.seconds or count < asked / 4 or count / window.seconds < 100:
        return None
    return Finding(
        "opens",
        min(1.0, window.daemon.loop_cpu_seconds / window.seconds) * count / asked,
        f"{count} of {_number(asked, 'request')} of the kernel were opens and their ends, which need not be sent",
        "the shim is not at work: gcc and the headers of libfuse 3 when dvfs is installed",
    )


def nothing_slow(window: Figures) -> Finding:
    """Say that nothing was slow."""
    reads = window.reads
    if not reads.count:
        asked = sum(window.requests.values())
        text = f"nothing was read from the daemon; {_number(asked, 'request')} of other kinds came"
        return Finding(
            "nothing_read", 0.0, text, "what the kernel has in memory it reads without the daemon: look at the program"
        )
    at_once = 1 - reads.waited / reads.count
    text = f"nothing was slow: of {_number(reads.count, 'read')}, {_size(reads.bytes)}, {at_once:.0%} were answered"
    text += " from memory at once"
    return Finding("nothing_slow", 0.0, text, "look at the program: it does not wait for its data")


RULES: tuple[Rule, ...] = (
    unanswered,
    throttled,
    failing,
    network,
    small_cache,
    cold,
    sparse,
    decompression,
    queue,
    catalog,
    disk,
    busy,
    opens,
)
"""What is looked at; of equal importance the first goes first."""


def _is_slow(window: Figures) -> bool:
    return window.waits.some_seconds >= min(_LEAST_WAITING * window.seconds, _LEAST_WAITING_SECONDS) > 0


def _part(window: Figures, cause: Cause) -> float:
    """Return what part of all waiting *cause* was; 0 where it is not worth a word."""
    if not _is_slow(window) or not window.waits.seconds:
        return 0.0
    part = window.waits.of(cause) / window.waits.seconds
    return part if part >= _LEAST_PART else 0.0


def _network_or(window: Figures, least: float) -> float:
    return max(_part(window, Cause.NETWORK) * 1.01, least)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(count: int) -> str:
    return f"{count / _MIB:.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):.1f} GiB"
