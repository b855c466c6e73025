"""Asks the daemon of a mount for its figures, for a bounded time: a daemon that is stopped keeps nobody."""

from __future__ import annotations

from pathlib import Path

from dvfs.fs.control import Control
from dvfs.fs.figures import Figures
from dvfs.fs.mounts import Mount, Mounts, wait_gone
from dvfs.store.errors import NotFound, Unavailable

ANSWER_SECONDS = 5.0
_GONE_SECONDS = 2.0
"""How long a daemon that answers no more may take to be gone."""


class Asked:
    """The mount at or around *path*, of those that *mounts* lists; `figures` asks its daemon.

    Raises NotFound where no mount is, Unavailable where its daemon does not answer.
    """

    def __init__(self, mounts: Mounts, path: Path, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        found = mounts.named(path) or mounts.holding(path)
        if found is None:
            raise NotFound(f"{path} is in no mount of dvfs", hint="`dvfs mounts` lists them")
        self.mount: Mount = found
        if not found.is_served:
            raise Unavailable(f"the daemon of {found.directory} is gone", hint="`dvfs mount` again, or `dvfs umount`")
        folder = mounts.control_folder(Path(found.directory), found.pid)
        self._control = Control(folder, timeout_seconds=answer_seconds)

    def figures(self) -> Figures:
        """Return the figures of now. Raises Unavailable."""
        return Figures.from_message(self._control.call("stats"))

    def wait_end(self, timeout_seconds: float) -> bool:
        """Wait until the mount ends; return False when *timeout_seconds* went by before."""
        return self._control.wait_end(timeout_seconds)

    def has_ended(self) -> bool:
        """Tell whether the daemon is gone, or is in a moment."""
        return wait_gone(self.mount.pid, self.mount.started, _GONE_SECONDS)

    def close(self) -> None:
        """End the connection."""
        self._control.close()
