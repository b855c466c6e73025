"""What is in a `Dataset`, how it differs from others, and what it stems from."""

from __future__ import annotations

from collections.abc import Mapping

from dvfs.store import dataset_entries
from dvfs.store.catalog.diff import Word
from dvfs.store.dataset_entries import FileEntry, LinkEntry
from dvfs.store.dataset_handle import Handle
from dvfs.store.lineage import ancestry


class Content(Handle):
    """The part of `Dataset` about its files and its lineage. Of an open version, what is staged counts."""

    @property
    def file_entries(self) -> list[FileEntry]:
        """The files, in the order of their paths' components; no symbolic links and no external files."""
        return list(dataset_entries.file_entries(self._store, self._load()))

    @property
    def file_entries_dict(self) -> Mapping[str, FileEntry]:
        """The files by their paths."""
        return {entry.relative_path: entry for entry in self.file_entries}

    @property
    def link_entries(self) -> list[LinkEntry]:
        """The external files, in the order of their paths' components."""
        return list(dataset_entries.link_entries(self._store, self._load()))

    @property
    def link_entries_dict(self) -> Mapping[str, LinkEntry]:
        """The external files by their paths."""
        return {entry.relative_path: entry for entry in self.link_entries}

    def list_files(
        self, dataset_path: str | None = None, recursive: bool = True, dataset_id: str | None = None
    ) -> list[str]:
        """Return the sorted paths of all files and symbolic links, or of those that *dataset_path* names.

        *dataset_path* and *recursive* are as for `remove_files`. *dataset_id*: only those that this version added or
        modified, and that have not changed since. A name that is no UTF-8 is decoded as `os.fsdecode` does.
        """
        record = self._load()
        if dataset_id is None:
            found = dataset_entries.listed(self._store, record, dataset_path, recursive=recursive)
        else:
            owner = self._store.resolve(dataset_id)
            found = dataset_entries.owned(self._store, record, owner, dataset_path, recursive=recursive)
        return sorted(found)

    def list_added_files(self, dataset_id: str | None = None) -> list[str]:
        """Return the sorted paths of files and links that this version has, and *dataset_id* has not.

        Without *dataset_id* it is compared with what it started from, the union of its parents.
        """
        return self._differing(dataset_id, "added")

    def list_modified_files(self, dataset_id: str | None = None) -> list[str]:
        """Return the sorted paths of files and links that both have, with other content or permissions.

        It is compared with what `list_added_files` says.
        """
        return self._differing(dataset_id, "modified")

    def list_removed_files(self, dataset_id: str | None = None) -> list[str]:
        """Return the sorted paths of files and links that this version has not, and what it is compared with has.

        It is compared with what `list_added_files` says.
        """
        return self._differing(dataset_id, "removed")

    def get_dependency_graph(self) -> dict[str, list[str]]:
        """Return the ids of the parents of this version and of all that it stems from, by id; newest first.

        Deleted versions are in it; one of which nothing is known any more has no parents.
        """
        return {node.id: list(node.parents) for node in ancestry(self._store, self.id)}

    def get_num_chunks(self, include_parents: bool = True) -> int:
        """Return how many packs in the store hold the files, or only those packs that this version wrote.

        It reads the whole catalog.
        """
        found = dataset_entries.packs(self._store, self._load())
        return sum(include_parents or pack[:16].hex() == self.id for pack in found)

    def get_default_storage(self) -> str:
        """Return the URL of the storage that uploads put the files into: the store, unless another one was named."""
        record = self._load()
        return self._settings.url if not record.storage else record.storages[record.storage]

    def _differing(self, dataset_id: str | None, word: Word) -> list[str]:
        since = None if dataset_id in (None, self.id) else self._store.resolve(dataset_id or "")
        return dataset_entries.of_kind(dataset_entries.differing(self._store, self._load(), since), word)
