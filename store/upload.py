"""Uploading what is staged: files into packs, packs into the store, then the draft. Takes up what an earlier run left.

Bytes are sent once: what this upload has sent already, what the version has at the same path, and what the same
change-set removes elsewhere (a rename) is referred to where it is. All of it is pinned by the version's own record.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dvfs.store.codec import Compression
from dvfs.store.ids import VersionId, new_pack_id
from dvfs.store.packing import PackingOptions, PackingResult, pack_files
from dvfs.store.publish import publish
from dvfs.store.records import check_state
from dvfs.store.reusable import Reusable
from dvfs.store.staging import Staging

if TYPE_CHECKING:
    from dvfs.store.store import Store
    from dvfs.store.version import Version

PACK_BYTES = 32 << 20


class Progress(Protocol):
    """Is told how an upload goes on."""

    def on_total(self, files: int, size: int) -> None:
        """There are *files* of *size* bytes in all to read."""
        ...

    def on_bytes(self, size: int) -> None:
        """*size* more bytes of a file that is not done were read."""
        ...

    def on_file(self, path: bytes, size: int) -> None:
        """The file *path* is read, its last *size* bytes were not told before."""
        ...


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How to upload. *pack_bytes*: length of packs, about. *workers*: threads that hash and compress.

    *refresh*: take files that changed since they were staged as they are now, instead of failing.
    """

    compression: Compression = field(default_factory=Compression)
    pack_bytes: int = PACK_BYTES
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class UploadCount:
    """What an upload read (*files*, *bytes*) and what it sent (*stored_bytes* of packs)."""

    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0


def upload(
    store: Store, version: VersionId, staging: Staging, options: UploadOptions, progress: Progress | None
) -> UploadCount:
    """Send what *staging* holds, to the storage that the record names, and make it part of the draft of *version*.

    Files that cannot be taken are named in the error; all others are in the draft by then. Raises SourceChanged,
    BadSource, WrongState, and as the backend.
    """
    record = store.records.load(version).record
    check_state(record, "open")
    files, size = staging.pending()
    if progress is not None:
        progress.on_total(files, size)
    result = PackingResult()
    if files:
        with _opened(store, version) as draft:
            result = pack_files(
                staging.unpacked(),
                new_pack=lambda: new_pack_id(version),
                put=store.storage(record)(record.storage).put_if_absent,
                storage=record.storage,
                mark=staging.mark_packed,
                options=PackingOptions(
                    cutting=store.parameters.cutting,
                    compression=options.compression,
                    pack_bytes=options.pack_bytes,
                    workers=options.workers,
                    refresh=options.refresh,
                ),
                reuse=Reusable(draft, staging).reuse(),
                progress=progress,
                crash=store.crash,
            )
    if not staging.is_empty():
        publish(store, version, staging, result.stored_bytes)
    result.raise_failures()
    return UploadCount(result.files, result.bytes, result.stored_bytes)


@contextlib.contextmanager
def _opened(store: Store, version: VersionId) -> Iterator[Version | None]:
    """The draft of *version* for reading, None when it is empty."""
    record = store.records.last(version)
    if record.draft is None:
        yield None
        return
    draft = store.version(record)
    try:
        yield draft
    finally:
        draft.close()
