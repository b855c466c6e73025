"""The tag `latest`: of the finished versions of a dataset one has it, whichever got it last.

    give it ──> take it from the others

The record that gets the tag says when, in `latest_ns`: later than any that had it before, whatever the clocks say.
Where two are given the tag at once, or giving it breaks off in between, several records have it for a while. The last
one counts: readers see the tag on that alone (`settled`), and whoever gives it next takes away what is left over. Only
from a record that is not the last is it taken, so it never gets lost between two.

An open version that has the tag gets it in this sense when it is finished: until then readers have the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dvfs.store.errors import Conflict, NotFound, Unavailable
from dvfs.store.record import Record

if TYPE_CHECKING:
    from dvfs.store.records import Records

LATEST = "latest"


def settled(records: Iterable[Record]) -> list[Record]:
    """Return *records* in their order, those that have the tag no more without it."""
    listed = list(records)
    last: dict[tuple[str, str], Record] = {}
    for record in filter(_has, listed):
        other = last.setdefault((record.project, record.name), record)
        if _rank(record) > _rank(other):
            last[record.project, record.name] = record
    return [
        _without(record) if _has(record) and last[record.project, record.name].id != record.id else record
        for record in listed
    ]


def given(records: Records, record: Record, now_ns: int) -> Record:
    """Return *record*, if it is finished and has the tag, as the one of its dataset that got it last."""
    if not _has(record):
        return record
    before = max((other.latest_ns for other in _holders(records, record) if other.id != record.id), default=0)
    return record if record.latest_ns > before else record.with_fields(latest_ns=max(now_ns, before + 1))


def take(records: Records, record: Record) -> None:
    """If *record* has the tag, take it from the versions of its dataset that got it before the last one did."""
    if not _has(record):
        return
    holders = _holders(records, record)
    last = max(holders, key=_rank, default=None)
    for holder in holders:
        if last is not None and holder.id != last.id:
            _take_from(records, holder)


def tidy(records: Records, record: Record) -> None:
    """Do as `take`, or leave it to the next one where the store is not up to it: readers see the right one anyway."""
    try:
        take(records, record)
    except (Conflict, Unavailable):
        return


def _take_from(records: Records, holder: Record) -> None:
    def change(newest: Record) -> Record:
        return _without(newest) if _has(newest) and newest.latest_ns == holder.latest_ns else newest

    try:
        records.update(holder.id, change)
    except NotFound:
        return


def _holders(records: Records, record: Record) -> list[Record]:
    return [
        other
        for other in records.every()
        if _has(other) and (other.project, other.name) == (record.project, record.name)
    ]


def _has(record: Record) -> bool:
    return LATEST in record.tags and record.status.is_finished


def _without(record: Record) -> Record:
    return record.with_fields(tags=tuple(tag for tag in record.tags if tag != LATEST), latest_ns=0)


def _rank(record: Record) -> tuple[int, int, str]:
    return record.latest_ns, record.created_ns, record.id
