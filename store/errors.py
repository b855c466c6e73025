"""The errors of dvfs, classed by what the catcher does about them.

    DvfsError
    ├── NotFound            nothing has this name (dataset, object, path)
    ├── Conflict            somebody else changed it first: read again, decide again
    │   └── AlreadyExists   the name is taken
    ├── WrongState          the thing exists but its status forbids this
    ├── ReadOnly            it can be read, not changed
    ├── InvalidInput        the caller's words or files are wrong
    │   ├── BadSource       local files cannot be taken
    │   │   └── SourceChanged   they are not what was staged
    │   └── Unsupported     dvfs does not do this
    ├── Unavailable         the store does not answer: try again later
    │   ├── AccessDenied    the store answers, and says no
    │   └── Throttled       the store answers, and asks to be asked less
    ├── Corrupt             bytes are not what their digest, name or format says
    │   └── UnsupportedFormat   written by a dvfs that this one does not know
    ├── NoSpace             a local disk is full
    └── Internal            a bug

Every error has a stable `kind` (its class name in snake case), a message that names the object, and
a `hint` where there is a remedy.
"""

from __future__ import annotations

import re
from typing import Any


class DvfsError(Exception):
    """Base of all errors that a caller can expect.

    *message* says what, which object and why; *hint* says what to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The class name in snake case: a stable word for machines."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class NotFound(DvfsError):
    """Nothing has this name."""


class Conflict(DvfsError):
    """Somebody else changed it first."""


class AlreadyExists(Conflict):
    """The name is taken."""


class WrongState(DvfsError):
    """The status of the thing forbids the call."""


class ReadOnly(DvfsError):
    """It can be read, not changed."""


class InvalidInput(DvfsError):
    """The caller's words or files are wrong."""


class BadSource(InvalidInput):
    """Local files cannot be taken: unreadable, gone, or of a kind that a version does not hold."""


class SourceChanged(BadSource):
    """Source files are not what was staged."""


class Unsupported(InvalidInput):
    """Dvfs does not do what is asked, or not yet."""


class Unavailable(DvfsError):
    """The store does not answer; trying again later may help."""


class AccessDenied(Unavailable):
    """The store answers, and says no; trying again does not help."""


class Throttled(Unavailable):
    """The store answers, and asks to be asked less; trying again later helps."""


class Corrupt(DvfsError):
    """Bytes are not what their digest, name or format says."""


class UnsupportedFormat(Corrupt):
    """Written by a dvfs that this one does not know."""


class NoSpace(DvfsError):
    """A local disk is full."""


class Internal(DvfsError):
    """A bug in dvfs."""


def described(error: DvfsError) -> dict[str, Any]:
    """Return *error* as what JSON can carry to another process, for `error_from`."""
    return {"kind": error.kind, "message": error.message, "hint": error.hint}


def error_from(described: dict[str, Any]) -> DvfsError:
    """Return the error that another process met, as its own class."""
    kinds: list[type[DvfsError]] = [DvfsError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    message, hint = described["message"], described["hint"]
    for kind in kinds:
        error = kind(message, hint=hint)
        if error.kind == described["kind"]:
            return error
    return Internal(message, hint=hint)
