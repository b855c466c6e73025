"""Names of versions: `names/<project>/<name>/<version>` holds the id of the version that claimed it.

A claim is written before the record; a claim without a record means nothing to a reader, and costs a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from dvfs.store import version_number
from dvfs.store.backend import Backend
from dvfs.store.errors import AlreadyExists, Corrupt, InvalidInput, NotFound
from dvfs.store.ids import VersionId, escape, is_version_id, new_write_id, unescape

Title = tuple[str, str, str]
"""Project, name and version."""

_ATTEMPTS = 100
_NAME_BYTES = 255
_CLAIMS_SINCE = 16


class Names:
    """The claims in the store behind *backend*. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def claim(
        self, project: str, name: str, version: str | None, holder: VersionId, *, came_from: Title | None = None
    ) -> str:
        """Claim *version* of *project*/*name* for *holder*, the next free number when None; return it.

        *came_from*: what *holder* was called before, noted in the claim. Raises AlreadyExists when an explicit
        *version* is taken, InvalidInput for names that cannot be.
        """
        for what, text in (("project", project), ("name", name), ("version", version or "0")):
            check_name(what, text)
        noted = {} if came_from is None else {"from": list(came_from)}
        body = json.dumps({"id": holder, **noted, "write_id": new_write_id()}).encode()
        for _ in range(_ATTEMPTS):
            wanted = version or version_number.following(self.versions(project, name))
            try:
                self._backend.put_if_absent(_key(project, name, wanted), body)
            except AlreadyExists as exc:
                if version is not None:
                    raise AlreadyExists(
                        f"version {version} of {project}/{name} exists",
                        hint="leave the version out to get the next free number",
                    ) from exc
                continue
            return wanted
        raise AlreadyExists(f"no free version of {project}/{name} in {_ATTEMPTS} attempts: too many writers at once")

    def versions(self, project: str, name: str) -> list[str]:
        """Return the claimed versions of *project*/*name*, the highest last."""
        prefix = _key(project, name, "")
        found = [unescape(item.key[len(prefix) :]) for item in self._backend.list(prefix)]
        return sorted(found, key=version_number.order)

    def holder(self, project: str, name: str, version: str) -> VersionId:
        """Return the id that holds *version* of *project*/*name*. Raises NotFound, Corrupt."""
        return self._look(project, name, version)[0]

    def left_by(self, project: str, name: str, version: str, holder: VersionId) -> Title | None:
        """Return what *holder*, which claims *version* of *project*/*name*, was called before; None if not known."""
        try:
            found, came_from = self._look(project, name, version)
        except NotFound:
            return None
        return came_from if found == holder else None

    def _look(self, project: str, name: str, version: str) -> tuple[VersionId, Title | None]:
        try:
            body = json.loads(self._backend.get(_key(project, name, version)).data)
            holder, came_from = body["id"], body.get("from")
        except NotFound as exc:
            raise NotFound(f"no version {version} of dataset {project}/{name}") from exc
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise Corrupt(f"the claim of {project}/{name}@{version} is not what it should be: {exc}") from exc
        if not isinstance(holder, str) or not is_version_id(holder):
            raise Corrupt(f"the claim of {project}/{name}@{version} holds no version id: {holder!r}")
        if not (isinstance(came_from, list) and [type(word) for word in came_from] == [str, str, str]):
            return VersionId(holder), None
        return VersionId(holder), (came_from[0], came_from[1], came_from[2])

    def holders(self, project: str, name: str) -> Iterator[tuple[str, VersionId]]:
        """Yield the versions of *project*/*name* and who holds them, the highest first."""
        for version in reversed(self.versions(project, name)):
            try:
                yield version, self.holder(project, name, version)
            except NotFound:
                continue  # released between the list and the look

    def claim_again(
        self, project: str, name: str, version: str | None, holder: VersionId, *, again: bool = True
    ) -> str:
        """Do as `claim`, but return a version that *holder* has claimed already; *again*: look for one when None."""
        if version is None and again and (found := self._claimed_by(project, name, holder)) is not None:
            return found
        try:
            return self.claim(project, name, version, holder)
        except AlreadyExists:
            if version is None or self.holder(project, name, version) != holder:
                raise
            return version

    def _claimed_by(self, project: str, name: str, holder: VersionId) -> str | None:
        """Return the highest version of *project*/*name* that *holder* has claimed; None when there is none.

        Looks at the highest few: the claims made since.
        """
        found = islice(self.holders(project, name), _CLAIMS_SINCE)
        return next((version for version, claimed_by in found if claimed_by == holder), None)

    def release_from(self, project: str, name: str, version: str, holder: VersionId) -> bool:
        """Let go of a claim if it is that of *holder*; tell whether it was."""
        try:
            if self.holder(project, name, version) != holder:
                return False
        except NotFound:
            return False
        self.release(project, name, version)
        return True

    def release(self, project: str, name: str, version: str) -> None:
        """Let go of a claim."""
        self._backend.delete(_key(project, name, version))


def check_name(what: str, text: str) -> None:
    """Raise InvalidInput unless *text* can be the *what* (project, name, version) of a dataset."""
    if not text or text != text.strip() or any(ord(letter) < 32 for letter in text):
        raise InvalidInput(f"{what} {text!r}: must not be empty, begin or end with a space, or hold control characters")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"{what} {text!r} is not UTF-8") from exc
    if size > _NAME_BYTES:
        raise InvalidInput(f"{what} {text[:40]!r}… is longer than {_NAME_BYTES} bytes")


def _key(project: str, name: str, version: str) -> str:
    return f"names/{escape(project)}/{escape(name)}/{escape(version) if version else ''}"
