"""Each rule of `dvfs why-slow` on figures made up for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dvfs.fs import diagnosis
from dvfs.fs.diagnosis import RULES, Finding, Rule, diagnose
from dvfs.fs.figures import Blocks, CacheUse, Daemon, Figures, Prefetching, Reads, Requests, Waits
from dvfs.store.latencies import Histogram, Latencies

MIB = 1 << 20
GIB = 1 << 30


def latencies(*seconds: float) -> Latencies:
    histogram = Histogram()
    for item in seconds:
        histogram.add(item)
    return histogram.latencies()


def waits(seconds: float = 0.0, some: float | None = None, now: int = 0, **causes: float) -> Waits:
    """Return waits of *causes*, and the rest of *seconds* for nothing that is named."""
    parts = dict.fromkeys(("catalog", "queue", "network", "decompression", "disk"), 0.0) | causes
    whole = max(seconds, sum(parts.values()))
    return Waits(
        count=10,
        seconds=whole,
        some_seconds=whole if some is None else some,
        other_seconds=whole - sum(parts.values()),
        now=now,
        longest_now_seconds=4.5 if now else 0.0,
        **{f"{name}_seconds": seconds for name, seconds in parts.items()},
    )


STORE = Requests(0, 0, 0, 0, 0, 0, Latencies(), 0, 16)
QUIET = Figures(
    seconds=5.0,
    requests={"read": 1000, "lookup": 10},
    answered_by_shim=0,
    reads=Reads(1000, 100 * MIB, 0, 0, Latencies(), 0),
    waits=waits(),
    blocks=Blocks(1000, 0, 0, 0, 100 * MIB, 0, 0),
    store=STORE,
    prefetch=Prefetching("auto", False, 0),
    cache=CacheUse(GIB, 10 * GIB, 2 * GIB),
    daemon=Daemon(0.5, 0.4, True, False, 1),
)


def figures(**changed: Any) -> Figures:
    return replace(QUIET, **changed)


NETWORK = waits(network=4.0, decompression=1.0)
COLD = {"waits": NETWORK, "blocks": Blocks(10, 90, 0, 0, MIB, 0, 90 * MIB)}

CASES: list[tuple[str, Figures, str]] = [
    (
        "unanswered",
        figures(waits=waits(network=9.0, now=2)),
        "the store answered no request; 2 requests of the kernel wait, the longest for 4.5 s",
    ),
    (
        "throttled",
        figures(waits=NETWORK, store=replace(STORE, retries=7, throttled=7)),
        "the store refused 7 requests, to be asked less",
    ),
    (
        "failing",
        figures(store=replace(STORE, retries=3, throttled=2)),
        "1 request to the store failed and went out again after a pause",
    ),
    (
        "network",
        figures(waits=NETWORK, store=replace(STORE, count=100, bytes=50 * MIB, latencies=latencies(*[0.04] * 100))),
        "80% of the waiting was for answers of the store: 36 ms median a request, 0.8 at a time, 10.0 MiB/s",
    ),
    (
        "small_cache",
        figures(**COLD, cache=CacheUse(GIB, GIB, 2 * GIB)),
        "the cache keeps 1.0 GiB, the files of the version have 2.0 GiB",
    ),
    ("cold", figures(**COLD), "90 of 100 blocks asked for were not in the cache"),
    (
        "sparse",
        figures(
            waits=NETWORK,
            blocks=Blocks(0, 50, 0, 0, 0, 0, MIB),
            store=replace(STORE, count=50, bytes=60 * MIB, ahead_bytes=10 * MIB),
        ),
        "reads of 1.0 MiB fetched 50.0 MiB: each took a small part of a block",
    ),
    (
        "decompression",
        figures(waits=waits(decompression=3.0, network=1.0), store=replace(STORE, raw_bytes=512 * MIB)),
        "75% of the waiting was for decompressing and verifying 512.0 MiB",
    ),
    (
        "queue",
        figures(waits=waits(queue=6.0, network=2.0)),
        "75% of the waiting was for a turn: for a thread, for one of the 16 requests at a time, or for another process"
        " that fetches the same",
    ),
    (
        "catalog",
        figures(waits=waits(catalog=2.0)),
        "100% of the waiting was for pages of the catalog: names and attributes that were not at hand",
    ),
    (
        "disk",
        figures(waits=waits(disk=2.0, seconds=4.0), blocks=Blocks(9, 0, 0, 0, 0, 300 * MIB, 0)),
        "50% of the waiting was for files of the cache: 300.0 MiB read and verified",
    ),
    (
        "busy",
        figures(daemon=Daemon(4.9, 4.8, True, False, 1)),
        "the daemon used 98% of a processor, 96% in the thread that answers",
    ),
    (
        "opens",
        figures(daemon=Daemon(3.0, 2.5, False, False, 1), requests={"open": 4000, "release": 4000, "read": 2000}),
        "8000 of 10000 requests of the kernel were opens and their ends, which need not be sent",
    ),
]


def of(name: str) -> Rule:
    rule: Rule = getattr(diagnosis, name)
    return rule


def test_every_rule_has_its_case() -> None:
    assert [name for name, _, _ in CASES] == [rule.__name__ for rule in RULES]


@pytest.mark.parametrize(("name", "window", "text"), CASES)
def test_a_rule_says_what_it_finds_and_what_to_do(name: str, window: Figures, text: str) -> None:
    found = of(name)(window)
    assert found is not None
    assert found.text == text
    assert 0 < found.share <= 1.01
    assert found.hint
    assert found in diagnose(window)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_finds_nothing_where_nothing_was_slow(rule: Rule) -> None:
    assert rule(QUIET) is None


NOT: list[tuple[str, Figures]] = [
    ("unanswered", figures(waits=waits(network=9.0, now=2), store=replace(STORE, latencies=latencies(0.1)))),
    ("unanswered", figures(waits=waits(disk=9.0, now=2))),
    ("network", figures(waits=waits(network=0.01))),
    ("network", figures(waits=waits(network=0.4, disk=4.6))),
    ("small_cache", figures(cache=CacheUse(GIB, GIB, 2 * GIB))),
    ("cold", figures(waits=NETWORK, blocks=Blocks(90, 10, 0, 0, MIB, 0, 10 * MIB))),
    ("cold", figures(**COLD, cache=CacheUse(GIB, GIB, 2 * GIB))),
    (
        "sparse",
        figures(waits=NETWORK, blocks=Blocks(0, 50, 0, 0, 0, 0, 20 * MIB), store=replace(STORE, bytes=60 * MIB)),
    ),
    ("sparse", figures(waits=NETWORK, blocks=Blocks(0, 2, 0, 0, 0, 0, 9), store=replace(STORE, bytes=2 * MIB))),
    ("opens", figures(daemon=Daemon(3.0, 2.5, False, False, 1), requests={"open": 20, "release": 20, "read": 2000})),
    ("opens", figures(daemon=Daemon(3.0, 2.5, False, False, 1), requests={"open": 20})),
    ("opens", figures(daemon=Daemon(3.0, 2.5, False, True, 1), requests={"open": 4000, "release": 4000})),
]


@pytest.mark.parametrize(("name", "window"), NOT)
def test_a_rule_says_nothing_of_what_does_not_matter(name: str, window: Figures) -> None:
    assert of(name)(window) is None


def test_the_most_important_goes_first() -> None:
    window = figures(waits=waits(queue=2.0, network=5.0, disk=1.5, catalog=0.5))
    assert [finding.kind for finding in diagnose(window)] == ["network", "queue", "disk"]


def test_the_hint_for_the_network_depends_on_how_it_is_mounted() -> None:
    for prefetch, cache, hint in (
        ("none", QUIET.cache, "--prefetch none"),
        ("auto", CacheUse(GIB, GIB, 2 * GIB), "cache below"),
        ("auto", QUIET.cache, "dvfs warm"),
    ):
        found = diagnosis.network(figures(waits=NETWORK, prefetch=Prefetching(prefetch, False, 0), cache=cache))
        assert found is not None
        assert hint in (found.hint or "")


def test_nothing_was_slow() -> None:
    (found,) = diagnose(figures(reads=Reads(1000, 100 * MIB, 10, 0, Latencies(), 0)))
    assert found == Finding(
        "nothing_slow",
        0.0,
        "nothing was slow: of 1000 reads, 100.0 MiB, 99% were answered from memory at once",
        "look at the program: it does not wait for its data",
    )


def test_nothing_was_read() -> None:
    (found,) = diagnose(figures(reads=Reads(0, 0, 0, 0, Latencies(), 0), requests={"lookup": 3}))
    assert (found.kind, found.text) == (
        "nothing_read",
        "nothing was read from the daemon; 3 requests of other kinds came",
    )


def test_a_second_of_waiting_matters_in_a_long_window_too() -> None:
    window = figures(seconds=3600.0, waits=waits(network=30.0))
    assert diagnose(window)[0].kind == "network"


def test_a_window_of_no_time_is_no_error() -> None:
    assert diagnose(QUIET - QUIET)[0].kind == "nothing_read"
