"""Commit: a stream of changes to a finished version becomes its finished child, as a whole or not at all.

    changes ──> staging (local) ──> packs ──> pages ──> the record, open until now, is completed by one swap

The caller fixes the child's id: an attempt that failed, at whatever point, is repeated under the same id, with the
same changes or with others. A repeat takes what was sent and sends the rest; nothing of an earlier attempt gets into
the version that this one does not ask for, and one id never becomes two versions.

Threads: a commit belongs to one thread, of one process at a time; its reader is called in others, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dvfs.store import latest
from dvfs.store.catalog.entry import Content
from dvfs.store.change import Change, Edited, Kept, Local, Reader, before_of, bytes_of, tag_of, to_source
from dvfs.store.edits import Finder
from dvfs.store.errors import AlreadyExists, Conflict, NotFound, WrongState
from dvfs.store.ids import VersionId, new_pack_id, pack_key
from dvfs.store.packing import PackingOptions, PackingResult, Previous, pack_files
from dvfs.store.publish import apply_staged, counted
from dvfs.store.reader_files import ReaderFiles
from dvfs.store.record import Origin, Record, Root, Status
from dvfs.store.records import check_state
from dvfs.store.reusable import Reusable
from dvfs.store.source import Kind, Source
from dvfs.store.staging import Staging
from dvfs.store.upload import Progress, UploadOptions

if TYPE_CHECKING:
    from dvfs.store.store import Store
    from dvfs.store.version import Version

__all__ = ["Change", "Edited", "Kept", "Local", "Reader", "Request", "Stored", "abandon", "commit", "forget", "landed"]

Stored = tuple[bytes, bytes, Content]
"""The tag of a change, and the digest and content that its file got."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a commit is to make: the version *id*, fixed by the caller, a child of *parent*, a finished version.

    *project*, *name*: those of the parent when None. *version*: the next number when None. The parent may have been
    deleted meanwhile, and may have other children.
    """

    id: VersionId
    parent: Record
    project: str | None = None
    name: str | None = None
    version: str | None = None
    tags: tuple[str, ...] = ()
    description: str = ""
    creator: str = ""
    origin: Origin | None = None


def commit(
    store: Store,
    request: Request,
    changes: Callable[[], Iterable[Change]],
    reader: Reader,
    *,
    options: UploadOptions | None = None,
    progress: Progress | None = None,
    on_stored: Callable[[Iterable[Stored]], object] | None = None,
) -> Record | None:
    """Make the child of *request* out of its parent and *changes*; return its finished record.

    None when nothing but times would change: then there is no child. A version of the id that is finished already is
    returned as it is. *changes* are in any order; of two of one path the last counts. *on_stored* is told, when
    the child is finished, or found to be, or not needed, of the files of all changes with a tag; then the local state
    of the commit goes. Raises NotFound where the store or what the parent is made of is gone, WrongState when the id
    is that of a deleted version, AlreadyExists when the version number is taken, what *changes* and *reader* raise, and
    as the backend.

    Crash points: those of `Records.insert`, `Records.erase` and `PackWriter`; `commit:after-stage`,
    `commit:before-pages`, `commit:before-swap`, `commit:after-swap`, `commit:after-report`, `commit:before-erase`;
    where an open record gets another name, `rename:after-claim` and `rename:after-record`.
    """
    store.check_there()
    record = _load(store, request.id)
    if record is not None and not record.status.is_open:
        return _found_finished(store, record, on_stored)
    again = _staging_path(store, request.id).exists()
    with _staging(store, request.id) as staging:
        gap_bytes = store.parameters.cutting.min_bytes
        staging.replace(to_source(change, gap_bytes=gap_bytes) for change in changes())
        store.crash("commit:after-stage")
        if staging.is_empty() and record is None:
            child = None
        else:
            record = _opened(store, request, record, again=again)
            if record.status.is_finished:  # by another attempt, just now
                return _found_finished(store, record, on_stored)
            _check_base(store, record)
            child = _make(store, record, staging, reader, options or UploadOptions(), progress)
            _report(store, child or record.with_fields(root=record.base), staging, on_stored)
            store.crash("commit:after-report")
        if child is None and record is not None:
            store.crash("commit:before-erase")
            store.records.erase(record)
    forget(store, request.id)
    return child


def landed(store: Store, version: VersionId) -> Record | None:
    """Return the record of the commit of the id *version* if it is finished and not deleted, None otherwise.

    Asks the store. Raises NotFound where that is gone.
    """
    store.check_there()
    record = _load(store, version)
    return record if record is not None and record.status.is_finished and _is_a_commit(record) else None


def abandon(store: Store, version: VersionId) -> None:
    """Give up the commit of the id *version*, which did not land: erase its open record and what is known locally."""
    store.check_there()
    record = _load(store, version)
    if record is not None:
        check_state(record, "open")
        store.records.erase(record)
    forget(store, version)


def forget(store: Store, version: VersionId) -> None:
    """Remove what is kept locally for the commit of the id *version*; makes no request."""
    path = _staging_path(store, version)
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


# --- the record


def _load(store: Store, version: VersionId) -> Record | None:
    try:
        return store.records.load(version).record
    except NotFound:
        return None


def _is_a_commit(record: Record) -> bool:
    """Tell whether the finished *record* has changes: a commit makes no other; but its open record could be closed."""
    return record.base is None or record.root is None or record.root.page.content != record.base.page.content


def _found_finished(store: Store, record: Record, on_stored: Callable[[Iterable[Stored]], object] | None) -> Record:
    """Return the finished *record* of an earlier attempt, after telling what that could not tell any more."""
    if not record.status.is_finished or not _is_a_commit(record):
        what = "was closed before the commit was done" if record.status.is_finished else f"is {record.status}"
        raise WrongState(f"dataset {record.title} ({record.id}) {what}", hint="commit under another id")
    if _staging_path(store, record.id).exists():
        with _staging(store, record.id) as staging:
            _report(store, record, staging, on_stored)
        forget(store, record.id)
    return record


def _opened(store: Store, request: Request, found: Record | None, *, again: bool) -> Record:
    """Return the open record of *request*: the one *found*, brought up to date, or a new one.

    One that somebody else finished in between is returned as well.
    """
    parent = request.parent
    if parent.root is None:
        raise WrongState(f"dataset {parent.title} ({parent.id}) is not finished")
    if found is None:
        record = Record(
            id=request.id,
            project=request.project or parent.project,
            name=request.name or parent.name,
            version="",
            status=Status.UPLOADING,
            created_ns=store.clock.now_ns(),
        )
        try:
            return store.records.insert_fixed(_asked(record, request), request.version, again=again)
        except AlreadyExists:
            found = _load(store, request.id)
            if found is None:
                raise
            if not found.status.is_open:
                return found
    return _brought_up_to_date(store, request, found)


def _asked(record: Record, request: Request) -> Record:
    """Return the open *record* with all that *request* says but its title."""
    return record.with_fields(
        tags=tuple(dict.fromkeys(request.tags)),
        description=request.description,
        parents=(request.parent.id,),
        base=request.parent.root,
        draft=request.parent.root,
        storages=dict(request.parent.storages),
        creator=request.creator,
        origin=request.origin or Origin(),
    )


def _brought_up_to_date(store: Store, request: Request, found: Record) -> Record:
    """Make the open record *found* the one that *request* asks for, under another name if it says so."""
    project, name = request.project or request.parent.project, request.name or request.parent.name
    number = found.version
    moves = (found.project, found.name) != (project, name) or request.version not in (None, number)
    if moves:
        number = store.records.names.claim_again(project, name, request.version, request.id)
        store.crash("rename:after-claim")

    def change(newest: Record) -> Record:
        if not newest.status.is_open:
            return newest
        return _asked(newest.with_fields(project=project, name=name, version=number), request)

    record = store.records.update(request.id, change)
    store.crash("rename:after-record")
    if moves and record.status.is_open:
        store.records.names.release(found.project, found.name, found.version)
    return record


def _check_base(store: Store, record: Record) -> None:
    """Raise NotFound unless the store has what *record* builds on: it may be another one at the same place by now."""
    assert record.base is not None
    page = record.base.page.block
    try:
        store.storage(record)(page.storage).head(pack_key(page.pack))
    except NotFound as exc:
        store.records.erase(record)
        raise NotFound(
            f"the version that {record.title} is to be a child of is not in the store at {store.backend.url} any more"
        ) from exc


# --- the version


def _make(
    store: Store, record: Record, staging: Staging, reader: Reader, options: UploadOptions, progress: Progress | None
) -> Record | None:
    """Send what is staged on top of the base of *record* and complete it; None when that changes nothing."""
    files, size = staging.pending()
    if progress is not None:
        progress.on_total(files, size)
    packed = PackingResult()
    if files:
        packed = _pack(store, record, staging, reader, options, progress)
    store.crash("commit:before-pages")
    root, metadata_bytes = apply_staged(store, record, record.base, staging, staging.serial, ignore_mtimes=True)
    if root == record.base:
        return None
    return _complete(store, record, root, packed.stored_bytes + metadata_bytes)


def _pack(
    store: Store, record: Record, staging: Staging, reader: Reader, options: UploadOptions, progress: Progress | None
) -> PackingResult:
    cutting = store.parameters.cutting
    with closing(store.version(record.with_fields(root=record.base))) as base:
        result = pack_files(
            staging.unpacked(),
            new_pack=lambda: new_pack_id(record.id),
            put=store.backend.put_if_absent,  # a child inherits what its parent has elsewhere, not where it goes
            mark=staging.mark_packed,
            options=PackingOptions(
                cutting=cutting,
                compression=options.compression,
                pack_bytes=options.pack_bytes,
                workers=options.workers,
            ),
            reuse=_Reusable(base, staging).reuse(),
            files=ReaderFiles(reader, cutting, base.pages.load_blocks),
            progress=progress,
            crash=store.crash,
        )
    result.raise_failures()
    return result


class _Reusable(Reusable):
    """What lies under an edited file need not be sent, wherever that file was before."""

    def base(self, source: Source) -> Previous | None:
        before = before_of(source)
        return super().base(source) if before is None else self.previous(before)


def _complete(store: Store, record: Record, root: Root, uploaded_bytes: int) -> Record:
    counts = counted(store, record, root, uploaded_bytes)

    def complete(newest: Record) -> Record:
        if newest.status.is_finished:
            return newest
        check_state(newest, "open")
        if newest.base != record.base:
            raise Conflict(f"{record.title} ({record.id}) is being committed by somebody else at the same time")
        now_ns = store.clock.now_ns()
        finished = newest.with_fields(
            status=Status.COMPLETED, root=root, draft=None, completed_ns=now_ns, counts=counts
        )
        return latest.given(store.records, finished, now_ns)

    store.crash("commit:before-swap")
    record = store.records.update(record.id, complete)
    store.crash("commit:after-swap")
    latest.tidy(store.records, record)
    return record


def _report(
    store: Store, record: Record, staging: Staging, on_stored: Callable[[Iterable[Stored]], object] | None
) -> None:
    if on_stored is not None:
        with closing(store.version(record)) as version:
            on_stored(_stored(version, staging))


def _stored(version: Version, staging: Staging) -> Iterator[Stored]:
    """Yield tag, digest and content of the staged files that *version* has as they were staged."""
    finder = Finder(version.tree)
    for row in staging.edits():
        source = row.source
        if source.kind not in (Kind.FILE, Kind.KEPT) or not (tag := tag_of(source)):
            continue
        digest = row.digest
        if source.kind == Kind.KEPT:
            kept = bytes_of(source)
            assert isinstance(kept, Kept)
            digest = kept.digest
        entry = finder.find(source.path)
        if entry is not None and entry.is_file and (entry.digest, entry.size) == (digest, source.size):
            yield tag, entry.digest, entry.content


# --- local state


def _staging_path(store: Store, version: VersionId) -> Path:
    return store.local / "commits" / f"{version}.sqlite"


@contextmanager
def _staging(store: Store, version: VersionId) -> Iterator[Staging]:
    path = _staging_path(store, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(Staging(path)) as staging:
        yield staging
