"""The public `Dataset`: versions made, found, read and changed from Python, with the names of ClearML Data.

`dvfs.Dataset` is this class with what is around a program (`surroundings`). Thread-safe and safe to fork: see
`dataset_handle`. What a method does with the files of one version stands in its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from dvfs.store import deletion, renaming
from dvfs.store.dataset_changes import Changes
from dvfs.store.dataset_content import Content
from dvfs.store.dataset_copies import Copies
from dvfs.store.dataset_finding import Listed, Wanted, listed
from dvfs.store.dataset_labels import Labels
from dvfs.store.errors import InvalidInput, NotFound, Unsupported, WrongState
from dvfs.store.squash import squash
from dvfs.store.surroundings import Local

UNNAMED_PROJECT = "local"
"""The project of datasets for which the program is named."""


class Dataset(Changes, Copies, Content, Labels):
    """A version of a dataset: a tree of files in a store.

    It is *open* until `finalize`: files are added and removed, and uploaded. Then it is *finished*, never changes
    again, and can be read. An object of this class names a version and holds no file of it; make one with `create` or
    `get`.

    *store*, which some methods take, is the path or URL of the store. By default it is that of the command line: from
    `DVFS_STORE`, else the configuration file, else a folder of the user's.
    """

    @classmethod
    def create(
        cls,
        dataset_name: str | None = None,
        dataset_project: str | None = None,
        dataset_tags: Sequence[str] | str | None = None,
        parent_datasets: Sequence[str | Self] | None = None,
        use_current_task: bool = False,
        dataset_version: str | None = None,
        output_uri: str | None = None,
        description: str | None = None,
        *,
        store: Local | None = None,
    ) -> Self:
        """Make an open version that starts as the union of *parent_datasets*; return it.

        *dataset_name*, *dataset_project*: where they are left out, those of the last parent. Without parents a name
        needs a project; where both are left out, or with *use_current_task*, the version is named after the running
        program, in the project `local`. *parent_datasets*: finished versions, as objects, ids or other names; where
        two have the same path, the later one holds. *use_current_task*: no more than that: there are no tasks, and
        every version notes the run, the command and the commit that made it. *dataset_version*: by default the highest
        number of the dataset, counted up, or 1.0.0. *output_uri*: the path or URL of the storage
        that uploads put data into, by default the store itself.

        Raises InvalidInput, NotFound, WrongState for an open parent, AlreadyExists for a number that is taken.
        """
        settings = cls.surroundings.settings(store if store is not None else _store_of(parent_datasets))
        opened = cls.surroundings.stores.open(settings)
        parents = [opened.resolve(spec, "finished") for spec in _ids(parent_datasets or (), settings.url)]
        if parents:
            dataset_project = dataset_project or parents[-1].project
            dataset_name = dataset_name or parents[-1].name
        if use_current_task or (dataset_name is None and dataset_project is None):
            dataset_project = dataset_project or UNNAMED_PROJECT
            dataset_name = dataset_name or cls.surroundings.run_name()
        if dataset_name is None or dataset_project is None:
            raise InvalidInput(
                "a dataset without parents needs a name and a project", hint="give dataset_name and dataset_project"
            )
        draft = opened.create(
            project=dataset_project,
            name=dataset_name,
            version=dataset_version,
            parents=[parent.id for parent in parents],
            tags=_words(dataset_tags),
            description=description or "",
            creator=cls.surroundings.creator(),
            origin=cls.surroundings.origin(),
            storage=cls._storage(output_uri),
        )
        return cls(settings, draft.record)

    @classmethod
    def get(
        cls,
        dataset_id: str | None = None,
        dataset_project: str | None = None,
        dataset_name: str | None = None,
        dataset_tags: Sequence[str] | str | None = None,
        only_completed: bool = False,
        only_published: bool = False,
        include_archived: bool = False,
        auto_create: bool = False,
        writable_copy: bool = False,
        dataset_version: str | None = None,
        alias: str | None = None,
        overridable: bool = False,
        shallow_search: bool = False,
        silence_alias_warnings: bool = False,
        *,
        store: Local | None = None,
    ) -> Self:
        """Return the version that is meant; no file is fetched.

        *dataset_id*: its id, a unique start of the id, project/name, project/name@version or tag:TAG. Else what is
        given of the others must fit: the whole *dataset_project* and *dataset_name*, all of *dataset_tags* (one as
        text, or several), *dataset_version*. Of versions that fit a finished one comes before an open one; with
        *dataset_name* the highest number is taken, else the one that was made last.

        *only_completed*: finished versions only, *only_published*: published ones only. *auto_create*: make a version
        of *dataset_project* and *dataset_name* where there is none. *writable_copy*: return a new open version with
        the one that was found as its parent, and its tags. *include_archived*, *alias*, *overridable*,
        *shallow_search*, *silence_alias_warnings*: nothing; there is no archive, no task, and every search is whole.

        Raises NotFound when there is none, InvalidInput when nothing, or both an id and other words are given.
        """
        words = (dataset_project, dataset_name, dataset_tags or None, dataset_version)
        if dataset_id is not None and words[:2] != (None, None):
            raise InvalidInput("a dataset is named by its id, or by project and name", hint="give one of the two")
        if dataset_id is None and not any(words[:3]):
            raise InvalidInput("no dataset is named", hint="give its id, or project, name or tags")
        settings = cls.surroundings.settings(store)
        opened = cls.surroundings.stores.open(settings)
        wanted = Wanted(*words[:2], _words(dataset_tags), dataset_version, only_completed, only_published)
        try:
            if dataset_id is not None:
                record = opened.resolve(dataset_id, "finished" if only_completed or only_published else "any")
                if only_published and record.status != "published":
                    raise WrongState(f"dataset {record.title} ({record.id}) is not published: {record.status}")
            else:
                record = wanted.find(opened)
        except NotFound:
            if not auto_create or dataset_id is not None:
                raise
            return cls.create(dataset_name, dataset_project, dataset_tags, dataset_version=dataset_version, store=store)
        found = cls(settings, record)
        if not writable_copy:
            return found
        return cls.create(record.name, record.project, record.tags, [found], store=store)

    @classmethod
    def list_datasets(
        cls,
        dataset_project: str | None = None,
        partial_name: str | None = None,
        tags: Sequence[str] | str | None = None,
        ids: Sequence[str] | None = None,
        only_completed: bool = True,
        recursive_project_search: bool = True,
        include_archived: bool = True,
        *,
        store: Local | None = None,
    ) -> list[Listed]:
        """Return the versions that fit all that is given, oldest first: a dict each with name, created, project, id,
        tags, version and status.

        *dataset_project*: those in this project and, if *recursive_project_search*, in projects below it.
        *partial_name*: a regular expression that some part of the name matches, in any case of letters. *tags*: all of
        them. *ids*: one of them. *only_completed*: finished versions only. *include_archived*: nothing, there is no
        archive. Raises InvalidInput for what is no regular expression.
        """
        opened = cls.surroundings.stores.open(cls.surroundings.settings(store))
        records = opened.search(
            project=dataset_project,
            tags=_words(tags),
            ids=ids or (),
            only_completed=only_completed,
            recursive=recursive_project_search,
        )
        return listed(records, partial_name)

    @classmethod
    def squash(
        cls,
        dataset_name: str,
        dataset_ids: Sequence[str | Self] | None = None,
        dataset_project_name_pairs: Sequence[Sequence[str]] | None = None,
        output_url: str | None = None,
        close_squashed_dataset: bool | None = True,
        *,
        store: Local | None = None,
    ) -> Self:
        """Merge finished versions, and all that they stem from, into one new version without parents; return it.

        The change-set of each version of the lineage is applied once, parents before children: nothing that was
        removed comes back, and nothing that was inherited is lost. Without *output_url* no file is read or sent.

        *dataset_name*: of the new version, in the project of the first one. *dataset_ids*: versions as objects, ids or
        other names; or *dataset_project_name_pairs*, of which the highest versions are taken. *output_url*: the path
        or URL of a storage that all data is copied to. Unless *close_squashed_dataset* the version stays open. Raises
        InvalidInput unless versions are named in one of the two ways, NotFound, WrongState for an open version.
        """
        if (not dataset_ids) == (not dataset_project_name_pairs):
            raise InvalidInput("name what to squash by dataset_ids, or by dataset_project_name_pairs")
        settings = cls.surroundings.settings(store if store is not None else _store_of(dataset_ids))
        opened = cls.surroundings.stores.open(settings)
        record = squash(
            opened,
            _ids(dataset_ids, settings.url)
            if dataset_ids
            else [Wanted(project, name).find(opened) for project, name in dataset_project_name_pairs or ()],
            name=dataset_name,
            creator=cls.surroundings.creator(),
            origin=cls.surroundings.origin(),
            close=close_squashed_dataset is not False,
            storage=cls._storage(output_url),
        )
        merged = cls(settings, record)
        if record.status.is_finished:
            merged._note("made")
        return merged

    @classmethod
    def delete(
        cls,
        dataset_id: str | None = None,
        dataset_project: str | None = None,
        dataset_name: str | None = None,
        force: bool = False,
        dataset_version: str | None = None,
        entire_dataset: bool = False,
        shallow_search: bool = False,
        delete_files: bool = True,
        delete_external_files: bool = False,
        *,
        store: Local | None = None,
    ) -> None:
        """Delete a version: nobody finds it any more. Versions that stem from it stay whole.

        *dataset_id*: as for `get`. Else *dataset_project* and *dataset_name*, with *dataset_version* unless there is
        only one; with *entire_dataset*, which needs *force*, all of them. *force*: also a version that others have as a
        parent. *shallow_search*: nothing. *delete_files*: nothing; bytes stay until garbage collection in any case.
        *delete_external_files*: nothing; what a link names is never deleted.

        Raises NotFound when there is none, WrongState when it is a parent, InvalidInput when it is not clear which one
        is meant.
        """
        if dataset_id is not None and (dataset_project is not None or dataset_name is not None):
            raise InvalidInput("a dataset is named by its id, or by project and name", hint="give one of the two")
        if entire_dataset and not force:
            raise InvalidInput("all versions of a dataset are deleted only by force", hint="give force=True too")
        opened = cls.surroundings.stores.open(cls.surroundings.settings(store))
        if dataset_id is not None:
            if entire_dataset:
                record = deletion.find(opened, dataset_id)
                deletion.delete_all(opened, record.project, record.name)
            else:
                deletion.delete(opened, dataset_id, force=force)
            return
        if dataset_project is None or dataset_name is None:
            raise InvalidInput("no dataset is named", hint="give its id, or project and name")
        if entire_dataset and dataset_version is None:
            deletion.delete_all(opened, dataset_project, dataset_name)
            return
        found = deletion.versions(opened, dataset_project, dataset_name)
        if dataset_version is not None:
            found = [record for record in found if record.version == dataset_version]
        if not found:
            raise NotFound(f"no version {dataset_version} of dataset {dataset_project}/{dataset_name}")
        if len(found) > 1:
            raise InvalidInput(
                f"dataset {dataset_project}/{dataset_name} has {len(found)} versions",
                hint="name one with dataset_version, or all with entire_dataset and force",
            )
        deletion.delete(opened, found[0].id, force=force)

    @classmethod
    def rename(
        cls, new_dataset_name: str, dataset_project: str, dataset_name: str, *, store: Local | None = None
    ) -> None:
        """Give all versions of a dataset another name. Ids and version numbers stay.

        Raises NotFound when there is none, AlreadyExists when the new name has one of the numbers.
        """
        opened = cls.surroundings.stores.open(cls.surroundings.settings(store))
        renaming.rename(opened, f"{dataset_project}/{dataset_name}", new_dataset_name)

    @classmethod
    def move_to_project(
        cls, new_dataset_project: str, dataset_project: str, dataset_name: str, *, store: Local | None = None
    ) -> None:
        """Move all versions of a dataset to another project; else as `rename`."""
        opened = cls.surroundings.stores.open(cls.surroundings.settings(store))
        renaming.move(opened, f"{dataset_project}/{dataset_name}", new_dataset_project)

    def get_logger(self) -> object:
        """Raise Unsupported: there is nowhere to report plots and samples to yet."""
        raise Unsupported(
            "a version has no plots, tables or samples besides its files yet",
            hint="keep numbers with set_metadata, and other things as files of the dataset",
        )

    @classmethod
    def is_offline(cls) -> bool:
        """Return False: there is no server to be without, and a store may be a folder."""
        return False

    @classmethod
    def set_offline(cls, offline_mode: bool = False) -> None:
        """Do nothing; raises Unsupported when *offline_mode* is to be switched on."""
        if offline_mode:
            raise Unsupported("there is no offline mode", hint="work on a store in a local folder: `store=` a path")

    def get_offline_mode_folder(self) -> None:
        """Return None: there is no offline mode."""
        return

    @classmethod
    def import_offline_session(cls, session_folder_zip: str, upload: bool = True, finalize: bool = False) -> str:
        """Raise Unsupported: there is no offline mode."""
        raise Unsupported("there is no offline mode", hint="work on a store in a local folder: `store=` a path")


def _ids(datasets: Sequence[str | Dataset], url: str) -> list[str]:
    """Return *datasets*, those that are objects by their ids. Raises InvalidInput for one of another store."""
    for dataset in datasets:
        if isinstance(dataset, Dataset) and dataset._settings.url != url:
            raise InvalidInput(
                f"dataset {dataset.id} is in another store: {dataset._settings.url}", hint=f"this one is {url}"
            )
    return [dataset.id if isinstance(dataset, Dataset) else dataset for dataset in datasets]


def _store_of(datasets: Sequence[str | Dataset] | None) -> str | None:
    """Return the store of the last object among *datasets*; None where there is none."""
    stores = [dataset._settings.url for dataset in datasets or () if isinstance(dataset, Dataset)]
    return stores[-1] if stores else None


def _words(values: Sequence[str] | str | None) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values or ())
