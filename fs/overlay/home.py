"""Where overlays are kept: a folder each below the state folder, used by one process at a time.

overlays/<name>/overlay.json   what it lies on
                lock           locked by who uses it
                overlay.db, log, data/
                stash/         edits put aside
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from dvfs.store.errors import Corrupt, InvalidInput, NotFound, WrongState

STASH = "stash"
_ABOUT = "overlay.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class About:
    """What an overlay lies on. *store*: its URL. *base*, *dataset*, *version*: id, project/name and version that was
    mounted. *directory*: where it was mounted last. *uid*, *gid*: owner of the version's files."""

    store: str
    base: str
    dataset: str
    version: str
    directory: str
    uid: int
    gid: int

    @property
    def title(self) -> str:
        """`project/name@version`."""
        return f"{self.dataset}@{self.version}"


class Folder:
    """The folder of one overlay, locked: nobody else uses it until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._lock)
            raise WrongState(
                f"the overlay {path.name} is in use", hint="`dvfs overlays` shows where it is mounted"
            ) from exc

    @property
    def about(self) -> About | None:
        """What it lies on; None when it is new. Raises Corrupt."""
        return _about(self.path)

    def note(self, about: About) -> None:
        """Note what it lies on."""
        temporary = self.path / f"{_ABOUT}.new"
        temporary.write_text(json.dumps(asdict(about), indent=1) + "\n")
        with temporary.open() as file:
            os.fsync(file.fileno())
        temporary.replace(self.path / _ABOUT)

    @property
    def is_there(self) -> bool:
        """Whether what is locked is the folder of this name still, and not one that is gone."""
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self.path / "lock"))
        except FileNotFoundError:
            return False

    def empty(self) -> None:
        """Remove all that is in it but the lock."""
        for path in self.path.iterdir():
            if path.name == "lock":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def close(self) -> None:
        """Let others use it; an empty one goes. Again, it does nothing."""
        if self._lock < 0:
            return
        try:
            if self.is_there and [path.name for path in self.path.iterdir()] == ["lock"]:
                (self.path / "lock").unlink()
                self.path.rmdir()
        except OSError:
            pass  # somebody else is about to use it
        os.close(self._lock)
        self._lock = -1


class Overlays:
    """The overlays below *state_dir*."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "overlays"

    def path(self, name: str) -> Path:
        """Return the folder of the overlay *name*. Raises InvalidInput when none can be called so."""
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"an overlay cannot be called {name!r}", hint="letters, digits, `.`, `_` and `-`, up to 100 of them"
            )
        return self._folder / name

    def take(self, name: str) -> Folder:
        """Lock the overlay *name*, made where there is none. Raises WrongState when it is in use."""
        while True:
            try:
                folder = Folder(self.path(name))
            except FileNotFoundError:
                continue  # whoever had it removed it meanwhile
            if folder.is_there:
                return folder
            folder.close()

    def about(self, name: str) -> About:
        """Return what the overlay *name* lies on. Raises NotFound."""
        found = _about(self.path(name))
        if found is None:
            raise NotFound(f"there is no overlay {name}", hint="`dvfs overlays` lists them")
        return found

    def names(self) -> list[str]:
        """Return the names of all overlays."""
        return sorted(path.parent.name for path in self._folder.glob(f"*/{_ABOUT}"))


def default_name(store: str, dataset: str, directory: Path) -> str:
    """Return the name of the overlay that belongs to *dataset* (project/name) at the mount point *directory*."""
    words = "\0".join((store, dataset, os.fspath(directory))).encode(errors="surrogateescape")
    short = _UNFIT.sub("-", dataset.rpartition("/")[2]).strip("-._")[:40] or "dataset"
    return f"{short}-{hashlib.sha256(words).hexdigest()[:8]}"


def _about(path: Path) -> About | None:
    try:
        return About(**json.loads((path / _ABOUT).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise Corrupt(f"{path / _ABOUT} cannot be read: {exc}") from exc
