"""An open version: files staged into it, removed, uploaded, and the version finished.

A `Draft` belongs to one thread; several drafts of one version, in several processes or on several machines, may be at
work at once, and the version keeps the files of all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, NamedTuple

from dvfs.store import latest
from dvfs.store.catalog.diff import Difference
from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.key import check_path
from dvfs.store.catalog.tree import Tree
from dvfs.store.comparison import pending_changes
from dvfs.store.edits import Finder, current
from dvfs.store.errors import WrongState
from dvfs.store.external import from_bytes
from dvfs.store.include import wildcards
from dvfs.store.publish import counted, publish
from dvfs.store.record import Record, Status
from dvfs.store.records import check_state
from dvfs.store.scan import Scan, ScanOptions, expand
from dvfs.store.scan import dataset_folder as folder_of
from dvfs.store.selection import cleaned, is_literal, matcher
from dvfs.store.source import FILES, Kind, Source, external_source, missing_parents, removal
from dvfs.store.staging import Staging
from dvfs.store.sync import SyncCount, compare
from dvfs.store.upload import Progress, UploadCount, UploadOptions, upload

if TYPE_CHECKING:
    from dvfs.store.store import Store
    from dvfs.store.version import Version

Local = str | bytes | os.PathLike[str] | os.PathLike[bytes]
OnPath = Callable[[bytes], None]
"""Told each path of the dataset that is staged or removed."""


@dataclass(frozen=True, slots=True)
class AddCount:
    """Files and links that `add` staged: new paths, other content (by size and mtime), the same; those left out."""

    added: int = 0
    modified: int = 0
    unchanged: int = 0
    skipped: int = 0

    def __add__(self, other: AddCount) -> AddCount:
        """Return both together."""
        return AddCount(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class Pending(NamedTuple):
    """Staged files that are not uploaded, and their bytes; *changes*: whether anything at all is staged."""

    files: int
    bytes: int
    changes: bool


class Draft:
    """The open version of *record* in *store*."""

    def __init__(self, store: Store, record: Record) -> None:
        self.store = store
        self.record = record

    # --- staging

    def add_files(
        self, paths: Sequence[Local], options: ScanOptions, *, dataset_folder: str = "", on_path: OnPath | None = None
    ) -> AddCount:
        """Stage local files and folders below *dataset_folder* of the dataset, all of them or, on an error, none.

        A file goes there by its name, of a folder the content. Reads no content. Raises BadSource naming what
        cannot be taken.
        """
        scan = Scan(expand(paths), options, folder=folder_of(dataset_folder))
        count = {"added": 0, "modified": 0, "unchanged": 0}
        with self._staging() as staging, self._draft_tree() as tree:
            finder = Finder(tree)

            def counted() -> Iterator[Source]:
                for source in scan:
                    if source.kind in (Kind.FILE, Kind.LINK):
                        count[_judge(source, finder)] += 1
                        if on_path is not None:
                            on_path(source.path)
                    yield source

            staging.stage(counted())
        return AddCount(**count, skipped=scan.skipped.count)

    def add_external_files(
        self,
        urls: Sequence[tuple[str, str]],
        *,
        include: Sequence[str] = (),
        recursive: bool = True,
        on_path: OnPath | None = None,
    ) -> AddCount:
        """Stage external files: what is at *urls*, each with the folder of the dataset where it goes; all or none.

        An object goes there by its name, of a folder the content. *include*, *recursive*: as in `ScanOptions`. Reads no
        content. Raises as `Externals.find`.
        """
        fits = wildcards(include, recursive=recursive) if include else None
        count = {"added": 0, "modified": 0, "unchanged": 0}
        now_ns = self.store.clock.now_ns()
        parents: set[bytes] = {b""}
        with self._staging() as staging, self._draft_tree() as tree:
            finder = Finder(tree)

            def counted() -> Iterator[Source]:
                for url, folder in urls:
                    for name, external in self.store.externals.find(url, recursive=recursive, fits=fits):
                        source = external_source(os.path.join(folder_of(folder), name), external, now_ns)
                        check_path(source.path)
                        found = finder.find(source.path)
                        if found is not None and found.external == external:
                            source = source._replace(mode=found.mode, mtime_ns=found.mtime_ns)
                        count[_judge(source, finder)] += 1
                        if on_path is not None:
                            on_path(source.path)
                        yield from missing_parents(source.path, parents)
                        yield source

            staging.stage(counted())
        return AddCount(**count)

    def remove_files(
        self, patterns: Sequence[str | bytes], *, recursive: bool = True, on_path: OnPath | None = None
    ) -> int:
        """Stage the removal of what *patterns* name in the dataset (see `selection`); return the number of files.

        A pattern with `://` in it names external files by their URLs. Links count as files. What was only staged is
        staged no more.
        """
        number = 0
        with self._staging() as staging, self._draft_tree() as tree:

            def chosen() -> Iterator[Source]:
                nonlocal number
                for path, is_file in _chosen(tree, staging, [cleaned(pattern) for pattern in patterns], recursive):
                    number += is_file
                    if is_file and on_path is not None:
                        on_path(path)
                    yield removal(path)

            staging.stage(chosen())
        return number

    def sync_folders(
        self,
        folders: Sequence[Local],
        options: ScanOptions,
        *,
        dataset_folder: str = "",
        checksum: bool = False,
        on_path: OnPath | None = None,
    ) -> SyncCount:
        """Stage what makes *dataset_folder* of the dataset equal to the local *folders*; say what that is.

        Files are the same when kind, size, mtime_ns and permissions are; with *checksum*, when their content is. Where
        nothing but times differs nothing is staged. Raises BadSource naming what cannot be taken.
        """
        with self._staging() as staging, self._draft_tree() as tree:
            return compare(
                Scan(expand(folders), options, folder=folder_of(dataset_folder)),
                staging,
                tree,
                folder=folder_of(dataset_folder),
                cutting=self.store.parameters.cutting,
                checksum=checksum,
                on_path=on_path,
            )

    def pending(self) -> Pending:
        """Return what is staged and not uploaded."""
        with self._staging() as staging:
            files, size = staging.pending()
            return Pending(files, size, not staging.is_empty())

    def entries(self) -> Iterator[tuple[bytes, Entry]]:
        """Yield path and entry of all that the version has and gets, in catalog order; staged files lack digests."""
        with self._staging() as staging, self._draft_tree() as tree:
            yield from current(staging, tree)

    def changes(self) -> Iterator[Difference]:
        """Yield, in catalog order, how the version with what it gets differs from its base; staged files lack digests.

        A staged file is taken for the same when size, mtime and permissions are.
        """
        base = self.record.base
        with self._staging() as staging, self._draft_tree() as tree:
            if base is None or tree is None:
                yield from pending_changes(None, tree, staging)
            else:
                yield from pending_changes(Tree(base.page, tree.load), tree, staging)

    # --- the store

    def upload(
        self, options: UploadOptions | None = None, progress: Progress | None = None, *, storage: str | None = None
    ) -> UploadCount:
        """Send what is staged, and add it to the draft. Goes on where an interrupted one stopped.

        *storage*: the URL that data packs go to from now on, where the version says when None. Raises SourceChanged
        naming files that are not what was staged (the others are uploaded), WrongState when the version is finished,
        and as the backend.
        """
        if storage is not None:
            self.store.place_data(self.record.id, storage)
        with self._staging() as staging:
            count = upload(self.store, self.record.id, staging, options or UploadOptions(), progress)
        self.record = self.store.records.last(self.record.id)
        return count

    def finalize(self) -> Record:
        """Finish the version; it never changes again. Raises WrongState when something is staged, or it is finished.

        Crash points: `close:before-swap`, `close:after-swap` (of the record).
        """
        pending = self.pending()
        if pending.changes:
            raise WrongState(
                f"dataset {self.record.title} ({self.record.id}) has changes that are not uploaded: "
                f"{pending.files} files, {pending.bytes} bytes",
                hint=f"`dvfs upload --id {self.record.id}` sends them",
            )
        record = self.store.records.last(self.record.id)
        if record.status.is_finished:
            self.forget()  # killed right after, this left what it had staged: nothing
        while True:
            check_state(record, "open")
            if record.draft is None:
                with self._staging() as staging:
                    record = publish(self.store, record.id, staging, 0)
            assert record.draft is not None
            draft, counts = record.draft, counted(self.store, record, record.draft, record.counts.uploaded)

            def complete(newest: Record) -> Record:
                check_state(newest, "open")
                if newest.draft != draft:  # noqa: B023 the loop waits for this call
                    return newest  # somebody else uploaded since: count anew
                now_ns = self.store.clock.now_ns()
                finished = newest.with_fields(
                    status=Status.COMPLETED,
                    root=newest.draft,
                    draft=None,
                    completed_ns=now_ns,
                    counts=counts,  # noqa: B023
                )
                return latest.given(self.store.records, finished, now_ns)

            self.store.crash("close:before-swap")
            record = self.store.records.update(record.id, complete)
            if record.status.is_finished:
                self.store.crash("close:after-swap")
                self.record = record
                self.forget()
                latest.tidy(self.store.records, record)
                return record

    def discard(self) -> None:
        """Erase the open version: its record, its claim and what is staged. Its packs are left for gc."""
        check_state(self.store.records.load(self.record.id).record, "open")
        self.store.records.erase(self.record)
        self.forget()

    # --- inside

    @contextlib.contextmanager
    def _draft_tree(self) -> Iterator[Tree | None]:
        """The tree of what is uploaded so far; None when nothing is."""
        self.record = self.store.records.load(self.record.id).record
        check_state(self.record, "open")
        if self.record.draft is None:
            yield None
            return
        with _closing(self.store.version(self.record)) as version:
            yield version.tree

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Staging]:
        folder = self.store.local / "staging"
        folder.mkdir(parents=True, exist_ok=True)
        staging = Staging(folder / f"{self.record.id}.sqlite")
        try:
            yield staging
        finally:
            staging.close()

    def forget(self) -> None:
        """Remove what is kept locally for the version: what is staged."""
        for end in ("", "-wal", "-shm"):
            (self.store.local / "staging" / f"{self.record.id}.sqlite{end}").unlink(missing_ok=True)


@contextlib.contextmanager
def _closing(version: Version) -> Iterator[Version]:
    try:
        yield version
    finally:
        version.close()


def _judge(source: Source, finder: Finder) -> str:
    found = finder.find(source.path)
    if found is None or found.is_dir:
        return "added"
    same = (found.size, found.mtime_ns, found.mode & 0o7777) == (source.size, source.mtime_ns, source.mode & 0o7777)
    if source.kind == Kind.LINK:
        same = found.target == source.target
    same &= found.external == (from_bytes(source.target) if source.kind == Kind.EXTERNAL else None)
    return "unchanged" if same and found.is_link == (source.kind == Kind.LINK) else "modified"


def _chosen(
    tree: Tree | None, staging: Staging, patterns: Iterable[bytes], recursive: bool
) -> Iterator[tuple[bytes, bool]]:
    """Yield the paths that *patterns* name, each once, and whether it is a file or link."""
    seen: set[bytes] = set()
    for pattern in patterns:
        if b"://" in pattern:
            found = _by_url(tree, staging, pattern)
        elif is_literal(pattern):
            found = _literal(tree, staging, pattern)
        else:
            found = _matching(tree, staging, pattern, recursive)
        for path, is_file in found:
            if path not in seen:
                seen.add(path)
                yield path, is_file


def _literal(tree: Tree | None, staging: Staging, path: bytes) -> Iterator[tuple[bytes, bool]]:
    row = staging.find(path)
    if row is not None and row.source.kind == Kind.REMOVED:
        return
    found = tree.find(path) if tree is not None else None
    if found is None and row is None:
        return
    is_directory = (found is not None and found[1].is_dir) or (
        row is not None and row.source.kind in (Kind.DIRECTORY, Kind.PARENT)
    )
    yield path, not is_directory
    if tree is not None and found is not None and found[1].is_dir:
        start, stop = tree.subtree(path)
        for _, below, entry in tree.scan(start, stop):
            hidden = staging.find(below)
            if hidden is None or hidden.source.kind != Kind.REMOVED:
                yield below, not entry.is_dir
    for staged in staging.edits():
        if staged.source.path.startswith(path + b"/") and staged.source.kind != Kind.REMOVED:
            yield staged.source.path, staged.source.kind in FILES


def _by_url(tree: Tree | None, staging: Staging, pattern: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the external files whose URL *pattern* matches; `*` matches `/` too."""
    matches = matcher(pattern, recursive=True) if not is_literal(pattern) else pattern.__eq__
    for path, entry in current(staging, tree):
        if entry.external is not None and matches(entry.external.url):
            yield path, True


def _matching(tree: Tree | None, staging: Staging, pattern: bytes, recursive: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield what *pattern* matches; of a directory that it matches all that is below it too."""
    matches = matcher(pattern, recursive=recursive)
    folders: set[bytes] = set()

    def named(path: bytes, is_directory: bool) -> bool:
        parent = path.rpartition(b"/")[0]
        hit = parent in folders or matches(path)
        if hit and is_directory:
            folders.add(path)
        return hit

    if tree is not None:
        for _, path, entry in tree.scan(1):
            if named(path, entry.is_dir):
                row = staging.find(path)
                if row is None or row.source.kind != Kind.REMOVED:
                    yield path, not entry.is_dir
    for row in staging.edits():
        path, kind = row.source.path, row.source.kind
        if path and kind != Kind.REMOVED and named(path, kind in (Kind.DIRECTORY, Kind.PARENT)):
            yield path, kind in FILES
