"""Which dataset commands mean when none is named: one for each store, kept in the state folder.

Set by `create`, a creating `sync` and `use`; never by a command that reads. Processes that write at the
same time take turns by a lock; a reader sees the file before or after, never half of it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

_FILE = "datasets-in-use.json"


class InUse:
    """The dataset in use of the store *store_url*, remembered under *state_dir*."""

    def __init__(self, state_dir: Path, store_url: str) -> None:
        self._path = state_dir / _FILE
        self._store_url = store_url

    def get(self) -> str | None:
        """Return the id of the dataset in use, None if there is none."""
        return self._read().get(self._store_url)

    def set(self, dataset_id: str) -> None:
        """Remember *dataset_id*."""
        self._write(lambda known: known | {self._store_url: dataset_id})

    def forget(self, dataset_ids: Iterable[str]) -> None:
        """Remember none, if it is one of *dataset_ids*."""
        gone = set(dataset_ids)
        if self.get() in gone:
            self._write(
                lambda known: {url: name for url, name in known.items() if url != self._store_url or name not in gone}
            )

    def _write(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            known = change(self._read())
            temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(known, indent=1) + "\n")
            temporary.replace(self._path)

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {str(url): str(dataset_id) for url, dataset_id in known.items()}
