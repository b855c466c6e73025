"""The tutorials, each with a small folder of data; the code and the commands are those of their pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest

from dvfs import Dataset
from dvfs.store.errors import InvalidInput
from tests.python.conftest import read, write
from tests.tutorials.conftest import Reader


def test_managing_your_data(reader: Reader) -> None:
    """Create, preprocess into a new version, train on what has the tag `latest`."""
    write(reader.folder / "work_dataset", {"chats/1.txt": "hello", "chats/2.txt": "bye"})
    printed = reader.types(
        """
        clearml-data create --project data --name dataset_v1 --latest
        clearml-data sync --folder ./work_dataset
        """
    )
    assert re.search(r"^New dataset created id=[0-9a-f]{32}$", printed, re.MULTILINE)
    assert "Sync completed: 0 files removed, 2 added, 0 modified" in printed
    reader.runs(
        """
from clearml import Task, Dataset

# create a task for the data processing
task = Task.init(project_name='data', task_name='create', task_type='data_processing')

# get the v1 dataset
dataset = Dataset.get(dataset_project='data', dataset_name='dataset_v1')

# get a local mutable copy of the dataset
dataset_folder = dataset.get_mutable_local_copy(
    target_folder='work_dataset',
    overwrite=True
)
"""
    )
    (reader.folder / "work_dataset" / "chats" / "1.txt").write_text("HELLO")
    write(reader.folder / "work_dataset", {"data.pickle": b"\x80\x04."})
    names = reader.runs(
        """
# create a new version of the dataset with the pickle file
new_dataset = Dataset.create(
    dataset_project='data',
    dataset_name='dataset_v2',
    parent_datasets=[dataset],
    # this will make sure we have the creation code and the actual dataset artifacts on the same run
    use_current_task=True,
)

new_dataset.sync_folder(local_path=dataset_folder)
new_dataset.upload()
new_dataset.finalize()

# now let's remove the previous dataset tag
dataset.tags = []
new_dataset.tags = ['latest']
"""
    )
    dataset, new_dataset = cast("Dataset", names["dataset"]), cast("Dataset", names["new_dataset"])
    assert (dataset.tags, new_dataset.tags) == ([], ["latest"])
    assert new_dataset.list_modified_files() == ["chats/1.txt"]
    assert new_dataset.list_added_files() == ["data.pickle"]
    names = Reader(reader.folder, reader.environ).runs(
        """
from clearml import Task, Dataset

# create a task for the model training
task = Task.init(project_name='data', task_name='ingest', task_type='training')

# get the latest dataset with the tag `latest`
dataset = Dataset.get(dataset_tags='latest')

# get a cached copy of the Dataset files
dataset_folder = dataset.get_local_copy()
"""
    )
    assert cast("Dataset", names["dataset"]).id == new_dataset.id
    assert read(cast("str", names["dataset_folder"])) == {
        "chats/1.txt": b"HELLO",
        "chats/2.txt": b"bye",
        "data.pickle": b"\x80\x04.",
    }


def test_introduction(reader: Reader) -> None:
    """Create, add, close on the command line; read from Python."""
    write(reader.folder / "data_folder", {"a": "1", "sub/b": "2"})
    printed = reader.types(
        """
        clearml-data create --project dataset_example --name initial_version
        clearml-data add --files data_folder
        clearml-data close
        """
    )
    match = re.search(r"^New dataset created id=([0-9a-f]{32})$", printed, re.MULTILINE)
    assert match
    names = reader.runs(
        f"""
from clearml import Dataset

local_path = Dataset.get(dataset_id={match[1]!r}).get_local_copy()
"""
    )
    assert read(cast("str", names["local_path"])) == {"a": b"1", "sub/b": b"2"}


def test_folder_sync(reader: Reader) -> None:
    """The folder is the truth; a new version for each update of it, of what changed alone."""
    folder = write(reader.folder / "data_samples", {"dancing.jpg": "d", "sample.json": "{}"})
    first = reader.types("clearml-data sync --project datasets --name sync_folder --folder data_samples")
    match = re.search(r"^Dataset closed and finalized id=([0-9a-f]{32})", first, re.MULTILINE)
    assert match
    write(folder, {"sample.json": '{"new": 1}', "hello.txt": "data1"})
    (folder / "dancing.jpg").unlink()
    second = reader.types(
        f"clearml-data sync --project datasets --name second_ds --parents {match[1]} --folder data_samples"
    )
    assert "Sync completed: 1 files removed, 1 added, 1 modified" in second
    again = "clearml-data sync --project datasets --name second_ds --parents datasets/second_ds --folder data_samples"
    assert reader.types(again) == "Zero modifications on local copy, reverting dataset creation.\n"
    listed = reader.types("clearml-data list --project datasets --name second_ds --modified")
    assert re.findall(r"^(\w+) +\| (\S+)", listed, re.MULTILINE)[1:] == [
        ("removed", "dancing.jpg"),
        ("added", "hello.txt"),
        ("modified", "sample.json"),
    ]


def test_the_video(reader: Reader) -> None:
    """Food pictures: three hamburgers go, four chocolate cakes come, in a mutable copy and without one."""
    pictures = {f"hamburger/{number}.jpg": f"h{number}" for number in range(3)}
    write(reader.folder / "food", pictures | {"pizza/1.jpg": "p1"})
    names = reader.runs(
        """
from clearml import Dataset

ds = Dataset.create(dataset_name='food_dataset', dataset_project='dataset_examples')
ds.add_files('food')
ds.finalize(auto_upload=True)

dataset = Dataset.get(dataset_name='food_dataset', dataset_project='dataset_examples')
folder = dataset.get_mutable_local_copy('food_copy')
"""
    )
    printed = reader.types(
        f"""
        clearml-data search --name food
        clearml-data get --id {cast("Dataset", names["ds"]).id}
        """
    )
    assert "food_dataset" in printed
    copy = reader.folder / "food_copy"
    for number in range(3):
        (copy / "hamburger" / f"{number}.jpg").unlink()
    write(copy, {f"chocolate_cake/{number}.jpg": f"c{number}" for number in range(4)})
    names = reader.runs(
        """
new = Dataset.create(dataset_name='food_dataset', dataset_project='dataset_examples', parent_datasets=[dataset.id])
counts = new.sync_folder(folder)
new.finalize(auto_upload=True)

by_hand = Dataset.create(dataset_name='food_dataset', parent_datasets=[dataset.id])
by_hand.remove_files('hamburger')
by_hand.add_files('food_copy/chocolate_cake', dataset_path='chocolate_cake')
by_hand.upload()
by_hand.finalize()
"""
    )
    assert names["counts"] == (3, 4, 0)
    for dataset in (cast("Dataset", names["new"]), cast("Dataset", names["by_hand"])):
        assert (len(dataset.list_removed_files()), len(dataset.list_added_files())) == (3, 4)
        assert len(dataset.list_files()) == 5


def test_the_sdk_page(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of code of the page, with ids and paths that are there."""
    monkeypatch.setattr("sys.argv", ["prepare.py"])
    write(reader.folder / "path/to/folder", {"a.jpg": "1", "b.csv": "2", "sub/c.jpg": "3", "sub/d.csv": "4"})
    reader.runs(
        """
from clearml import Dataset

dataset = Dataset.create()
dataset.add_files(path="path/to/folder")
dataset.remove_files(dataset_path="*.csv", recursive=True)
dataset.finalize(auto_upload=True)
PARENT_DS_ID_1 = dataset.id

other = Dataset.create(dataset_name='other name', dataset_project='other project')
other.add_files(
  path="path/to/folder",
  wildcard="*.csv",
  recursive=True
)
other.finalize(auto_upload=True)
PARENT_DS_ID_2 = other.id

dataset = Dataset.create(
  dataset_name='dataset name',
  dataset_project='dataset project',
  parent_datasets=[PARENT_DS_ID_1, PARENT_DS_ID_2]
)
dataset.finalize()
DS1_ID, DS2_ID, DS3_ID = PARENT_DS_ID_1, PARENT_DS_ID_2, dataset.id

# option 1 - list dataset IDs
squashed_dataset_1 = Dataset.squash(
  dataset_name='squashed dataset\\'s name',
  dataset_ids=[DS1_ID, DS2_ID, DS3_ID]
)

# option 2 - list project and dataset pairs
squashed_dataset_2 = Dataset.squash(
  dataset_name='squashed dataset 2',
  dataset_project_name_pairs=[('dataset project', 'dataset name'),
                              ('other project', 'other name')]
)
"""
    )
    for name in ("dataset", "squashed_dataset_1", "squashed_dataset_2"):
        dataset = cast("Dataset", reader.names[name])
        assert dataset.list_files() == ["a.jpg", "b.csv", "sub/c.jpg", "sub/d.csv"], name
        assert dataset.is_final(), name
    with pytest.raises(InvalidInput, match="matches nothing below"):
        reader.runs(
            """
dataset = Dataset.create()
dataset.add_files(
  path="path/to/folder",
  wildcard="~/data/*.jpg",
  recursive=True
)
"""
        )


def test_the_command_line_page(reader: Reader) -> None:
    """The commands of the reference with their flags, and files as the page names them: `~/data/*.jpg ~/data/json`."""
    home = Path(reader.environ["HOME"])
    write(home / "data", {"a.jpg": "1", "b.jpg": "2", "json/c.json": "{}", "not.txt": ""})
    printed = reader.types(
        """
        clearml-data create --project page --name cli --tags one two
        clearml-data add --files ~/data/*.jpg ~/data/json --verbose 2> added
        clearml-data remove --files 'b*'
        clearml-data upload
        clearml-data close --verbose
        clearml-data list --filter '*.json'
        clearml-data search --project page --name cl --tags one
        """
    )
    assert (reader.folder / "added").read_text().split() == ["a.jpg", "b.jpg", "c.json"]
    assert "3 files added\n1 file removed\n" in printed
    assert "c.json" in printed
    assert "Total 1 files, 2 bytes" in printed
    assert re.search(r"^page +\| cli +\| 1\.0\.0 +\| one, two", printed, re.MULTILINE)
    (home / "data" / "json" / "d.json").write_text("[]")
    printed = reader.types(
        """
        clearml-data sync --folder ~/data/js* --parents tag:one --project page --name cli --tags three --skip-close
        clearml-data close
        clearml-data list --modified
        clearml-data get --copy copy
        clearml-data delete --id tag:three --force --quiet
        """
    )
    assert "Sync completed: 1 files removed, 1 added, 0 modified" in printed
    assert read(reader.folder / "copy") == {"c.json": b"{}", "d.json": b"[]"}
    assert [listed["tags"] for listed in Dataset.list_datasets(dataset_project="page")] == [["one", "two"]]
