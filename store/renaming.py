"""Rename and move: a version, or all of a dataset, gets another name or project. It keeps its id and its number.

    the new claim ──> the record ──> the old claim goes

The swap of the record is what counts: a claim that its record does not name is nothing to a reader. So a version has
one name at each moment. Whatever broke off in between, the same again finishes; and so does the next rename or the
deletion of the version, as the new claim says what the version was called before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvfs.store.errors import AlreadyExists, Conflict, NotFound
from dvfs.store.names import Title, check_name
from dvfs.store.record import Record
from dvfs.store.records import check_live, dataset_of

if TYPE_CHECKING:
    from dvfs.store.store import Store


def rename(store: Store, spec: str, new_name: str) -> list[Record]:
    """Give *spec* the name *new_name* in its project: all versions of project/name, or the one that is named.

    Returns the records, oldest first. What the new name has already stays; a number that both have is AlreadyExists,
    before anything is renamed. Raises as `Records.find`; Conflict or NotFound when somebody else renames or deletes a
    version meanwhile. Crash points: `rename:after-claim`, `rename:after-record`, `rename:after-release`.
    """
    return _entitle(store, spec, None, new_name)


def move(store: Store, spec: str, new_project: str) -> list[Record]:
    """Move *spec* to the project *new_project*; all else is as for `rename`."""
    return _entitle(store, spec, new_project, None)


def finish(store: Store, record: Record) -> bool:
    """Release the claim that a rename of *record* left when it broke off; tell whether there was one."""
    title = title_of(record)
    left = store.records.names.left_by(*title, record.id)
    return left not in (None, title) and left is not None and store.records.names.release_from(*left, record.id)


def title_of(record: Record) -> Title:
    """Return the claim that is that of *record*."""
    return record.project, record.name, record.version


def _entitle(store: Store, spec: str, project: str | None, name: str | None) -> list[Record]:
    for what, text in (("project", project), ("name", name)):
        if text is not None:
            check_name(what, text)
    dataset = dataset_of(spec)
    if dataset is None:
        found = _one(store, spec, project, name)
        target = (project or found.project, name or found.name)
        found_all = [found]
    else:
        target = (project or dataset[0], name or dataset[1])
        found_all = [record for record in store.records.all() if (record.project, record.name) == dataset]
    _check_free(store, found_all, *target)
    renamed = [_rename(store, record, *target) for record in found_all]
    if dataset is not None and dataset != target:
        renamed += _leftovers(store, *dataset, *target)
    if not renamed:
        raise NotFound(f"no dataset {spec}", hint="`dvfs search` lists what is there")
    return sorted(renamed, key=lambda record: (record.created_ns, record.id))


def _one(store: Store, spec: str, project: str | None, name: str | None) -> Record:
    """Return the version that *spec* names; by the name that it had before, if that is the rename to be finished."""
    try:
        record = store.records.find(spec)
        check_live(record)
    except NotFound:
        before = dataset_of(spec.rpartition("@")[0]) if "@" in spec else None
        if before is None:
            raise
        version = spec.rpartition("@")[2]
        wanted = (project or before[0], name or before[1], version)
        record = store.records.load(store.records.names.holder(*before, version)).record
        if title_of(record) != wanted:
            raise
        check_live(record)
        store.records.names.release_from(*before, version, record.id)
    return record


def _check_free(store: Store, records: list[Record], project: str, name: str) -> None:
    """Raise AlreadyExists if *project*/*name* has a number that one of *records* would bring."""
    there = set(store.records.names.versions(project, name))
    for record in records:
        if record.version not in there:
            continue
        try:
            holder = store.records.names.holder(project, name, record.version)
        except NotFound:
            continue
        if holder != record.id:
            raise AlreadyExists(f"version {record.version} of {project}/{name} exists: {holder}")


def _rename(store: Store, record: Record, project: str, name: str) -> Record:
    names = store.records.names
    finish(store, record)
    before, after = title_of(record), (project, name, record.version)
    if before == after:
        return record
    try:
        names.claim(*after, record.id, came_from=before)
    except AlreadyExists as exc:
        if names.holder(*after) != record.id:
            raise AlreadyExists(f"version {record.version} of {project}/{name} exists") from exc
    store.crash("rename:after-claim")

    def change(newest: Record) -> Record:
        check_live(newest)
        if title_of(newest) not in (before, after):
            raise Conflict(f"dataset {record.title} ({record.id}) was renamed to {newest.title} by somebody else")
        return newest.with_fields(project=project, name=name)

    try:
        renamed = store.records.update(record.id, change)
    except (NotFound, Conflict):
        names.release_from(*after, record.id)
        raise
    store.crash("rename:after-record")
    names.release_from(*before, record.id)
    store.crash("rename:after-release")
    return renamed


def _leftovers(store: Store, project: str, name: str, new_project: str, new_name: str) -> list[Record]:
    """Release the claims on *project*/*name* of versions that have the new name; return their records."""
    found = []
    for version, holder in store.records.names.holders(project, name):
        try:
            record = store.records.load(holder).record
        except NotFound:
            continue
        if title_of(record) == (new_project, new_name, version) and record.status != "deleted":
            store.records.names.release_from(project, name, version, holder)
            found.append(record)
    return found
