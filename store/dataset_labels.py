"""What a `Dataset` says of itself: names, tags, description, metadata, status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dvfs.store import dataset_values, labels
from dvfs.store.dataset_handle import Handle
from dvfs.store.errors import WrongState


class Labels(Handle):
    """The part of `Dataset` about labels."""

    @property
    def project(self) -> str:
        """The project, as of the last look at the store."""
        return self._record.project

    @property
    def name(self) -> str:
        """The name of the dataset, as of the last look at the store."""
        return self._record.name

    @property
    def version(self) -> str:
        """The version number, as in `1.0.1`; it was claimed when the version was made and cannot be set."""
        return self._record.version

    @property
    def description(self) -> str:
        """The description, as it is now."""
        return self._load().description

    def set_description(self, description: str) -> None:
        """Replace the description. Raises InvalidInput for more than 64 KiB."""
        self._record = labels.set_description(self._store, self.id, description)

    @property
    def tags(self) -> list[str]:
        """The tags, as they are now. Set it to replace all of them; `latest` is then taken from the other versions."""
        return list(self._load().tags)

    @tags.setter
    def tags(self, values: Sequence[str]) -> None:
        wanted = dict.fromkeys(_words(values))
        gone = [tag for tag in self._load().tags if tag not in wanted]
        if wanted or gone:
            self._record = labels.tag(self._store, self.id, add=wanted, remove=gone)

    def add_tags(self, tags: Sequence[str] | str) -> None:
        """Add a tag or several; those that it has stay."""
        self._record = labels.tag(self._store, self.id, add=_words(tags))

    def set_metadata(self, metadata: object, metadata_name: str = "metadata", ui_visible: bool = True) -> None:
        """Keep *metadata* with the version under *metadata_name*, instead of what was there.

        It may be anything that JSON holds, a NumPy array or a pandas DataFrame, up to 256 KiB for all metadata of a
        version; larger tables belong into a file of the dataset. *ui_visible*: nothing, there is no web interface.
        Raises InvalidInput for what cannot be kept.
        """
        value = dataset_values.to_json(metadata)
        self._record = labels.set_metadata(self._store, self.id, metadata_name, value)

    def get_metadata(self, metadata_name: str = "metadata") -> object:
        """Return what `set_metadata` kept under *metadata_name*, as it was given; None when there is nothing."""
        return dataset_values.from_json(self._load().metadata.get(metadata_name))

    def publish(self, raise_on_error: bool = True) -> bool:
        """Publish the finished version; return True.

        Raises WrongState when it is open or published already; unless *raise_on_error* False is returned then.
        """
        try:
            self._record = labels.publish(self._store, self.id)
        except WrongState:
            if raise_on_error:
                raise
            return False
        return True

    def is_final(self) -> bool:
        """Tell whether the version is finished, so that it can be read and its files never change again."""
        return self._load().status.is_finished


def _words(values: Iterable[str] | None) -> list[str]:
    return [values] if isinstance(values, str) else list(values or ())
