"""When pages are to be spared: as the processor time of the latest writes has it."""

from __future__ import annotations

from dvfs.store.cache_cost import LEAST_BYTES, WriteCost, WriteCosts
from tests.clocks import FakeClock

MIB = 1 << 20


def note(cost: WriteCost, *milliseconds: float) -> None:
    """Note writes of 8 MiB that took so long for each of them."""
    for one in milliseconds:
        cost.note(8 * MIB, int(8 * one * 1e6))


def test_it_is_high_once_several_writes_cost_much() -> None:
    cost = WriteCost(500_000, FakeClock())
    note(cost, *[0.3] * 100)
    assert not cost.is_high
    note(cost, 2.4, 2.5, 2.2)
    assert not cost.is_high
    note(cost, 2.4)
    assert cost.is_high


def test_a_few_writes_that_took_long_tell_nothing() -> None:
    cost = WriteCost(500_000, FakeClock())
    for _ in range(20):
        note(cost, 0.3, 8.5, 0.6, 0.55, 0.3, 0.3, 0.3)
    assert not cost.is_high


def test_it_is_high_where_most_writes_cost_much() -> None:
    cost = WriteCost(500_000, FakeClock())
    note(cost, 2.4, 2.4, 0.3, 2.4, 2.4, 0.3)
    assert not cost.is_high
    note(cost, 2.4, 2.4)
    assert cost.is_high


def test_it_goes_by_bytes_and_not_by_writes() -> None:
    cost = WriteCost(500_000, FakeClock())
    for _ in range(10):
        cost.note(LEAST_BYTES // 16, LEAST_BYTES)
    assert not cost.is_high
    cost.note(LEAST_BYTES // 2, LEAST_BYTES)
    assert cost.is_high


def test_it_stays_high_for_a_while_though_little_costs_less() -> None:
    clock = FakeClock()
    cost = WriteCost(500_000, clock)
    note(cost, *[2.4] * 4, *[0.3] * 20)
    clock.sleep(29)
    assert cost.is_high
    clock.sleep(2)
    assert not cost.is_high
    note(cost, 0.3)
    assert not cost.is_high


def test_what_was_before_it_was_high_is_forgotten() -> None:
    clock = FakeClock()
    cost = WriteCost(500_000, clock)
    note(cost, *[2.4] * 4)
    clock.sleep(31)
    note(cost, *[2.4] * 3)
    assert not cost.is_high


def test_with_nothing_allowed_it_is_always_high() -> None:
    assert WriteCost(0, FakeClock()).is_high


def test_large_folios_are_made_until_either_costs_much() -> None:
    costs = WriteCosts(500_000, FakeClock())
    assert costs.takes_large
    note(costs.large, *[2.4] * 4)
    assert not costs.takes_large
    assert not costs.small.is_high
    costs = WriteCosts(500_000, FakeClock())
    note(costs.small, *[2.4] * 4)
    assert not costs.takes_large
