"""Figures on their way to a command, and those of a window."""

from __future__ import annotations

import json
from dataclasses import replace

from dvfs.fs.figures import Figures, Reads
from tests.fs.test_diagnosis import CASES, QUIET, latencies


def test_figures_come_as_they_went() -> None:
    for _, made, _ in CASES:
        assert Figures.from_message(json.loads(json.dumps(made.to_message()))).to_message() == _as_json(made)


def _as_json(made: Figures) -> object:
    return Figures.from_message(json.loads(json.dumps(made.to_message()))).to_message()


def test_a_window_has_what_was_counted_in_it_and_what_holds_at_its_end() -> None:
    later = replace(
        QUIET,
        seconds=7.5,
        requests={"read": 1200, "lookup": 10, "getattr": 5},
        reads=Reads(1200, QUIET.reads.bytes + 7, 2, 1, latencies(0.1, 0.2), 0),
        prefetch=replace(QUIET.prefetch, fills=True, wanted=9),
        cache=replace(QUIET.cache, bytes=1),
        waits=replace(QUIET.waits, count=12, now=1, longest_now_seconds=0.5),
    )
    window = later - QUIET
    assert window.seconds == 2.5
    assert window.requests == {"read": 200, "lookup": 0, "getattr": 5}
    assert (window.reads.count, window.reads.bytes, window.reads.waited, window.reads.from_stretches) == (200, 7, 2, 1)
    assert window.reads.latencies.count == 2
    assert (window.waits.count, window.waits.now, window.waits.longest_now_seconds) == (2, 1, 0.5)
    assert (window.prefetch.mode, window.prefetch.fills, window.prefetch.wanted) == ("auto", True, 9)
    assert (window.cache.bytes, window.cache.budget_bytes) == (1, QUIET.cache.budget_bytes)
    assert window.daemon.zero_open


def test_processes_add_up_and_the_leader_tells_how_things_are() -> None:
    other = replace(
        QUIET,
        seconds=1.0,
        requests={"read": 5, "readlink": 1},
        reads=Reads(5, 50, 2, 0, latencies(0.1, 0.4), 0),
        prefetch=replace(QUIET.prefetch, mode="none", wanted=9),
        waits=replace(QUIET.waits, count=12, seconds=3.0, some_seconds=2.0, now=1, longest_now_seconds=0.5),
        store=replace(QUIET.store, now=2),
    )
    both = QUIET + other
    assert (both.seconds, both.prefetch, both.cache) == (QUIET.seconds, QUIET.prefetch, QUIET.cache)
    assert both.requests == {**QUIET.requests, "read": QUIET.requests["read"] + 5, "readlink": 1}
    assert (both.reads.count, both.reads.bytes) == (QUIET.reads.count + 5, QUIET.reads.bytes + 50)
    assert both.reads.latencies.count == QUIET.reads.latencies.count + 2
    assert both.reads.latencies.max_seconds == max(0.4, QUIET.reads.latencies.max_seconds)
    assert (both.waits.seconds, both.waits.some_seconds) == (
        QUIET.waits.seconds + 3.0,
        max(2.0, QUIET.waits.some_seconds),
    )
    assert (both.waits.now, both.waits.longest_now_seconds) == (QUIET.waits.now + 1, 0.5)
    assert (both.store.now, both.store.parallel) == (QUIET.store.now + 2, 2 * QUIET.store.parallel)
    assert both.daemon.workers == 2

    past = QUIET + other.past()
    assert (past.reads, past.waits.seconds) == (both.reads, both.waits.seconds)
    assert (past.daemon.workers, past.waits.now) == (1, QUIET.waits.now)
    assert (past.store.now, past.store.parallel) == (QUIET.store.now, QUIET.store.parallel)
