"""Deleting versions: the record says so, with the time, and the claim goes. The bytes stay until garbage collection.

What other versions share with a deleted one stays for them: a version reads nothing through the records of its parents.
A child that is being made of it meanwhile is whole too: it has what it starts from in its own record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvfs.store import latest, renaming
from dvfs.store.draft import Draft
from dvfs.store.errors import Conflict, InvalidInput, NotFound, WrongState
from dvfs.store.lineage import children
from dvfs.store.record import Record, Status
from dvfs.store.records import Want, check_state, dataset_of

if TYPE_CHECKING:
    from dvfs.store.store import Store


def find(store: Store, spec: str) -> Record:
    """Return the one version that *spec* names, also a deleted one that is named by its id or number.

    A name without a version stands for a dataset of one version. Raises InvalidInput when it has more, NotFound.
    """
    dataset = dataset_of(spec)
    if dataset is None:
        return store.records.find(spec)
    found = versions(store, *dataset)
    if len(found) > 1:
        numbers = ", ".join(record.version for record in found[:5]) + (", …" if len(found) > 5 else "")
        raise InvalidInput(
            f"dataset {spec} has {len(found)} versions: {numbers}",
            hint="name one with its version, or all with --entire-dataset --force",
        )
    return found[0]


def versions(store: Store, project: str, name: str) -> list[Record]:
    """Return all versions of *project*/*name*, open ones too, oldest first. Raises NotFound when there are none."""
    found = [record for record in store.records.all() if (record.project, record.name) == (project, name)]
    if not found:
        raise NotFound(f"no dataset {project}/{name}", hint="`dvfs search` lists what is there")
    return found


def check_unused(store: Store, record: Record) -> None:
    """Raise WrongState when versions have *record* as a parent."""
    found = children(store, record.id)
    if not found:
        return
    shown = ", ".join(f"{child.title} ({child.id})" for child in found[:3]) + (", …" if len(found) > 3 else "")
    raise WrongState(
        f"dataset {record.title} ({record.id}) is the parent of {len(found)}: {shown}",
        hint="--force deletes it all the same; its children stay whole",
    )


def delete(store: Store, spec: str, *, force: bool = False, want: Want = "any") -> Record:
    """Delete the version that *spec* names, see `find`; return its record.

    *force*: also when it has children. *want*: only in this state. A deletion that broke off is finished. Raises
    NotFound (also for what is deleted already), InvalidInput; WrongState when it has children, or is not in the state;
    Conflict when somebody else deletes it at the same time. Crash points: `delete:before-swap`, `delete:after-swap`.
    """
    record = find(store, spec)
    if record.status is Status.DELETED:
        if not _let_go(store, record):
            raise NotFound(f"dataset {record.title} ({record.id}) is deleted")
        return record
    check_state(record, want)
    if not force:
        check_unused(store, record)
    return _delete(store, record, want)


def delete_all(store: Store, project: str, name: str) -> list[Record]:
    """Delete all versions of *project*/*name*, children or not, newest first; return their records.

    What others delete or add meanwhile is theirs. Versions that have the name are found by their records: claims that
    a deletion left when it broke off are released too. Raises NotFound when there is nothing.
    """
    deleted = [
        record
        for _, holder in store.records.names.holders(project, name)
        if (record := _deleted(store, holder)) is not None and _let_go(store, record)
    ]
    try:
        found = versions(store, project, name)
    except NotFound:
        if not deleted:
            raise
        found = []
    for record in reversed(found):
        try:
            deleted.append(_delete(store, record, "any"))
        except Conflict:
            continue
    return deleted


def _delete(store: Store, record: Record, want: Want) -> Record:
    def change(newest: Record) -> Record:
        if newest.status is Status.DELETED:
            raise Conflict(f"dataset {newest.title} ({newest.id}) was deleted by somebody else at the same time")
        check_state(newest, want)
        return newest.with_fields(status=Status.DELETED, deleted_ns=store.clock.now_ns())

    latest.take(store.records, record)  # or one that it was to be taken from would have it again
    store.crash("delete:before-swap")
    deleted = store.records.update(record.id, change)
    store.crash("delete:after-swap")
    _let_go(store, deleted)
    Draft(store, deleted).forget()
    return deleted


def _let_go(store: Store, record: Record) -> bool:
    """Release the claims of a deleted version; tell whether there was one."""
    finished = renaming.finish(store, record)
    return store.records.names.release_from(*renaming.title_of(record), record.id) or finished


def _deleted(store: Store, version: str) -> Record | None:
    try:
        record = store.records.find(version)
    except NotFound:
        return None
    return record if record.status is Status.DELETED else None
