"""Faults on order: a wrapper of the backend protocol for tests.

    faulty = Faulty(backend)
    faulty.fail("get", nth=2)                       # the second get from now raises Unavailable, undone
    faulty.lose_reply("put_if_absent")              # the next one is done and raises Unavailable
    faulty.cut_short("get", 10)                     # the next one brings 10 bytes at most
    faulty.hold("get", event, key="packs/")         # it waits until the event is set
    faulty.fail("*", nth=3, times=FOREVER)          # everything from the third call on

Rules count the calls that fit them, from 1, since they were made. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dvfs.store.backend import Backend, Blob, ObjectInfo
from dvfs.store.digest import Buffer
from dvfs.store.errors import DvfsError, Unavailable

FOREVER = 1 << 62
HOLD_SECONDS = 60.0
"""A held call gives up after this time, so that a broken test ends."""

T = TypeVar("T")


@dataclass
class _Rule:
    operation: str
    key: str
    nth: int
    times: int
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    keep: int | None = None
    seen: int = field(default=0)

    def fires(self, operation: str, key: str) -> bool:
        if self.operation not in ("*", operation) or not key.startswith(self.key):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class Faulty:
    """*inner* with faults. `calls`: the (operation, key) of each call so far, failed ones too."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self.calls: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return self._inner.url

    def fail(
        self, operation: str, nth: int = 1, times: int = 1, *, key: str = "", error: DvfsError | None = None
    ) -> None:
        """Let the *nth* call (and those after it, *times* in all) to keys that start with *key* raise, undone."""
        self._rule(_Rule(operation, key, nth, times, before=_raiser(error)))

    def lose_reply(self, operation: str, nth: int = 1, times: int = 1, *, key: str = "") -> None:
        """Let the *nth* call be done, and raise Unavailable."""
        self._rule(_Rule(operation, key, nth, times, after=_raiser(None)))

    def cut_short(self, operation: str, keep: int, nth: int = 1, times: int = 1, *, key: str = "") -> None:
        """Let the *nth* get return at most *keep* bytes, listing at most *keep* keys before it raises."""
        self._rule(_Rule(operation, key, nth, times, keep=keep))

    def hold(self, operation: str, event: threading.Event, nth: int = 1, times: int = 1, *, key: str = "") -> None:
        """Let the *nth* call wait for *event* before it is done."""

        def wait() -> None:
            if not event.wait(HOLD_SECONDS):
                raise Unavailable("held for too long")

        self._rule(_Rule(operation, key, nth, times, before=wait))

    def heal(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def count(self, operation: str) -> int:
        """Return how many calls of *operation* were made."""
        with self._lock:
            return sum(1 for name, _key in self.calls if name == operation)

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        rules = self._enter("get", key)
        blob = self._around(rules, lambda: self._inner.get(key, start, length))
        for rule in rules:
            if rule.keep is not None:
                blob = Blob(blob.data[: rule.keep], blob.etag)
        return blob

    def put_if_absent(self, key: str, data: Buffer) -> str:
        return self._around(self._enter("put_if_absent", key), lambda: self._inner.put_if_absent(key, data))

    def replace_if(self, key: str, data: Buffer, etag: str) -> str:
        return self._around(self._enter("replace_if", key), lambda: self._inner.replace_if(key, data, etag))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        rules = self._enter("list", prefix)
        found = self._around(rules, lambda: list(self._inner.list(prefix)))
        keep = min((rule.keep for rule in rules if rule.keep is not None), default=None)
        yield from found[:keep]
        if keep is not None:
            raise Unavailable("injected: the listing broke off")

    def head(self, key: str) -> ObjectInfo:
        return self._around(self._enter("head", key), lambda: self._inner.head(key))

    def delete(self, key: str) -> None:
        self._around(self._enter("delete", key), lambda: self._inner.delete(key))

    def close(self) -> None:
        self._inner.close()

    def _rule(self, rule: _Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def _enter(self, operation: str, key: str) -> Sequence[_Rule]:
        with self._lock:
            self.calls.append((operation, key))
            return [rule for rule in self._rules if rule.fires(operation, key)]

    def _around(self, rules: Sequence[_Rule], call: Callable[[], T]) -> T:
        for rule in rules:
            if rule.before is not None:
                rule.before()
        result = call()
        for rule in rules:
            if rule.after is not None:
                rule.after()
        return result


def _raiser(error: DvfsError | None) -> Callable[[], None]:
    def raise_it() -> None:
        raise error or Unavailable("injected")

    return raise_it
