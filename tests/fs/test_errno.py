"""One table from errors to errno, and nothing but FUSEError leaves a handler."""

from __future__ import annotations

import errno
import inspect
import logging
from collections.abc import Iterator

import pyfuse3
import pytest
import trio

from dvfs.fs.errno import ERRNO, Refused, errno_of
from dvfs.fs.operations import ReadOnlyOperations, VersionOperations, guarded
from dvfs.fs.writable_operations import WritableOperations
from dvfs.store import errors
from dvfs.store.errors import Corrupt, DvfsError, Unavailable


def every(kind: type[DvfsError]) -> Iterator[type[DvfsError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every(below)


def test_every_error_has_an_errno_of_its_own_row() -> None:
    known = {kind for kind in every(DvfsError) if kind.__module__ == errors.__name__}
    assert set(ERRNO) == known
    assert all(number in errno.errorcode for number in ERRNO.values())


def test_a_class_that_the_table_does_not_know_is_what_it_descends_from() -> None:
    class Odd(errors.ReadOnly):
        pass

    assert errno_of(Odd("x")) == errno.EROFS


def test_an_object_that_is_missing_in_the_store_is_no_missing_file() -> None:
    assert errno_of(errors.NotFound("pack")) == errno.EIO


@pytest.mark.parametrize("operations", [ReadOnlyOperations, WritableOperations])
def test_every_handler_is_guarded(operations: type[VersionOperations]) -> None:
    handlers = {name for name, handler in vars(pyfuse3.Operations).items() if inspect.iscoroutinefunction(handler)}
    own = {name for kind in (operations, VersionOperations) for name in vars(kind) if name in handlers}
    assert {"lookup", "getattr", "readlink", "open", "opendir", "read", "readdir", "statfs", "getxattr"} <= own
    for name in own:
        assert hasattr(getattr(operations, name), "__wrapped__"), name
    writers = {"write", "create", "mkdir", "mknod", "unlink", "rmdir", "symlink", "link", "rename", "setattr"}
    assert writers | {"setxattr", "removexattr"} <= own


@guarded
class Raising(pyfuse3.Operations):
    """Raises what it is told to."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.requests: dict[str, int] = {}

    async def readlink(self, inode: int, ctx: object) -> bytes:
        raise self.error


@pytest.mark.trio
@pytest.mark.parametrize(
    ("error", "number", "lines"),
    [
        (pyfuse3.FUSEError(errno.EXDEV), errno.EXDEV, 0),
        (Refused(errno.ENAMETOOLONG), errno.ENAMETOOLONG, 0),
        (Unavailable("the store is away (1)"), errno.EIO, 1),
        (Corrupt("block abc is damaged (1)"), errno.EIO, 1),
        (KeyError("bug"), errno.EIO, 1),
        (OSError(errno.EMFILE, "too many"), errno.EIO, 1),
    ],
)
async def test_what_leaves_a_handler(
    error: Exception, number: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    operations = Raising(error)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.readlink(7, None)
    assert caught.value.errno == number
    assert len(caplog.records) == lines
    for record in caplog.records:
        assert record.levelno >= logging.WARNING
        assert "readlink" in record.getMessage()
        assert (record.exc_info is not None) == (not isinstance(error, DvfsError))
    assert operations.requests == {"readlink": 1}


@pytest.mark.trio
async def test_the_same_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    operations = Raising(Corrupt("block def is damaged"))
    for _ in range(3):
        with pytest.raises(pyfuse3.FUSEError):
            await operations.readlink(7, None)
    assert [record.getMessage() for record in caplog.records] == ["readlink: EIO: block def is damaged"]


@pytest.mark.trio
async def test_cancelling_passes_through() -> None:
    @guarded
    class Waiting(pyfuse3.Operations):
        requests: dict[str, int]

        async def readlink(self, inode: int, ctx: object) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

    operations = Waiting()
    operations.requests = {}
    with trio.move_on_after(0.01) as scope:
        await operations.readlink(7, None)
    assert scope.cancelled_caught
