"""Traces: in which order the files of a version were first read, kept beside it as `traces/<id>/<name>`.

Written once; layout in docs/format.md, "Traces". They are advice: a trace that cannot be read is left out. Thread-safe.
"""

from __future__ import annotations

import logging
import re
import struct
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from dvfs.store.backend import Backend
from dvfs.store.catalog.inner import PageRef
from dvfs.store.codec import Compression, compress, decompress
from dvfs.store.digest import Buffer, block_digest
from dvfs.store.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound
from dvfs.store.ids import VersionId

_log = logging.getLogger(__name__)

MAGIC = b"dvT1"
MOST_FILES = 1 << 24
"""A trace keeps no more first reads."""

_HEADER = struct.Struct("<4sIq32s")
_PIECE = struct.Struct("<BII")
_PIECE_FILES = 1 << 18
_MOST_BYTES = 8 * MOST_FILES + (1 << 20)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMPRESSION = Compression("zstd")


@dataclass(frozen=True, slots=True)
class Trace:
    """Files of the version with *digest*, as ranks in its catalog, in the order of first reads; *time_ns*: when."""

    digest: bytes
    time_ns: int
    ranks: array[int]


def check_name(name: str) -> str:
    """Return *name*. Raises InvalidInput when no trace can have it."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"a trace cannot be named {name!r}", hint="letters, digits, `.`, `_` and `-`, 100 at most, not `.` first"
        )
    return name


def encode(trace: Trace) -> bytes:
    """Return *trace* as it is stored, of its files the first `MOST_FILES`."""
    ranks = trace.ranks[:MOST_FILES]
    parts: list[Buffer] = [_HEADER.pack(MAGIC, len(ranks), trace.time_ns, trace.digest)]
    for start in range(0, len(ranks), _PIECE_FILES):
        piece = _little(ranks[start : start + _PIECE_FILES]).tobytes()
        codec, stored = compress(piece, _COMPRESSION)
        parts += [_PIECE.pack(codec, len(piece), len(stored)), stored]
    body = b"".join(parts)
    return body + block_digest(body)


def decode(data: bytes, digest: bytes, entries: int) -> Trace:
    """Return the trace *data* of the version with *digest*, which has so many *entries*. Raises Corrupt."""
    body, check = data[:-32], data[-32:]
    if len(body) < _HEADER.size or block_digest(body) != check:
        raise Corrupt("it is no trace, or a damaged one")
    magic, count, time_ns, of = _HEADER.unpack_from(body)
    if magic != MAGIC or count > MOST_FILES:
        raise Corrupt(f"it is no trace that this dvfs can read: {magic!r}, {count} files")
    if of != digest:
        raise Corrupt("it is a trace of another version")
    ranks = array("Q")
    at = _HEADER.size
    while at < len(body):
        if at + _PIECE.size > len(body):
            raise Corrupt("it ends inside a piece")
        codec, raw, stored = _PIECE.unpack_from(body, at)
        at += _PIECE.size
        if raw % 8 or raw > 8 * _PIECE_FILES:
            raise Corrupt(f"a piece of {raw} bytes")
        ranks.frombytes(decompress(codec, body[at : at + stored], raw))
        at += stored
    if len(ranks) != count:
        raise Corrupt(f"it has {len(ranks)} files and says {count}")
    ranks = _little(ranks)
    if count and max(ranks) >= entries:
        raise Corrupt(f"it has a file {max(ranks)}, the version {entries} entries")
    return Trace(of, time_ns, ranks)


def write(backend: Backend, version: VersionId, name: str, trace: Trace) -> None:
    """Keep *trace* beside *version*. Raises Conflict when *name* is taken; Unavailable, AccessDenied, NoSpace."""
    try:
        backend.put_if_absent(_key(version, name), encode(trace))
    except AlreadyExists as exc:
        raise _taken(name) from exc


def check_free(backend: Backend, version: VersionId, name: str) -> None:
    """Raise Conflict when *version* has a trace *name*."""
    try:
        backend.head(_key(version, check_name(name)))
    except NotFound:
        return
    raise _taken(name)


def names(backend: Backend, version: VersionId) -> list[str]:
    """Return the names of the traces of *version*, in order: one LIST."""
    prefix = f"traces/{version}/"
    found = (item.key.removeprefix(prefix) for item in backend.list(prefix))
    return sorted(name for name in found if _NAME.fullmatch(name))


def read(backend: Backend, version: VersionId, root: PageRef, name: str) -> Trace:
    """Return the trace *name* of *version*, whose catalog has *root*. Raises NotFound, Corrupt."""
    try:
        data = backend.get(_key(version, check_name(name)), 0, _MOST_BYTES).data
    except NotFound as exc:
        raise NotFound(f"the version has no trace {name!r}", hint="`dvfs traces` lists them") from exc
    try:
        return decode(bytes(data), root.content, root.entries)
    except Corrupt as exc:
        raise Corrupt(f"trace {name!r} of {version} is left out: {exc.message}") from exc


def remove(backend: Backend, version: VersionId, name: str) -> None:
    """Remove the trace *name* of *version*. Raises NotFound."""
    key = _key(version, check_name(name))
    try:
        backend.head(key)
    except NotFound as exc:
        raise NotFound(f"the version has no trace {name!r}", hint="`dvfs traces` lists them") from exc
    backend.delete(key)


def first_reads(backend: Backend, version: VersionId, root: PageRef, wanted: Iterable[str] | None) -> array[int]:
    """Return the ranks of the traces *wanted*, None: of all, one after the other, each file once.

    Of those that nobody asked for by name, damaged ones are left out. Raises as `read` for the others.
    """
    found = array("Q")
    seen = bytearray(root.entries)
    for name in names(backend, version) if wanted is None else wanted:
        try:
            ranks = read(backend, version, root, name).ranks
        except (Corrupt, NotFound) as exc:
            if wanted is not None:
                raise
            _log.warning("%s", exc.message)
            continue
        for rank in ranks:
            if not seen[rank]:
                seen[rank] = True
                found.append(rank)
    return found


def _key(version: VersionId, name: str) -> str:
    return f"traces/{version}/{name}"


def _taken(name: str) -> Conflict:
    return Conflict(f"the version has a trace {name!r} already", hint=f"`dvfs traces --remove {name}` removes it")


def _little(ranks: array[int]) -> array[int]:
    """Return *ranks* with the bytes of each the other way round, on a machine where that is not little-endian."""
    if sys.byteorder == "big":
        ranks = ranks[:]
        ranks.byteswap()
    return ranks
