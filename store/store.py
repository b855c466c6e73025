"""A store opened: its versions found, made, read and changed. Thread-safe; opening it makes no request.

Store ── records ── names, record cache          who is there
      ── version(spec) → Version                  reading
      ── create(…), draft(spec) → Draft           writing
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dvfs.store import parameters
from dvfs.store.backend import Backend
from dvfs.store.cache import Cache
from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.boundary import Boundaries
from dvfs.store.catalog.diff import merge
from dvfs.store.catalog.pages import PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.clock import Clock, SystemClock
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.draft import Draft
from dvfs.store.errors import InvalidInput
from dvfs.store.externals import Externals
from dvfs.store.fetch import Fetcher
from dvfs.store.ids import VersionId, new_version_id
from dvfs.store.metadata_pack import BlockSource, MetadataPacks
from dvfs.store.parameters import Parameters
from dvfs.store.record import Origin, Record, Root
from dvfs.store.record_cache import RecordCache
from dvfs.store.records import Records, Want, check_state
from dvfs.store.storages import OpenStorage, Storages, no_other, together
from dvfs.store.version import Version, readable_root

METADATA_PACK_BYTES = 32 << 20


class Store:
    """The store behind *backend*. *state_dir*: where staging and the cache of records are kept, for all stores.

    *wanted*: the parameters of a store that this makes. *parallel*: requests at once of one opened version.
    *open_storage*: opens the other storages in which versions have data; see `Storages`. *externals*: reads external
    files. *crash*: see `Records.insert`, `PackWriter`, `publish` and `Draft.finalize`.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        state_dir: Path,
        cache: Cache,
        externals: Externals | None = None,
        clock: Clock | None = None,
        wanted: Parameters | None = None,
        parallel: int = 16,
        open_storage: OpenStorage = no_other,
        crash: CrashPoint = no_crash,
    ) -> None:
        self.backend = backend
        self.cache = cache
        self.externals = externals or Externals()
        self.crash = crash
        self.clock: Clock = clock or SystemClock()
        self.local = state_dir / "stores" / hashlib.sha256(os.fsencode(backend.url)).hexdigest()[:16]
        self._cached_records = RecordCache(self.local / "records.sqlite")
        self.records = Records(backend, self._cached_records, crash)
        self._wanted = wanted or Parameters()
        self._parameters: Parameters | None = None
        self.parallel = parallel
        self.storages = Storages(backend, open_storage)

    @property
    def parameters(self) -> Parameters:
        """How this store cuts files and catalogs; asks the store once, and makes it one if it is none yet."""
        if self._parameters is None:
            self._parameters = parameters.ensure(self.backend, self._wanted)
        return self._parameters

    def check_there(self) -> None:
        """Raise NotFound unless the store is there: for who must not make one. One request."""
        self._parameters = parameters.load(self.backend)

    def storage(self, record: Record) -> Callable[[int], Backend]:
        """Return what finds the backend of each storage tag of *record*."""
        return self.storages.behind(record)

    def resolve(self, spec: str, want: Want = "any") -> Record:
        """Return the record that *spec* names; see `Records.resolve`."""
        return self.records.resolve(spec, want)

    def search(
        self,
        *,
        project: str | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        ids: Iterable[str] = (),
        only_completed: bool = True,
        recursive: bool = True,
    ) -> list[Record]:
        """Return the records that fit all that is given, oldest first.

        *project*: that project and, if *recursive*, those below it. *name*: any part of the name. *tags*: all of them.
        *ids*: one of them. *only_completed*: finished versions only.
        """
        wanted_tags, wanted_ids = set(tags), set(ids)

        def fits(record: Record) -> bool:
            return (
                (
                    project is None
                    or record.project == project
                    or (recursive and record.project.startswith(project + "/"))
                )
                and (name is None or name.casefold() in record.name.casefold())
                and wanted_tags <= set(record.tags)
                and (not wanted_ids or record.id in wanted_ids)
                and (record.status.is_finished or not only_completed)
            )

        return [record for record in self.records.all() if fits(record)]

    def version(self, spec: str | Record) -> Version:
        """Open the version that *spec* names for reading. Raises as `resolve`; WrongState when it has no files yet."""
        record = self.resolve(spec, "finished") if isinstance(spec, str) else spec
        root = readable_root(record)
        return Version(record, root, self.storage(record), self.cache, externals=self.externals, parallel=self.parallel)

    def create(
        self,
        *,
        project: str | None,
        name: str | None,
        version: str | None = None,
        parents: Sequence[str] = (),
        tags: Iterable[str] = (),
        description: str = "",
        creator: str = "",
        origin: Origin | None = None,
        storage: str | None = None,
    ) -> Draft:
        """Make an open version that starts as the union of *parents*, a later one overriding an earlier; return it.

        *project* and *name* default to those of the last parent, *version* to the next number. *storage*: the URL that
        its data packs go to, the store itself when None. Raises InvalidInput, AlreadyExists, NotFound, WrongState for
        a parent that is not finished.
        """
        found = [self.resolve(parent, "finished") for parent in parents]
        if project is None:
            if not found:
                raise InvalidInput("a dataset without parents needs a project", hint="give one with --project")
            project = found[-1].project
        if name is None:
            if not found:
                raise InvalidInput("a dataset without parents needs a name", hint="give one with --name")
            name = found[-1].name
        storages = together(found)
        boundaries = self.parameters.boundaries
        tag, url = self.storages.tag(storage) if storage is not None else (0, storages[0])
        record = Record(
            id=new_version_id(),
            project=project,
            name=name,
            version="",
            tags=tuple(dict.fromkeys(tags)),
            description=description,
            parents=tuple(parent.id for parent in found),
            storages=storages | {tag: url},
            storage=tag,
            created_ns=self.clock.now_ns(),
            creator=creator,
            origin=origin or Origin(),
        )
        base = self._union(record, found, boundaries)
        record = self.records.insert(record.with_fields(base=base, draft=base), version)
        return Draft(self, record)

    def draft(self, spec: str) -> Draft:
        """Open the unfinished version that *spec* names for changing. Raises as `resolve`."""
        return Draft(self, self.resolve(spec, "open"))

    def place_data(self, version: VersionId, url: str) -> Record:
        """Let later data packs of the open *version* go to the storage *url*; return its record.

        What lies elsewhere stays there. Raises InvalidInput, NotFound, WrongState when the version is finished.
        """
        tag, said = self.storages.tag(url)

        def change(newest: Record) -> Record:
            check_state(newest, "open")
            return newest.with_fields(storages=newest.storages | {tag: said}, storage=tag)

        return self.records.update(version, change)

    def metadata_packs(self, version: VersionId, behind: BlockSource) -> MetadataPacks:
        """Return where new pages of *version* go; pages that are in the store come from *behind*."""
        return MetadataPacks(
            version,
            self.backend.put_if_absent,
            behind,
            keep=self.cache.put,
            pack_bytes=METADATA_PACK_BYTES,
        )

    def close(self) -> None:
        """Let go of files and connections; the store is not used after it."""
        self._cached_records.close()
        self.storages.close()
        self.externals.close()
        self.backend.close()

    def _union(self, record: Record, parents: Sequence[Record], boundaries: Boundaries) -> Root | None:
        roots = [readable_root(parent) for parent in parents]
        if len(roots) < 2:
            return roots[0] if roots else None
        fetcher = Fetcher(self.storage(record), self.cache, parallel=self.parallel)
        try:
            packs = self.metadata_packs(record.id, fetcher)
            pages = PageSource(packs)
            writer = Writer(packs.write, boundaries)
            page = merge([Tree(root.page, pages.load) for root in roots], writer)
            written = packs.finish(page)
        finally:
            fetcher.close()
        return next((root for root in roots if root.page.block == page.block), written)
