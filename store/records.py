"""Records in a store: written by compare-and-swap, found by id, name or tag, listed with one LIST.

Thread-safe. A read with the store out of reach answers from the local cache for finished versions, which change only in
their labels.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from dvfs.store.backend import Backend
from dvfs.store.collection import uncollected
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound, Unavailable, WrongState
from dvfs.store.ids import VersionId, is_version_id
from dvfs.store.latest import settled
from dvfs.store.names import Names
from dvfs.store.record import Record, decode, encode
from dvfs.store.record_cache import RecordCache

Want = Literal["finished", "open", "any"]
"""Which versions a name stands for: those to read, those to change, or all."""

_ATTEMPTS = 50
_PARALLEL = 16
_KEPT = 64
_PREFIX = re.compile(r"[0-9a-f]{4,31}")
_FORMS = "a dataset is named by id, unique id prefix, project/name, project/name@version or tag:TAG"


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it was read, with the *etag* to replace it by."""

    record: Record
    etag: str


class Records:
    """The records in the store behind *backend*."""

    def __init__(self, backend: Backend, cache: RecordCache, crash: CrashPoint = no_crash) -> None:
        self._backend = backend
        self._cache = cache
        self._crash = crash
        self._last: OrderedDict[VersionId, Stored] = OrderedDict()
        self._lock = threading.Lock()
        self.names = Names(backend)

    def load(self, version: VersionId) -> Stored:
        """Return the record of *version*, deleted ones too. Raises NotFound, Corrupt, Unavailable."""
        try:
            blob = self._backend.get(_key(version))
        except NotFound as exc:
            raise NotFound(f"no dataset with id {version}", hint="`dvfs search` lists what is there") from exc
        return self._seen(Stored(decode(blob.data, version), blob.etag), blob.data)

    def last(self, version: VersionId) -> Record:
        """Return the record of *version* as this object saw or wrote it last; raises as `load` where it never did.

        For work that `update` ends, which notices that somebody else was faster.
        """
        with self._lock:
            stored = self._last.get(version)
        return (stored or self.load(version)).record

    def _seen(self, stored: Stored, body: bytes) -> Stored:
        """Keep what is in the store now; return it."""
        version = VersionId(stored.record.id)
        self._cache.put([(version, stored.etag, body)])
        with self._lock:
            self._last[version] = stored
            self._last.move_to_end(version)
            if len(self._last) > _KEPT:
                self._last.popitem(last=False)
        return stored

    def read(self, version: VersionId) -> Record:
        """Return the record of *version*, from the local cache if the store is out of reach and it is finished."""
        try:
            return self.load(version).record
        except Unavailable:
            known = self._cache.get(version)
            if known is None:
                raise
            record = decode(known[1], version)
            if not record.status.is_finished:
                raise
            return record

    def insert(self, record: Record, version: str | None) -> Record:
        """Claim *version* (the next number when None) of the record's name and write the record; return it.

        A number that is claimed and has no record, as a create that was killed leaves it, can be had by name: the
        record then gets the id that claimed it, and of two that write it one succeeds. Raises AlreadyExists when the
        version is taken. Crash points: `create:before-claim`, `create:after-claim`, `create:after-record`.
        """
        self._crash("create:before-claim")
        try:
            number = self.names.claim(record.project, record.name, version, record.id)
        except AlreadyExists:
            if version is None:
                raise
            number = version
            record = record.with_fields(id=self.names.holder(record.project, record.name, version))
        self._crash("create:after-claim")
        record = record.with_fields(version=number)
        body = encode(record)
        try:
            etag = self._backend.put_if_absent(_key(record.id), body)
        except AlreadyExists as exc:
            raise self._taken(record) from exc
        self._crash("create:after-record")
        return self._seen(Stored(record, etag), body).record

    def _taken(self, wanted: Record) -> AlreadyExists:
        """Return the error that says why there can be no *wanted*, whose id holds its number and has a record."""
        try:
            there = self.load(wanted.id).record
        except NotFound:  # erased just now
            there = wanted
        if there.status == "deleted":
            return AlreadyExists(
                f"version {wanted.version} of {wanted.project}/{wanted.name} is held by a deleted one: {there.id}",
                hint=f"`dvfs delete --id {there.id}` lets go of it",
            )
        if there.title != wanted.title:
            return AlreadyExists(
                f"version {wanted.version} of {wanted.project}/{wanted.name} is held by {there.title} ({there.id}), "
                "which is being renamed, or was when that broke off",
                hint="finish renaming it, or leave the version out to get the next free number",
            )
        return AlreadyExists(
            f"version {wanted.version} of {wanted.project}/{wanted.name} exists",
            hint="leave the version out to get the next free number",
        )

    def insert_fixed(self, record: Record, version: str | None, *, again: bool) -> Record:
        """Do as `insert`, but for the very id of *record*, whoever claimed *version*.

        A number that this id has claimed is taken up; *again*: look for one when *version* is None, as an attempt
        that was killed may have left it. Raises AlreadyExists also where the record is there.
        """
        self._crash("create:before-claim")
        number = self.names.claim_again(record.project, record.name, version, record.id, again=again)
        self._crash("create:after-claim")
        record = record.with_fields(version=number)
        body = encode(record)
        try:
            etag = self._backend.put_if_absent(_key(record.id), body)
        except AlreadyExists:
            there = self.load(record.id).record
            if (there.project, there.name, there.version) != (record.project, record.name, number):
                self.names.release(record.project, record.name, number)
            raise
        self._crash("create:after-record")
        return self._seen(Stored(record, etag), body).record

    def update(self, version: VersionId, change: Callable[[Record], Record]) -> Record:
        """Replace the record of *version* by what *change* makes of it; return that.

        *change* is called with the record as it was seen last, and again with the newer one when that is not what is
        in the store; it may raise. A record that it returns as it was is not written. Raises Conflict when others are
        faster each time.
        """
        with self._lock:
            guess = self._last.get(version)
        for _ in range(_ATTEMPTS):
            stored, is_guess, guess = guess or self.load(version), guess is not None, None
            try:
                changed = change(stored.record)
            except Exception:
                if is_guess:
                    continue
                raise
            if changed == stored.record:
                if is_guess:
                    continue
                return changed
            body = encode(changed)
            try:
                etag = self._backend.replace_if(_key(version), body, stored.etag)
            except Conflict:
                continue
            return self._seen(Stored(changed, etag), body).record
        raise Conflict(f"the record of {version} changes faster than it can be written ({_ATTEMPTS} attempts)")

    def erase(self, record: Record) -> None:
        """Remove the record of an open version that nobody refers to, and its claim.

        Crash points: `erase:after-record`.
        """
        self._backend.delete(_key(record.id))
        self._crash("erase:after-record")
        self.names.release(record.project, record.name, record.version)
        self._cache.remove([record.id])
        with self._lock:
            self._last.pop(VersionId(record.id), None)

    def all(self) -> list[Record]:
        """Return every record but the deleted ones, oldest first; of the finished ones of a dataset one is `latest`.

        Takes requests as `every`.
        """
        return settled(record for record in self.every() if record.status != "deleted")

    def every(self) -> list[Record]:
        """Return every record as it is, deleted ones too, oldest first: one LIST, and a GET for each that changed.

        Those that are known are decoded while the store lists.
        """
        with uncollected(), ThreadPoolExecutor(1) as pool:
            known = self._cache.get_all()
            decoding = pool.submit(_all_decoded, known)
            listed = self._listed()
            records = decoding.result()
            gone = known.keys() - listed.keys()
            if gone:
                self._cache.remove(gone)
            changed = [name for name, etag in listed.items() if name not in known or known[name][0] != etag]
            bodies = {name: known[name][1] for name in listed.keys() & known.keys() - records.keys()}
            if changed:
                bodies.update(self._fetch(changed))
            records |= {name: decode(body, name) for name, body in bodies.items()}
            found = [record for name, record in records.items() if name in listed]
        return sorted(found, key=lambda record: (record.created_ns, record.id))

    def _listed(self) -> dict[str, str]:
        """Return the etags of all records that the store has, by id."""
        return {
            name: item.etag
            for item in self._backend.list("datasets/")
            if is_version_id(name := item.key.removeprefix("datasets/").removesuffix(".json"))
        }

    def _fetch(self, versions: list[str]) -> dict[str, bytes]:
        def fetch(version: str) -> tuple[str, str, bytes] | None:
            try:
                blob = self._backend.get(f"datasets/{version}.json")
            except NotFound:
                return None  # erased between the list and the look
            return version, blob.etag, blob.data

        with ThreadPoolExecutor(min(_PARALLEL, len(versions))) as pool:
            found = [item for item in pool.map(fetch, versions) if item is not None]
        self._cache.put(found)
        return {version: body for version, _, body in found}

    def resolve(self, spec: str, want: Want = "any") -> Record:
        """Return the record that *spec* names: an id, a unique prefix of one, project/name[@version] or tag:TAG.

        A name without a version stands for its highest version among those that *want* asks for; a tag for the newest
        that has it. Raises NotFound, WrongState when what is named is not what *want* asks for, InvalidInput.
        """
        record = self.find(spec, want)
        check_live(record)
        check_state(record, want)
        return record

    def find(self, spec: str, want: Want = "any") -> Record:
        """Do as `resolve`, but return what is named also where it is not what *want* asks for, or deleted."""
        if spec.startswith("tag:"):
            return self._tagged(spec.removeprefix("tag:"), want)
        if is_version_id(spec):
            return self.read(VersionId(spec))
        if "/" in spec:
            return self._named(spec, want)
        if _PREFIX.fullmatch(spec):
            return self._prefixed(spec)
        raise NotFound(f"no dataset is named {spec!r}", hint=_FORMS)

    def _prefixed(self, prefix: str) -> Record:
        found = [
            name
            for item in self._backend.list(f"datasets/{prefix}")
            if is_version_id(name := item.key.removeprefix("datasets/").removesuffix(".json"))
        ]
        if not found:
            raise NotFound(f"no dataset whose id starts with {prefix}", hint="`dvfs search` lists what is there")
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} ids start with {prefix}", hint="give more digits")
        return self.read(VersionId(found[0]))

    def _tagged(self, tag: str, want: Want) -> Record:
        found = [record for record in self.all() if tag in record.tags]
        if not found:
            raise NotFound(f"no dataset has the tag {tag!r}")
        fitting = [record for record in found if fits(record, want)]
        return (fitting or found)[-1]

    def _named(self, spec: str, want: Want) -> Record:
        project, _, rest = spec.rpartition("/")
        name, at, version = rest.rpartition("@")
        if at:
            try:
                record = self.read(self.names.holder(project, name, version))
            except NotFound as exc:
                raise NotFound(f"no version {version} of dataset {project}/{name}") from exc
            if (record.project, record.name, record.version) != (project, name, version):
                raise NotFound(f"no version {version} of dataset {project}/{name}")  # renamed: the claim is a leftover
            return record
        newest: Record | None = None
        for number, holder in self.names.holders(project, rest):
            try:
                record = self.read(holder)
            except NotFound:
                continue  # a claim without a record
            if record.status == "deleted" or (record.project, record.name, record.version) != (project, rest, number):
                continue
            if fits(record, want):
                return record
            newest = newest or record
        if newest is None:
            raise NotFound(f"no dataset {spec}", hint="`dvfs search` lists what is there")
        return newest


def fits(record: Record, want: Want) -> bool:
    """Tell whether *record* is one of those that *want* asks for."""
    if want == "finished":
        return record.status.is_finished
    return want == "any" or record.status.is_open


def dataset_of(spec: str) -> tuple[str, str] | None:
    """Return project and name if *spec* is those without a version: a dataset, not one of its versions."""
    if spec.startswith("tag:") or "/" not in spec:
        return None
    project, _, name = spec.rpartition("/")
    return None if "@" in name else (project, name)


def check_live(record: Record) -> None:
    """Raise NotFound if *record* is that of a deleted version."""
    if record.status == "deleted":
        raise NotFound(f"dataset {record.title} ({record.id}) is deleted")


def check_state(record: Record, want: Want) -> None:
    """Raise WrongState unless *record* is one of those that *want* asks for."""
    if fits(record, want):
        return
    if want == "finished":
        raise WrongState(
            f"dataset {record.title} ({record.id}) is not finished: {record.status}",
            hint=f"`dvfs close --id {record.id}` finishes it",
        )
    raise WrongState(
        f"dataset {record.title} ({record.id}) is {record.status} and can no longer be changed",
        hint=f"`dvfs create --parents {record.id}` makes a child version",
    )


def _key(version: VersionId) -> str:
    return f"datasets/{version}.json"


def _all_decoded(known: dict[str, tuple[str, bytes]]) -> dict[str, Record]:
    """Return the records in *known* (etags and bodies by id), without what is none."""
    found = {}
    for name, (_, body) in known.items():
        try:
            found[name] = decode(body, name)
        except Corrupt:
            continue
    return found
