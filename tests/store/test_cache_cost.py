"""When pages are to be spared: as the processor time of the latest writes has it."""

from __future__ import annotations

from dvfs.store.cache_cost import WriteCost, WriteCosts
from tests.clocks import FakeClock

MIB = 1 << 20


def test_it_is_high_once_the_latest_writes_cost_much() -> None:
    cost = WriteCost(500_000, FakeClock())
    assert not cost.is_high
    for _ in range(100):
        cost.note(4 * MIB, 4 * 300_000)
    assert not cost.is_high
    cost.note(4 * MIB, 4 * 2_400_000)
    assert cost.is_high


def test_one_write_tells_nothing_by_itself() -> None:
    cost = WriteCost(500_000, FakeClock())
    cost.note(4 * MIB, 4 * 600_000)
    assert not cost.is_high
    cost.note(4 * MIB, 4 * 600_000)
    assert cost.is_high


def test_it_stays_high_for_a_while_though_little_costs_less() -> None:
    clock = FakeClock()
    cost = WriteCost(500_000, clock)
    cost.note(8 * MIB, 8 * 2_400_000)
    for _ in range(20):
        cost.note(8 * MIB, 8 * 300_000)
    clock.sleep(29)
    assert cost.is_high
    clock.sleep(2)
    assert not cost.is_high
    cost.note(8 * MIB, 8 * 300_000)
    assert not cost.is_high


def test_what_was_before_it_was_high_is_forgotten() -> None:
    clock = FakeClock()
    cost = WriteCost(500_000, clock)
    cost.note(8 * MIB, 8 * 2_400_000)
    clock.sleep(31)
    cost.note(8 * MIB, 8 * 300_000)
    assert not cost.is_high


def test_with_nothing_allowed_it_is_always_high() -> None:
    assert WriteCost(0, FakeClock()).is_high


def test_large_folios_are_made_until_either_costs_much() -> None:
    costs = WriteCosts(500_000, FakeClock())
    assert costs.takes_large
    costs.large.note(8 * MIB, 8 * 2_400_000)
    assert not costs.takes_large
    assert not costs.small.is_high
    costs = WriteCosts(500_000, FakeClock())
    costs.small.note(8 * MIB, 8 * 2_400_000)
    assert not costs.takes_large
