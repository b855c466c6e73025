"""Which version `Dataset.get` means by the words that it is given, and what `Dataset.list_datasets` lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict

from dvfs.store import version_number
from dvfs.store.errors import InvalidInput, NotFound
from dvfs.store.record import Record, Status
from dvfs.store.store import Store


class Listed(TypedDict):
    """A version as `Dataset.list_datasets` lists it."""

    name: str
    created: datetime
    project: str
    id: str
    tags: list[str]
    version: str
    status: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Words that say which version is meant: what is None, or empty, says nothing."""

    project: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    version: str | None = None
    only_completed: bool = False
    only_published: bool = False

    @property
    def _text(self) -> str:
        words = [
            f"{what} {value!r}"
            for what, value in (("project", self.project), ("name", self.name), ("version", self.version))
            if value is not None
        ]
        words += [f"tag {tag!r}" for tag in self.tags]
        return ", ".join(words) + (", published" if self.only_published else "")

    def find(self, store: Store) -> Record:
        """Return the version that is meant: of those that fit a finished one before an open one; of these, where a
        name is given, the one with the highest number, else the one that was made last. Raises NotFound."""
        found = self._by_name(store) if self._is_plain else [r for r in store.records.all() if self._fits(r)]
        fitting = [record for record in found if self._has_status(record)]
        if not fitting:
            raise NotFound(f"no dataset with {self._text}", hint="`dvfs search` lists what is there")
        finished = [record for record in fitting if record.status.is_finished] or fitting
        if self.name is None:
            return finished[-1]
        return max(finished, key=lambda record: version_number.order(record.version))

    @property
    def _is_plain(self) -> bool:
        """Whether project and name lead to the one version that is meant, with two requests."""
        named = self.project is not None and self.name is not None and not self.tags and not self.only_published
        return named and not {"/", "@"} & set(f"{self.name}{self.version or ''}")

    def _by_name(self, store: Store) -> list[Record]:
        spec = f"{self.project}/{self.name}" + ("" if self.version is None else f"@{self.version}")
        try:
            record = store.records.find(spec, "finished")
        except NotFound:
            return []
        return [] if record.status is Status.DELETED else [record]

    def _fits(self, record: Record) -> bool:
        return (
            self.project in (None, record.project)
            and self.name in (None, record.name)
            and self.version in (None, record.version)
            and set(self.tags) <= set(record.tags)
        )

    def _has_status(self, record: Record) -> bool:
        if self.only_published:
            return record.status is Status.PUBLISHED
        return record.status.is_finished or not self.only_completed


def listed(records: list[Record], partial_name: str | None) -> list[Listed]:
    """Return *records* as they are listed, those whose names *partial_name* matches somewhere.

    *partial_name*: a regular expression, in any case of letters. Raises InvalidInput when it is none.
    """
    matches: Callable[[str], object] = lambda name: True  # noqa: E731
    if partial_name is not None:
        try:
            matches = re.compile(partial_name, re.IGNORECASE).search
        except re.error as exc:
            raise InvalidInput(
                f"partial_name {partial_name!r} is no regular expression: {exc}", hint="`re.escape` makes one of text"
            ) from exc
    return [
        Listed(
            name=record.name,
            created=datetime.fromtimestamp(record.created_ns // 10**9, UTC),
            project=record.project,
            id=record.id,
            tags=list(record.tags),
            version=record.version,
            status=str(record.status),
        )
        for record in records
        if matches(record.name)
    ]
