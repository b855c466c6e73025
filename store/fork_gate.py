"""Work that a fork must not cut in two: a fork waits until nobody is at it, and keeps everybody from it meanwhile.

C libraries have locks and tables of their own. A child that is forked while another thread is in such a library finds
them as they were, for good. Two kinds of work are safe from that:

- a short call, inside `with GATE:`;
- all that an owner does under its lock (`GATE.add`): a fork takes the lock, and has the owner let go of what it holds.

A fork waits for a bounded time, then goes on anyway.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Protocol

WAIT_SECONDS = 5.0


class Owner(Protocol):
    """What works under `fork_lock`, in which nothing else is taken that a fork waits for."""

    @property
    def fork_lock(self) -> threading.Lock: ...

    def before_fork(self) -> None:
        """Let go of what a child must not have; `fork_lock` is held."""
        ...


class ForkGate:
    """The gate of a process. Thread-safe; a thread may be in it twice."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._owners: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._held: list[threading.Lock] = []
        self._reset()
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork_in_child
        )

    def add(self, owner: Owner) -> None:
        """Have forks wait for *owner*, until it is gone."""
        self._owners.add(owner)

    def __enter__(self) -> None:
        with self._changed:
            deadline = time.monotonic() + self._wait_seconds if self._is_shut else 0.0
            while self._is_shut and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside and self._is_shut:
                self._changed.notify_all()

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._is_shut = False

    def _before_fork(self) -> None:
        deadline = time.monotonic() + self._wait_seconds
        for owner in list(self._owners):
            if owner.fork_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._held.append(owner.fork_lock)
                owner.before_fork()
        self._changed.acquire()
        self._is_shut = True
        while self._inside and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(left)

    def _after_fork(self) -> None:
        self._is_shut = False
        self._changed.notify_all()
        self._changed.release()
        self._let_owners_go_on()

    def _after_fork_in_child(self) -> None:
        self._reset()
        self._let_owners_go_on()

    def _let_owners_go_on(self) -> None:
        while self._held:
            self._held.pop().release()


GATE = ForkGate()
