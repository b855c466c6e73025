"""The record of a version: what `datasets/<id>.json` says. Immutable, to and from JSON (docs/format.md, "Record").

What comes from a store is checked field by field. Fields that this dvfs does not know are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef, Codec
from dvfs.store.catalog.inner import PageRef
from dvfs.store.digest import DIGEST_SIZE
from dvfs.store.errors import Corrupt, UnsupportedFormat
from dvfs.store.ids import PACK_ID_SIZE, PackId, VersionId, is_version_id, new_write_id

FORMAT = 1
MAX_STORAGE = 0xFFFF
"""The greatest storage tag."""

SELF = "."
"""The storage URL of a store in its own records."""


class Status(StrEnum):
    """Where a version stands: created → uploading → completed → published; deleted from any."""

    CREATED = "created"
    UPLOADING = "uploading"
    COMPLETED = "completed"
    PUBLISHED = "published"
    DELETED = "deleted"

    @property
    def is_open(self) -> bool:
        """Whether files may still be added and removed."""
        return self in (Status.CREATED, Status.UPLOADING)

    @property
    def is_finished(self) -> bool:
        """Whether it can be read, and never changes again."""
        return self in (Status.COMPLETED, Status.PUBLISHED)


@dataclass(frozen=True, slots=True)
class Root:
    """The root *page* of a catalog and the *tail* of its pack, which one GET brings: root and new inner pages."""

    page: PageRef
    tail: BlockRef


@dataclass(frozen=True, slots=True)
class Counts:
    """What a finished version holds and how it differs from its base. *size* and *uploaded*: bytes."""

    entries: int = 0
    files: int = 0
    size: int = 0
    added: int = 0
    modified: int = 0
    removed: int = 0
    uploaded: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version was made: the *command*, the *commit* of its git checkout, *host*, run ids by system."""

    command: str = ""
    commit: str = ""
    host: str = ""
    runs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """A version. Times are ns since the epoch. *base*: the union of its parents, None where it has none.

    *draft*: the root of an open version so far. *root*: that of a finished one. *storages*: tag → URL.
    *storage*: the tag of the one that data packs of uploads go to.
    *latest_ns*: when it got the tag `latest` (see `latest`). *others*: fields written by a newer dvfs.
    """

    id: VersionId
    project: str
    name: str
    version: str
    status: Status = Status.CREATED
    tags: tuple[str, ...] = ()
    description: str = ""
    parents: tuple[VersionId, ...] = ()
    base: Root | None = None
    draft: Root | None = None
    root: Root | None = None
    storages: dict[int, str] = field(default_factory=lambda: {0: SELF})
    counts: Counts = Counts()
    created_ns: int = 0
    completed_ns: int = 0
    deleted_ns: int = 0
    latest_ns: int = 0
    storage: int = 0
    creator: str = ""
    origin: Origin = Origin()
    metadata: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """`project/name@version`, as people name it."""
        return f"{self.project}/{self.name}@{self.version}"

    @property
    def tree(self) -> Root | None:
        """The root to read: of a finished version its root, of an open one its draft."""
        return self.root if self.root is not None else self.draft

    @property
    def digest(self) -> str:
        """The digest of a finished version in hex, "" before."""
        return self.root.page.content.hex() if self.root is not None else ""

    def with_fields(self, **fields: Any) -> Record:
        """Return the record with *fields* replaced."""
        return replace(self, **fields)


_SELDOM = ("deleted_ns", "latest_ns", "storage")
"""Fields that are written only where they say something."""


def encode(record: Record) -> bytes:
    """Return the JSON of *record* with a fresh write-id, which makes these bytes those of one write."""
    body = {
        "format": FORMAT,
        "id": record.id,
        "project": record.project,
        "name": record.name,
        "version": record.version,
        "status": record.status.value,
        "tags": list(record.tags),
        "description": record.description,
        "parents": list(record.parents),
        "base": _root_to(record.base),
        "draft": _root_to(record.draft),
        "root": _root_to(record.root),
        "storages": {str(tag): url for tag, url in record.storages.items()},
        "counts": {name: getattr(record.counts, name) for name in Counts.__slots__},
        "created_ns": record.created_ns,
        "completed_ns": record.completed_ns,
        "creator": record.creator,
        "origin": {name: getattr(record.origin, name) for name in Origin.__slots__},
        "metadata": record.metadata,
        **{name: getattr(record, name) for name in _SELDOM if getattr(record, name)},
        **record.others,
        "write_id": new_write_id(),
    }
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def decode(data: bytes, version: str) -> Record:
    """Return the record in *data*, which is that of *version*. Raises Corrupt, UnsupportedFormat."""
    name = f"record of {version}"
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Corrupt(f"{name} is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise Corrupt(f"{name} is no JSON object")
    if body.get("format") != FORMAT:
        raise UnsupportedFormat(
            f"{name} is of format {body.get('format')!r}; this dvfs knows format {FORMAT}",
            hint="use a newer dvfs",
        )
    try:
        record = _decode(body)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise Corrupt(f"{name} has a field that cannot be: {type(exc).__name__}: {exc}") from exc
    if record.id != version:
        raise Corrupt(f"{name} calls itself {record.id}")
    if record.status.is_finished and record.root is None:
        raise Corrupt(f"{name} is {record.status} and has no root")
    return record


_KNOWN = frozenset(Record.__slots__) | {"format", "write_id"}


def _decode(body: dict[str, Any]) -> Record:
    return Record(
        id=_version_id(body["id"]),
        project=_text(body["project"]),
        name=_text(body["name"]),
        version=_text(body["version"]),
        status=Status(body["status"]),
        tags=tuple(_list(body["tags"], _text)),
        description=_text(body["description"]),
        parents=tuple(_list(body["parents"], _version_id)),
        base=_root_from(body["base"]),
        draft=_root_from(body["draft"]),
        root=_root_from(body["root"]),
        storages={_number(int(tag), MAX_STORAGE + 1): _text(url) for tag, url in body["storages"].items()},
        counts=_counts(body["counts"]),
        created_ns=_number(body["created_ns"]),
        completed_ns=_number(body["completed_ns"]),
        **{name: _number(body[name]) for name in _SELDOM if name in body},
        creator=_text(body["creator"]),
        origin=_origin(body["origin"]),
        metadata=dict(body["metadata"]),
        others={} if body.keys() <= _KNOWN else {name: body[name] for name in body if name not in _KNOWN},
    )


_T = TypeVar("_T")


def _list(values: Any, item: Callable[[Any], _T]) -> list[_T]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list")
    return [item(value) for value in values]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


_LARGEST = 1 << 63


def _number(value: Any, limit: int = _LARGEST) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r} is no number from 0 to {limit - 1}")
    return value


def _version_id(value: Any) -> VersionId:
    if not is_version_id(_text(value)):
        raise ValueError(f"{value!r} is no version id")
    return VersionId(value)


def _hex(value: Any, size: int) -> bytes:
    found = bytes.fromhex(_text(value))
    if len(found) != size:
        raise ValueError(f"{value!r} is not {size} bytes in hex")
    return found


def _counts(body: dict[str, Any]) -> Counts:
    found = [body.get(name, 0) for name in Counts.__slots__]
    for value in found:
        if type(value) is not int or not 0 <= value < _LARGEST:
            _number(value)
    return Counts(*found)


def _origin(body: dict[str, Any]) -> Origin:
    runs = {_text(system): _text(run) for system, run in body["runs"].items()}
    return Origin(_text(body["command"]), _text(body["commit"]), _text(body["host"]), runs)


def _root_to(root: Root | None) -> dict[str, Any] | None:
    if root is None:
        return None
    page = root.page
    return {
        "digest": page.content.hex(),
        "level": page.level,
        "entries": page.entries,
        "files": page.files,
        "size": page.size,
        "page": _block_to(page.block),
        "tail": _block_to(root.tail),
    }


def _root_from(body: Any) -> Root | None:
    if body is None:
        return None
    page = PageRef(
        b"",
        _number(body["level"], 64),
        _number(body["entries"]),
        _number(body["files"]),
        _number(body["size"]),
        _hex(body["digest"], DIGEST_SIZE),
        _block_from(body["page"]),
    )
    return Root(page, page.block if body["tail"] == body["page"] else _block_from(body["tail"]))


def _block_to(ref: BlockRef) -> dict[str, Any]:
    return {
        "storage": ref.storage,
        "pack": ref.pack.hex(),
        "offset": ref.offset,
        "length": ref.stored,
        "digest": ref.digest.hex(),
    }


def _block_from(body: Any) -> BlockRef:
    length = _number(body["length"], MAX_BLOCK_BYTES + 1)
    return BlockRef(
        _number(body["storage"], MAX_STORAGE + 1),
        PackId(_hex(body["pack"], PACK_ID_SIZE)),
        _number(body["offset"], 1 << 32),
        length,
        length,
        Codec.RAW,
        _hex(body["digest"], DIGEST_SIZE),
    )
