"""`from dvfs import Dataset`: the class of `dvfs.store.dataset`, with the settings and mounts of this program."""

from __future__ import annotations

from typing import ClassVar

from dvfs.store import dataset
from dvfs.store.surroundings import Surroundings
from dvfs.surroundings import THIS_PROGRAM


class Dataset(dataset.Dataset):
    __doc__ = dataset.Dataset.__doc__

    surroundings: ClassVar[Surroundings] = THIS_PROGRAM
