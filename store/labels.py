"""What people say of a version: tags, description, metadata, and that it is published. It changes no file.

Each is one compare-and-swap of the record, done again on what others wrote meanwhile: of two writers both are heard,
of one word the last. *spec* names a version as for `Records.resolve`, a name alone the highest finished one, or where
there is none the highest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dvfs.store import latest
from dvfs.store.errors import InvalidInput, NotFound, WrongState
from dvfs.store.latest import LATEST
from dvfs.store.names import check_name
from dvfs.store.record import Record, Status
from dvfs.store.records import check_live, check_state

if TYPE_CHECKING:
    from dvfs.store.store import Store

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

METADATA_BYTES = 256 << 10
"""Most bytes of all metadata of a version: who lists versions reads them all."""

DESCRIPTION_BYTES = 64 << 10

_DEPTH = 32


def find(store: Store, spec: str) -> Record:
    """Return the version that *spec* names, open or finished. Raises NotFound, InvalidInput."""
    record = store.records.find(spec, "finished")
    check_live(record)
    return record


def publish(store: Store, spec: str) -> Record:
    """Publish a finished version; return its record. Raises WrongState when it is open, or published already."""

    def change(newest: Record) -> Record:
        check_state(newest, "finished")
        if newest.status is Status.PUBLISHED:
            raise WrongState(f"dataset {newest.title} ({newest.id}) is published already")
        return newest.with_fields(status=Status.PUBLISHED)

    return _change(store, spec, change)


def tag(store: Store, spec: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Record:
    """Give a version the tags *add* and take the tags *remove* from it; return its record.

    Tags that it has, or has not, are no error. `latest` is taken from the other versions of the dataset (see `latest`).
    Raises InvalidInput for a tag that cannot be, or that is in both. Crash points: `tag:after-swap`.
    """
    added, removed = dict.fromkeys(add), dict.fromkeys(remove)
    for word in (*added, *removed):
        check_name("tag", word)
        if word in added and word in removed:
            raise InvalidInput(f"tag {word!r} is to be added and removed")

    def change(newest: Record) -> Record:
        tags = tuple(word for word in dict.fromkeys((*newest.tags, *added)) if word not in removed)
        changed = newest.with_fields(tags=tags, latest_ns=newest.latest_ns if LATEST in tags else 0)
        return latest.given(store.records, changed, store.clock.now_ns()) if LATEST in added else changed

    record = find(store, spec)
    if LATEST in removed:
        latest.take(store.records, record)  # or one that it was to be taken from would have it again
    record = _change(store, record.id, change)
    store.crash("tag:after-swap")
    if LATEST in added:
        latest.tidy(store.records, record)
    return record


def set_description(store: Store, spec: str, text: str) -> Record:
    """Replace the description of a version; return its record. Raises InvalidInput for what a record cannot hold."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidInput("the description is not UTF-8") from exc
    if size > DESCRIPTION_BYTES:
        raise InvalidInput(f"the description has {size} bytes, more than {DESCRIPTION_BYTES}")
    return _change(store, spec, lambda newest: newest.with_fields(description=text))


def set_metadata(store: Store, spec: str, key: str, value: Json) -> Record:
    """Set the metadata *key* of a version to *value*, what JSON can hold; return its record.

    Raises InvalidInput for what it cannot hold: numbers that are none, text that is not UTF-8, more than
    32 levels, more than 256 KiB for all metadata of the version.
    """
    check_name("metadata key", key)
    _check_depth(key, value)

    def change(newest: Record) -> Record:
        metadata = newest.metadata | {key: value}
        try:
            size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
        except (ValueError, TypeError) as exc:
            raise InvalidInput(f"metadata {key!r} is nothing that JSON can hold: {exc}") from exc
        if size > METADATA_BYTES:
            raise InvalidInput(f"the metadata of {newest.title} would have {size} bytes, more than {METADATA_BYTES}")
        return newest.with_fields(metadata=metadata)

    return _change(store, spec, change)


def remove_metadata(store: Store, spec: str, key: str) -> Record:
    """Remove the metadata *key* of a version; return its record. Raises NotFound when it has none."""

    def change(newest: Record) -> Record:
        if key not in newest.metadata:
            raise NotFound(f"dataset {newest.title} ({newest.id}) has no metadata {key!r}")
        return newest.with_fields(metadata={name: kept for name, kept in newest.metadata.items() if name != key})

    return _change(store, spec, change)


def _change(store: Store, spec: str, change: Callable[[Record], Record]) -> Record:
    def checked(newest: Record) -> Record:
        check_live(newest)
        return change(newest)

    return store.records.update(find(store, spec).id, checked)


def _check_depth(key: str, value: object, depth: int = 1) -> None:
    if depth > _DEPTH:
        raise InvalidInput(f"metadata {key!r} has more than {_DEPTH} levels")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in inner:
        _check_depth(key, item, depth + 1)
