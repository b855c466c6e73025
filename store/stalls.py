"""What whoever waits is waiting for: seconds by cause, measured always, for a clock reading at each change of cause.

A `Course` tells what one request, or one thread, is at, and how long it was at what: at each moment of one cause, so
that the parts add up to the whole. Each thread has a course (`here`); who hands a request to a thread hands it the
request's own (`carried`). Whoever waits for another's work follows the course of that: what happens there meanwhile
is what happens here.

Threading rule: a course is changed by one thread at a time and read by any. Its lock is held for moments; of several
courses it is taken in the direction of following, which has no circle: who follows does no work that others follow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TypeVar

_T = TypeVar("_T")


class Cause(IntEnum):
    """What is waited for; see docs/STATS.md."""

    CATALOG = 0
    """Pages of the catalog, whatever that consists of."""
    QUEUE = 1
    """A turn: a thread, the lock between processes, a request that may begin."""
    NETWORK = 2
    """The store's answer: from the request until its bytes are there, with pauses before it is tried again."""
    DECOMPRESSION = 3
    """Decompressing and verifying what came."""
    DISK = 4
    """Reading, verifying and writing files of the cache."""
    OTHER = 5
    """The rest: handing over between threads, putting the answer together."""


Seconds = tuple[float, ...]
"""Seconds by cause, in the order of `Cause`."""

NO_SECONDS: Seconds = (0.0,) * len(Cause)


class Course:
    """Seconds by cause since it was made, of who is at the cause *at* first, or follows that course. *clock*: seconds.

    Its sums never go back.
    """

    __slots__ = ("_at", "_base", "_clock", "_lock", "_since", "_sums")

    def __init__(self, at: Cause = Cause.OTHER, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._at: Cause | Course = at
        self._since = clock()
        self._base = NO_SECONDS  # of the course that is followed, when that began
        self._sums = [0.0] * len(Cause)

    def enter(self, at: Cause | Course) -> Cause | Course:
        """Be at the cause *at* from now on, or follow that course; return what was before."""
        with self._lock:
            before, now = self._at, self._clock()
            if type(before) is Cause:
                self._sums[before] += now - self._since
            else:
                self._sums = list(self._sums_at(now))
            self._at, self._since = at, now
            if type(at) is Course:
                self._base = at.seconds()
        return before

    def seconds(self) -> Seconds:
        """Return the seconds by cause until now. May be called by any thread."""
        with self._lock:
            return self._sums_at(self._clock())

    def _sums_at(self, moment: float) -> Seconds:
        at = self._at
        if isinstance(at, Course):
            there = at.seconds()
            return tuple([was + now - then for was, now, then in zip(self._sums, there, self._base, strict=True)])
        sums = list(self._sums)
        sums[at] += moment - self._since
        return tuple(sums)


class _Here(threading.local):
    """The course of a thread."""

    def __init__(self) -> None:
        self.course = Course()


_here = _Here()


def here() -> Course:
    """Return the course of this thread."""
    return _here.course


class at:  # reads as a word: `with at(Cause.DISK):`
    """A context in which *course*, by default that of this thread, is at *cause*, or follows that course."""

    __slots__ = ("_before", "_cause", "_course")

    def __init__(self, cause: Cause | Course, course: Course | None = None) -> None:
        self._cause = cause
        self._course = _here.course if course is None else course

    def __enter__(self) -> None:
        self._before = self._course.enter(self._cause)

    def __exit__(self, *_: object) -> None:
        self._course.enter(self._before)


class within:
    """A context in which *course* is that of this thread."""

    __slots__ = ("_before", "_course")

    def __init__(self, course: Course) -> None:
        self._course = course

    def __enter__(self) -> None:
        self._before, _here.course = _here.course, self._course

    def __exit__(self, *_: object) -> None:
        _here.course = self._before


@contextmanager
def all_of(cause: Cause) -> Iterator[None]:
    """Count all that this thread does here as *cause*, whatever it consists of."""
    with at(cause), within(Course()):
        yield


def carried(course: Course, work: Callable[[], _T]) -> Callable[[], _T]:
    """Return *work* with *course* as that of the thread that does it: until then it waits for the thread."""
    course.enter(Cause.QUEUE)

    def do() -> _T:
        with within(course):
            course.enter(Cause.OTHER)
            return work()

    return do
