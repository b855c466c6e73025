"""What a daemon does for its overlay when it is asked at the control socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dvfs.fs.control import Handler
from dvfs.fs.overlay import layers
from dvfs.fs.overlay.editing import Editing
from dvfs.fs.overlay.landed import take_landed
from dvfs.fs.source import Committed
from dvfs.fs.view import Identity
from dvfs.fs.writable_operations import WritableOperations


class Live:
    """The overlay *editing* behind *operations*; *on_committed* is told what the mount goes on as."""

    def __init__(
        self, operations: WritableOperations, editing: Editing, on_committed: Callable[[Committed], None]
    ) -> None:
        self._operations = operations
        self._editing = editing
        self._on_committed = on_committed

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each request."""
        return {"state": self.state, "freeze": self.freeze, "complete": self.complete, "abandon": self.abandon}

    async def state(self) -> dict[str, Any]:
        """Answer with `layers.state`, after a checkpoint."""
        self._editing.rows.checkpoint()
        return layers.state(self._editing.rows)._asdict()

    async def freeze(self, pending: str) -> dict[str, Any]:
        """Do `layers.freeze`, when no write is on its way."""
        async with self._operations.gate.alone():
            return layers.freeze(self._editing.rows, pending)._asdict()

    async def abandon(self) -> dict[str, Any]:
        """Do `layers.abandon`."""
        return layers.abandon(self._editing.rows)._asdict()

    async def complete(self, **version: str) -> dict[str, Any]:
        """Do `layers.complete`, and `take_landed`, a part at a time."""
        editing = self._editing
        committed = Committed(**version)
        layers.complete(editing.rows, committed.id)
        self._operations.identify(
            Identity(committed.id.encode(), committed.version.encode(), committed.digest.encode())
        )
        self._on_committed(committed)
        steps = take_landed(editing.folder.path, editing.overlay)
        is_done = False
        while not is_done:
            async with self._operations.gate.alone():
                is_done = next(steps, self) is self
        layers.prune(editing.rows)
        return {}
