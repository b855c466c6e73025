"""How the figures of a mount are shown: as fields for machines, as a page, as a line of rates. See docs/STATS.md."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from dvfs.cli.output import Json, counted, moment, name_fields, shown, shown_size, timestamp

if TYPE_CHECKING:
    from dvfs.fs.figures import Figures
    from dvfs.fs.mounts import Mount
    from dvfs.store.latencies import Latencies
    from dvfs.store.stalls import Cause

_MIB = 1 << 20
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
RATES = "   reads/s    MiB/s   fetched  requests/s  at once  waiting  for"
"""The head of `rates_line`."""


def fields(mount: Mount, figures: Figures) -> dict[str, Json]:
    """Return all *figures* of *mount* with stable names."""
    told: dict[str, Json] = figures.to_message()
    for section, latencies in (("reads", figures.reads.latencies), ("store", figures.store.latencies)):
        told[section] = _section(told[section]) | {"latencies": _latency_fields(latencies)}
    return mount_fields(mount) | {"mounted": timestamp(_mounted_ns(figures))} | told


def mount_fields(mount: Mount) -> dict[str, Json]:
    """Return which mount it is."""
    return {
        **name_fields("directory", os.fsencode(mount.directory)),
        "id": mount.id,
        "name": mount.name,
        "version": mount.version,
        "pid": mount.pid,
    }


def _section(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict)
    return value


def _latency_fields(latencies: Latencies) -> dict[str, Json]:
    from dvfs.store.latencies import bound_seconds

    return {
        "count": latencies.count,
        "seconds": latencies.seconds,
        **{f"{name}_seconds": latencies.quantile(part) for name, part in _QUANTILES.items()},
        "max_seconds": latencies.max_seconds,
        "buckets": [
            {"below_seconds": bound_seconds(index), "count": number}
            for index, number in enumerate(latencies.buckets)
            if number
        ],
    }


def page(mount: Mount, figures: Figures) -> list[str]:
    """Return the lines of *figures* of *mount* for people."""
    reads, waits, blocks = figures.reads, figures.waits, figures.blocks
    store, cache, daemon = figures.store, figures.cache, figures.daemon
    requests = [f"{name} {count}" for name, count in sorted(figures.requests.items())]
    return [
        f"{shown(mount.title)} at {shown(mount.directory)}, mounted {moment(_mounted_ns(figures))} UTC",
        f"requests: {', '.join(requests) or 'none'}; {figures.answered_by_shim} answered by the shim",
        f"reads:    {reads.count} of {shown_size(reads.bytes)}, {reads.count - reads.waited} answered at once,"
        f" {reads.waited} waited{_latency_text(reads.latencies)}",
        f"blocks:   hits {blocks.hits}, misses {blocks.misses}, {blocks.joins} of them on their way,"
        f" errors {blocks.errors}",
        f"bytes:    {shown_size(blocks.memory_bytes)} from memory, {shown_size(blocks.cache_bytes)} from the cache,"
        f" {shown_size(blocks.missed_bytes)} missed",
        f"store:    {counted(store.count, 'request')} for {shown_size(store.bytes)},"
        f" {shown_size(store.ahead_bytes)} of it ahead{_latency_text(store.latencies)};"
        f" {store.retries} tried again, {store.throttled} of them throttled",
        f"waiting:  {waits.seconds:.2f} s in {counted(waits.count, 'request')}, one at least for"
        f" {waits.some_seconds:.2f} s; {waits.now} now",
        *(f"  {name:14} {seconds:10.2f} s {part:5.0%}" for name, seconds, part in _causes(figures)),
        f"prefetch: {figures.prefetch.mode}{', filling' if figures.prefetch.fills else ''},"
        f" {counted(figures.prefetch.wanted, 'block')} wanted",
        f"cache:    {shown_size(cache.bytes)} of {shown_size(cache.budget_bytes)};"
        f" the version has {shown_size(cache.version_bytes)}",
        f"daemon:   pid {mount.pid}, {counted(daemon.workers, 'worker')}, {daemon.cpu_seconds:.1f} s of processor time,"
        f" opens {'without' if daemon.zero_open else 'with'} messages{_passed(figures)}",
    ]


def _passed(figures: Figures) -> str:
    if not figures.daemon.passthrough:
        return ""
    return f", {figures.reads.passed_through} of files that the kernel reads by itself"


def _causes(figures: Figures) -> list[tuple[str, float, float]]:
    from dvfs.store.stalls import Cause

    whole = figures.waits.seconds
    found = []
    for cause in Cause:
        seconds = figures.waits.of(cause)
        found.append((cause.name.lower(), seconds, seconds / whole if whole else 0.0))
    return found


def _latency_text(latencies: Latencies) -> str:
    if not latencies.count:
        return ""
    times = [f"{milliseconds(latencies.quantile(part))} {name}" for name, part in _QUANTILES.items()]
    return f": {', '.join(times)}, {milliseconds(latencies.max_seconds)} at most"


def milliseconds(seconds: float) -> str:
    """Return *seconds* for people: `0.8 ms`, `41 ms`."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


def _mounted_ns(figures: Figures) -> int:
    return time.time_ns() - int(figures.seconds * 1e9)


def rates(window: Figures) -> dict[str, Json]:
    """Return the rates of *window*, the time between two looks at a mount."""
    reads, seconds = window.reads, max(window.seconds, 1e-9)
    main = main_cause(window)
    return {
        "time": timestamp(time.time_ns()),
        "seconds": window.seconds,
        "reads_per_second": reads.count / seconds,
        "read_bytes_per_second": reads.bytes / seconds,
        "fetched_bytes_per_second": window.store.bytes / seconds,
        "store_requests_per_second": window.store.count / seconds,
        "at_once_percent": 100 * (1 - reads.waited / reads.count) if reads.count else None,
        "waiting_percent": 100 * min(1.0, window.waits.some_seconds / seconds),
        "cause": None if main is None else main.name.lower(),
    }


def rates_line(window: Figures) -> str:
    """Return `rates` below `RATES`, for people."""
    reads, seconds, main = window.reads, max(window.seconds, 1e-9), main_cause(window)
    at_once = f"{max(0.0, 1 - reads.waited / reads.count):7.0%}" if reads.count else f"{'-':>7}"
    return (
        f"{reads.count / seconds:10.0f} {reads.bytes / seconds / _MIB:8.1f} {window.store.bytes / seconds / _MIB:9.1f}"
        f" {window.store.count / seconds:11.1f}  {at_once} {min(1.0, window.waits.some_seconds / seconds):8.0%}"
        f"  {'-' if main is None else main.name.lower()}"
    )


def main_cause(window: Figures) -> Cause | None:
    """Return what was waited for most, None when nothing was."""
    from dvfs.store.stalls import Cause

    main = max(Cause, key=window.waits.of)
    return main if window.waits.of(main) > 0 else None
