"""What a daemon answers of itself when it is asked at its control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvfs.fs.control import Handler

if TYPE_CHECKING:
    from dvfs.fs.operations import VersionOperations


class Watch:
    """The mount behind *operations*."""

    def __init__(self, operations: VersionOperations) -> None:
        self._operations = operations

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each request."""
        return {"stats": self.stats}

    async def stats(self) -> dict[str, Any]:
        """Answer with how many requests the kernel sent, by kind."""
        return {"requests": dict(self._operations.requests)}
