"""A `Dataset` on the local disk: copies and mounts, and whether a copy is whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, overload

from dvfs.store.dataset_handle import Handle
from dvfs.store.errors import DvfsError, InvalidInput
from dvfs.store.materialise import cached_copy, copy_out
from dvfs.store.record import Record
from dvfs.store.records import check_state
from dvfs.store.surroundings import Local
from dvfs.store.verify_copy import verify_copy

_log = logging.getLogger(__name__)

_WORKERS = 8


class Copies(Handle):
    """The part of `Dataset` about local copies."""

    @overload
    def get_local_copy(
        self,
        use_soft_links: bool | None = None,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: Literal[True] = True,
        max_workers: int | None = None,
        files: Sequence[str] | None = None,
        *,
        mount: bool = False,
    ) -> str: ...

    @overload
    def get_local_copy(
        self,
        use_soft_links: bool | None = None,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: bool = True,
        max_workers: int | None = None,
        files: Sequence[str] | None = None,
        *,
        mount: bool = False,
    ) -> str | None: ...

    def get_local_copy(
        self,
        use_soft_links: bool | None = None,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: bool = True,
        max_workers: int | None = None,
        files: Sequence[str] | None = None,
        *,
        mount: bool = False,
    ) -> str | None:
        """Return the path of a folder with the files of the finished version, which may only be read.

        By default it is a copy beside the cache, made once, as `dvfs get` makes it. With *mount* it is a mount of the
        version where this machine can mount: it is there at once and fetches what is read. All processes share it, and
        it stays until `dvfs umount`; where the machine cannot mount, a copy is returned.

        *use_soft_links*: nothing, a copy holds the files themselves. *part*, *num_parts*: only that part, from 0 on,
        of equal stretches of the entries. *max_workers*: threads that write files. *files*: only these files, and all
        in these folders.

        The copy is whole or not there. Raises WrongState when the version is not finished, NotFound when it has not
        all of *files*, Corrupt, NoSpace and Unavailable; unless *raise_on_error* it is logged and None returned.
        """
        if mount and (part is not None or num_parts is not None or files is not None):
            raise InvalidInput("a mount shows the whole version", hint="leave out part, num_parts and files, or mount")
        try:
            record = self._finished()
            if mount:
                place = self._settings.cache_dir / "mounts" / record.id
                if self.surroundings.mount(self._settings, record.id, place, writable=False):
                    self._note("Dataset")
                    return os.fspath(place)
            with closing(self._store.version(record)) as version:
                path = cached_copy(
                    version,
                    self._settings.cache_dir / "copies",
                    part=part,
                    num_parts=num_parts,
                    paths=None if files is None else [_path(name) for name in files],
                    workers=max_workers or _WORKERS,
                )
        except DvfsError as exc:
            if raise_on_error:
                raise
            _log.warning("no local copy: %s", exc.message)
            return None
        self._note("Dataset")
        return os.fspath(path)

    @overload
    def get_mutable_local_copy(
        self,
        target_folder: Local,
        overwrite: bool = False,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: Literal[True] = True,
        max_workers: int | None = None,
        *,
        mount: bool = False,
    ) -> str: ...

    @overload
    def get_mutable_local_copy(
        self,
        target_folder: Local,
        overwrite: bool = False,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: bool = True,
        max_workers: int | None = None,
        *,
        mount: bool = False,
    ) -> str | None: ...

    def get_mutable_local_copy(
        self,
        target_folder: Local,
        overwrite: bool = False,
        part: int | None = None,
        num_parts: int | None = None,
        raise_on_error: bool = True,
        max_workers: int | None = None,
        *,
        mount: bool = False,
    ) -> str | None:
        """Make *target_folder* a copy of the finished version that may be changed; return its path.

        By default it is a plain folder. With *mount* it is a writable mount where this machine can mount: it is there
        at once, keeps edits on the local disk, and `dvfs commit` makes a child version of them, or `sync_folder` of a
        new version takes them. Edits that were made there before and not committed are taken up again.

        *overwrite*: replace what is in the folder, which must be empty else; a mount cannot. *part*, *num_parts*,
        *max_workers*, *raise_on_error*: as for `get_local_copy`. Raises also InvalidInput when the folder is not empty.
        """
        if mount and (part is not None or num_parts is not None or overwrite):
            raise InvalidInput(
                "a mount shows the whole version, in an empty folder",
                hint="leave out part, num_parts and overwrite, or mount",
            )
        target = Path(os.path.abspath(self.surroundings.local(target_folder)))
        try:
            record = self._finished()
            if mount and self.surroundings.mount(self._settings, record.id, target, writable=True):
                self._note("Dataset")
                return os.fspath(target)
            with closing(self._store.version(record)) as version:
                copy_out(
                    version,
                    target,
                    overwrite=overwrite,
                    part=part,
                    num_parts=num_parts,
                    workers=max_workers or _WORKERS,
                )
        except DvfsError as exc:
            if raise_on_error:
                raise
            _log.warning("no local copy: %s", exc.message)
            return None
        self._note("Dataset")
        return os.fspath(target)

    def verify_dataset_hash(
        self, local_copy_path: Local | None = None, skip_hash: bool = False, verbose: bool = False
    ) -> list[str]:
        """Return the sorted paths of files and links that a local copy lacks or has otherwise; [] where it is right.

        *local_copy_path*: the copy, by default that of `get_local_copy`, which is made where there is none.
        *skip_hash*: compare sizes, and read no file. *verbose*: print each path to stderr. What else is in the copy
        does not count. Raises InvalidInput where there is no such folder, and as `get_local_copy`.
        """
        folder = self.get_local_copy() if local_copy_path is None else self.surroundings.local(local_copy_path)
        teller = self.surroundings.teller(verbose)
        found = []
        with closing(self._store.version(self._finished())) as version:
            for mismatch in verify_copy(version, folder, self._store.parameters.cutting, sizes_only=skip_hash):
                found.append(os.fsdecode(mismatch.path))
                if teller is not None:
                    teller(mismatch.path)
        return sorted(found)

    def _finished(self) -> Record:
        record = self._load()
        check_state(record, "finished")
        return record


def _path(name: str) -> bytes:
    return os.fsencode(name).strip(b"/").removeprefix(b"./")
