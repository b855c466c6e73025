"""Readers that know their order hand it to the mount: around any sampler of PyTorch, which is not imported.

    dataset = ImageFolder("/mnt/data", transform)
    sampler = KnownOrder(RandomSampler(dataset), [path for path, _ in dataset.samples])
    loader = DataLoader(dataset, batch_size=64, sampler=sampler, num_workers=4)

Each epoch's permutation goes to the mount before the first of it is read; the mount fetches files ahead in that order.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dvfs.store.errors import DvfsError

_log = logging.getLogger(__name__)


class KnownOrder:
    """A sampler that yields what *sampler* does, and tells the mount first in which order the files will be read.

    *sampler* yields indices of *paths*, or lists of them as a batch sampler does; it ends. *paths*: the local paths of
    the files of the dataset, by index. Where they are in no mount of dvfs it is as *sampler* itself: so the same
    program runs on a copy. What the mount refuses is logged, once a pass, and costs nothing but the speed.

    Other attributes are those of *sampler* (`set_epoch`). The paths are looked up at the first pass, with a stat(2)
    each. One process; it may fork between passes.
    """

    def __init__(self, sampler: Iterable[Any], paths: Sequence[str | os.PathLike[str]]) -> None:
        self._sampler = sampler
        self._paths = paths
        self._inodes: array[int] | None = None

    def __iter__(self) -> Iterator[Any]:
        items = list(self._sampler)
        try:
            self._hand_in(items)
        except DvfsError as exc:
            _log.warning("files are not fetched in the order of the sampler: %s", exc.message)
        return iter(items)

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]  # TypeError, as of the sampler, where it has none

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def _hand_in(self, items: list[Any]) -> None:
        from dvfs.cli.config import Config
        from dvfs.fs.mounts import Mounts
        from dvfs.fs.orders import hand_in, inodes_of

        if not items or not self._paths:
            return
        table = Mounts(Config(os.environ, {}).state_dir)
        mount = table.holding(Path(self._paths[0]))
        if mount is None or mount.overlay:
            return
        if self._inodes is None:
            self._inodes = inodes_of(self._paths, os.stat(mount.directory).st_dev)
        inodes = self._inodes
        indices = (index for item in items for index in (item if isinstance(item, list | tuple) else (item,)))
        order = array("Q", filter(None, (inodes[index] for index in indices)))
        hand_in(table.control_folder(Path(mount.directory), mount.pid), order)
