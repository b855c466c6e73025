"""A gate that work on its way passes, and that is shut to be alone.

Trio only. What holds for good between two awaits needs no gate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Gate:
    """Any number may be *inside*, or one is *alone*: who wants that waits for those inside, and others wait for it."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_shut = False
        self._changed = trio.Condition()
        self._turn = trio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether nobody is alone, or about to be: what is done at once needs no more than this."""
        return not self._is_shut

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """Pass the gate, once nobody is alone."""
        while self._is_shut:
            async with self._changed:
                if self._is_shut:
                    await self._changed.wait()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if self._is_shut and not self._inside:
                await self._tell()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Shut the gate, and go on once nobody is inside."""
        async with self._turn:
            self._is_shut = True
            try:
                while self._inside:
                    async with self._changed:
                        if self._inside:
                            await self._changed.wait()
                yield
            finally:
                self._is_shut = False
                await self._tell()

    async def _tell(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._changed:
                self._changed.notify_all()
