"""How a `Dataset` that is open gets its files, until it is finished."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from dvfs.store.codec import Compression
from dvfs.store.dataset_handle import Handle
from dvfs.store.errors import DvfsError, InvalidInput, Unsupported, WrongState
from dvfs.store.scan import ScanOptions
from dvfs.store.surroundings import Local
from dvfs.store.upload import UploadOptions

_log = logging.getLogger(__name__)

_NOT_COMPRESSED = 0
"""What the module zipfile calls ZIP_STORED."""


class Changes(Handle):
    """The part of `Dataset` about adding, removing, uploading and finishing."""

    def add_files(
        self,
        path: Local,
        wildcard: str | Sequence[str] | None = None,
        local_base_folder: Local | None = None,
        dataset_path: Local | None = None,
        recursive: bool = True,
        verbose: bool = False,
        max_workers: int | None = None,
        *,
        exclude: Sequence[str] = (),
        follow_links: bool = False,
    ) -> int:
        """Stage a local file, or what is in a local folder; return the number of files that are new in the version.

        Nothing is read yet: `upload` reads each file once, and fails for one that changed meanwhile. Files that the
        version has already and that differ are staged too, but not counted.

        *path*: a file, a folder, or wildcards that name some. *wildcard*: of a folder only the files that match it, or
        one of several: `*.jpg`, `left/*.jpg`. *local_base_folder*: a folder around *path*; files get the paths that
        they have below it. *dataset_path*: the folder of the dataset that they go to. *recursive*: folders in the
        folder too. *verbose*: print each path to stderr. *max_workers*: nothing, as no file is read. *exclude*:
        patterns by the rules of .gitignore. *follow_links*: take what symbolic links lead to, not the links.

        Raises WrongState when the version is finished, BadSource naming what cannot be taken; then nothing is staged.
        """
        source = self.surroundings.local(path)
        folder = "" if dataset_path is None else os.fspath(dataset_path)
        if local_base_folder is not None:
            folder = os.path.join(folder, _below(source, self.surroundings.local(local_base_folder)))
        include = (wildcard,) if isinstance(wildcard, str) else tuple(wildcard or ())
        options = ScanOptions(
            recursive=recursive,
            follow_links=follow_links,
            exclude=tuple(exclude),
            include=tuple(self._relative(pattern, source) for pattern in include),
        )
        with self._lock:
            draft = self._draft()
            count = draft.add_files([source], options, dataset_folder=folder, on_path=self.surroundings.teller(verbose))
        return count.added

    def add_external_files(
        self,
        source_url: str | Sequence[str],
        wildcard: str | Sequence[str] | None = None,
        dataset_path: str | Sequence[str] | None = None,
        recursive: bool = True,
        verbose: bool = False,
        max_workers: int | None = None,
        read_hash: bool = False,
    ) -> int:
        """Stage external files, which stay where they are; return the number of those that are new in the version.

        Nothing is read; each is pinned to what the storage says of it now, and read, through the version, as long as
        that stays so. *source_url*: one or several, of `s3://`, `gs://`, `azure://`, `http://`, `https://`, `file://`;
        an object, or but of http a folder. *wildcard*: of these only the ones that match it, or one of several, as for
        `add_files`. *dataset_path*: the folder of the dataset that they go to, or one for each URL. *recursive*:
        folders in a folder too. *verbose*: print each path to stderr. *max_workers*: nothing. *read_hash*: nothing;
        the hash of a link is over its URL and pin.

        Raises WrongState when the version is finished, InvalidInput for what is no URL, BadSource where nothing is,
        Unsupported for what cannot be listed or pinned, and as the storage; then nothing is staged.
        """
        urls = (source_url,) if isinstance(source_url, str) else tuple(source_url)
        if dataset_path is None or isinstance(dataset_path, str):
            folders: tuple[str, ...] = (dataset_path or "",) * len(urls)
        else:
            folders = tuple(dataset_path)
        if len(folders) != len(urls):
            raise InvalidInput(
                f"{len(urls)} URLs and {len(folders)} folders of the dataset", hint="give one folder, or one for each"
            )
        include = (wildcard,) if isinstance(wildcard, str) else tuple(wildcard or ())
        with self._lock:
            count = self._draft().add_external_files(
                list(zip(urls, folders, strict=True)),
                include=include,
                recursive=recursive,
                on_path=self.surroundings.teller(verbose),
            )
        return count.added

    def remove_files(self, dataset_path: str | None = None, recursive: bool = True, verbose: bool = False) -> int:
        """Stage the removal of what *dataset_path* names in the version; return the number of files and links.

        It is a path, where a folder means all in it, the URL of external files, or a wildcard: matched against whole
        paths and, if *recursive*, against names at any depth below the folder that it starts with; one with `://` in
        it against URLs. *verbose*: print each path to stderr. Raises
        WrongState when the version is finished, InvalidInput when no path is named.
        """
        if not dataset_path:
            raise InvalidInput("remove_files: no path of the dataset is named", hint="`*` names all that is in it")
        with self._lock:
            teller = self.surroundings.teller(verbose)
            return self._draft().remove_files([dataset_path], recursive=recursive, on_path=teller)

    def sync_folder(
        self,
        local_path: Local,
        dataset_path: Local | None = None,
        verbose: bool = False,
        *,
        checksum: bool = False,
        exclude: Sequence[str] = (),
        follow_links: bool = False,
    ) -> tuple[int, int, int]:
        """Stage what makes the folder *dataset_path* of the version, by default all of it, equal to *local_path*.

        Returns how many files and links are removed, added and modified. A file is the same when kind, size,
        permissions and mtime are; where only the mtime differs, or always with *checksum*, its content is compared.
        *exclude*, *follow_links*, *verbose* and errors are as for `add_files`.
        """
        options = ScanOptions(exclude=tuple(exclude), follow_links=follow_links)
        with self._lock:
            count = self._draft().sync_folders(
                [self.surroundings.local(local_path)],
                options,
                dataset_folder="" if dataset_path is None else os.fspath(dataset_path),
                checksum=checksum,
                on_path=self.surroundings.teller(verbose),
            )
        return count.removed, count.added, count.modified

    def upload(
        self,
        show_progress: bool = True,
        verbose: bool = False,
        output_url: str | None = None,
        compression: str | int | None = None,
        chunk_size: int | None = None,
        max_workers: int | None = None,
        retries: int = 3,
        preview: bool = True,
        upload_as_external_links: bool = False,
    ) -> bool | None:
        """Send what is staged to the store; return None, or True when nothing was staged.

        Interrupted, it goes on where it stopped when it is called again.

        *show_progress*: show a bar on stderr if that is a terminal. *verbose*: print each path. *output_url*: the
        path or URL of the storage that this and later uploads put data into. *compression*: `auto` (the default),
        `zstd`, `zstd:LEVEL` or `none`; of the constants of zipfile ZIP_STORED is none, and the others are auto.
        *chunk_size*: about how long a pack is, in MiB, 32 when None or not positive. *max_workers*: threads that read,
        hash and compress. *retries*: nothing, the setting `retry_deadline` says how long to go on trying. *preview*:
        nothing, there are no previews.

        Raises SourceChanged naming files that are not what was staged, the others are uploaded then; WrongState when
        the version is finished; Unsupported for *upload_as_external_links*.
        """
        if upload_as_external_links:
            raise Unsupported("files cannot be uploaded as external ones", hint="leave upload_as_external_links out")
        storage = self._storage(output_url)
        options = UploadOptions(compression=_compression(compression))
        if chunk_size is not None and chunk_size > 0:
            options = replace(options, pack_bytes=chunk_size << 20)
        if max_workers is not None and max_workers > 0:
            options = replace(options, workers=max_workers)
        with self._lock:
            draft = self._draft()
            changes = draft.pending().changes
            if changes or storage is not None:
                with self.surroundings.progress(is_shown=show_progress, verbose=verbose) as progress:
                    draft.upload(options, progress, storage=storage)
                self._record = draft.record
        return None if changes else True

    def finalize(self, verbose: bool = False, raise_on_error: bool = True, auto_upload: bool = False) -> bool:
        """Finish the version, which then never changes and can be read; return True.

        Files that are staged must be uploaded before, or with *auto_upload* are now; removals need no upload.
        Raises WrongState when files are to be uploaded, or the version is finished, and with *auto_upload* as `upload`;
        unless *raise_on_error* the error is logged and False returned. *verbose*: print each path that is uploaded.
        """
        try:
            with self._lock:
                draft = self._draft()
                pending = draft.pending()
                if pending.changes and (auto_upload or not pending.files):
                    with self.surroundings.progress(is_shown=True, verbose=verbose) as progress:
                        draft.upload(None, progress)
                elif pending.files:
                    raise WrongState(
                        f"dataset {draft.record.title} ({draft.record.id}) has {pending.files} files that are not "
                        "uploaded",
                        hint="call upload() before, or finalize(auto_upload=True)",
                    )
                self._record = draft.finalize()
                self._note("made")
        except DvfsError as exc:
            if raise_on_error:
                raise
            _log.warning("not finalized: %s", exc.message)
            return False
        return True

    def is_dirty(self) -> bool:
        """Tell whether files are staged that `upload` must send before `finalize`."""
        return self._load().status.is_open and bool(self._draft().pending().files)

    def _relative(self, pattern: str, folder: Local) -> str:
        """Return the wildcard *pattern*; one that starts with a local folder, as below *folder*."""
        if not pattern.startswith(("/", "~")):
            return pattern
        whole = os.path.abspath(self.surroundings.local(pattern))
        top = os.path.abspath(folder)
        if not whole.startswith(top + "/"):
            raise InvalidInput(
                f"the wildcard {pattern} matches nothing below {top}", hint="wildcards are relative to the folder"
            )
        return whole[len(top) + 1 :]


def _below(source: Local, base: Local) -> str:
    """Return the folder, relative to *base*, whose files *source* stands for. Raises InvalidInput."""
    place = os.path.abspath(source)
    folder = place if os.path.isdir(place) else os.path.dirname(place)
    top = os.path.abspath(base)
    if folder != top and not folder.startswith(top.rstrip("/") + "/"):
        raise InvalidInput(f"{place} is not below local_base_folder {top}")
    return os.path.relpath(folder, top).removeprefix(".")


def _compression(given: str | int | None) -> Compression:
    if isinstance(given, str):
        return Compression.parse(given)
    return Compression(mode="none") if given == _NOT_COMPRESSED else Compression()
