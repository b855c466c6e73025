"""A fork waits for what it must not cut in two, for a bounded time."""

from __future__ import annotations

import os
import threading
import time

import pytest

from dvfs.store.fork_gate import ForkGate

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since Python 3.12, where threads are


class Owner:
    def __init__(self) -> None:
        self.fork_lock = threading.Lock()
        self.told: list[bool] = []

    def before_fork(self) -> None:
        self.told.append(self.fork_lock.locked())


def forked(code: int = 0) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_waits_until_nobody_is_inside() -> None:
    gate = ForkGate()
    inside, leave = threading.Event(), threading.Event()
    left: list[float] = []

    def work() -> None:
        with gate, gate:
            inside.set()
            leave.wait()
            left.append(time.monotonic())

    worker = threading.Thread(target=work)
    worker.start()
    inside.wait()
    threading.Timer(0.2, leave.set).start()
    pid = os.fork()
    if pid == 0:
        with gate:
            os._exit(0)
    assert time.monotonic() >= left[0]
    assert os.waitpid(pid, 0)[1] == 0
    worker.join()
    with gate:
        pass


def test_a_fork_takes_the_locks_of_owners_and_gives_them_back() -> None:
    gate, owner = ForkGate(), Owner()
    gate.add(owner)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if owner.told == [True] and not owner.fork_lock.locked() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert (owner.told, owner.fork_lock.locked()) == ([True], False)


def test_a_fork_does_not_wait_for_ever() -> None:
    gate, owner = ForkGate(wait_seconds=0.05), Owner()
    gate.add(owner)
    with owner.fork_lock, gate:
        assert forked() == 0
        assert owner.told == []
        with gate:
            assert forked() == 0
    assert not owner.fork_lock.locked()
