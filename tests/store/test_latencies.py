"""Times in buckets that double."""

from __future__ import annotations

import random

import pytest

from dvfs.store.latencies import BUCKETS, Histogram, Latencies, bound_seconds


def test_nothing_was_counted() -> None:
    nothing = Histogram().latencies()
    assert (nothing.count, nothing.seconds, nothing.max_seconds, nothing.quantile(0.5)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0, 0), (0.5e-6, 0), (1e-6, 1), (1.9e-6, 1), (2e-6, 2), (1, 20), (1e9, BUCKETS - 1)]
)
def test_each_time_has_its_bucket(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    found = histogram.latencies()
    assert [index for index, number in enumerate(found.buckets) if number] == [bucket]
    assert (found.count, found.seconds, found.max_seconds) == (1, seconds, seconds)
    assert bucket == BUCKETS - 1 or seconds < bound_seconds(bucket)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_about_right(part: float) -> None:
    chance = random.Random(1)
    times = sorted(chance.lognormvariate(-3, 1) for _ in range(10_000))
    histogram = Histogram()
    for seconds in times:
        histogram.add(seconds)
    exact = times[min(int(part * len(times)), len(times) - 1)]
    assert histogram.latencies().quantile(part) == pytest.approx(exact, rel=0.25)


def test_no_quantile_is_beyond_the_longest() -> None:
    histogram = Histogram()
    for _ in range(100):
        histogram.add(0.0333)
    found = histogram.latencies()
    assert 0.0163 < found.quantile(0.5) < found.quantile(0.99) <= found.quantile(1.0) == 0.0333


def test_what_came_since() -> None:
    histogram = Histogram()
    histogram.add(3.0)
    before = histogram.latencies()
    assert histogram.latencies() - before == Latencies()
    histogram.add(0.0101)
    histogram.add(0.0102)
    since = histogram.latencies() - before
    assert since.count == 2
    assert since.seconds == pytest.approx(0.0203)
    assert 0.0102 <= since.max_seconds <= 0.02
    assert 0.008 < since.quantile(0.5) <= since.max_seconds
