"""What an error of dvfs is to a program that reads a mount: the one table from error classes to errno.

The view of a version answers what is no failure (no such name, not a link) with `Refused`, which carries its errno.
"""

from __future__ import annotations

import errno

from dvfs.store import errors

ERRNO: dict[type[errors.DvfsError], int] = {
    errors.DvfsError: errno.EIO,
    # An object that the store does not have is damage to whoever reads. ENOENT would tell a program that its file does
    # not exist; the view says that itself, with Refused, where it is true.
    errors.NotFound: errno.EIO,
    errors.Conflict: errno.EBUSY,
    errors.AlreadyExists: errno.EEXIST,
    errors.WrongState: errno.EPERM,
    errors.ReadOnly: errno.EROFS,
    errors.InvalidInput: errno.EINVAL,
    errors.BadSource: errno.EIO,
    errors.SourceChanged: errno.EIO,
    errors.Unsupported: errno.ENOTSUP,
    errors.Unavailable: errno.EIO,
    # EACCES would tell a program that the mode of its file forbids it.
    errors.AccessDenied: errno.EIO,
    errors.Throttled: errno.EIO,
    errors.Corrupt: errno.EIO,
    errors.UnsupportedFormat: errno.EIO,
    errors.NoSpace: errno.ENOSPC,
    errors.Internal: errno.EIO,
}
"""The errno of each class of error; every class stands here itself."""


class Refused(Exception):
    """An answer that is an errno and no failure; *errno* is its number. Not logged."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number


def errno_of(error: errors.DvfsError) -> int:
    """Return the errno of *error*, by its class or the nearest one above it that the table has."""
    return next(ERRNO[kind] for kind in type(error).__mro__ if kind in ERRNO)
