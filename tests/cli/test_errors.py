"""Exit codes and messages."""

from __future__ import annotations

import json

import click
import pytest

from dvfs.cli.errors import exit_code, report
from dvfs.store import errors
from dvfs.store.errors import DvfsError

CODES: dict[type[DvfsError], int] = {
    errors.NotFound: 3,
    errors.Conflict: 4,
    errors.AlreadyExists: 4,
    errors.WrongState: 4,
    errors.ReadOnly: 4,
    errors.InvalidInput: 2,
    errors.BadSource: 1,
    errors.SourceChanged: 1,
    errors.Unsupported: 2,
    errors.Unavailable: 6,
    errors.AccessDenied: 6,
    errors.Throttled: 6,
    errors.Corrupt: 5,
    errors.UnsupportedFormat: 5,
    errors.NoSpace: 1,
    errors.Internal: 1,
}


def all_kinds(kind: type[DvfsError]) -> set[type[DvfsError]]:
    """Return the classes of dvfs.store.errors below *kind*; others are private to their module."""
    below = [inner for inner in kind.__subclasses__() if inner.__module__ == errors.__name__]
    return set(below).union(*map(all_kinds, below))


def test_every_kind_of_error_has_its_exit_code() -> None:
    assert {kind: exit_code(kind("x")) for kind in all_kinds(DvfsError)} == CODES


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (errors.NotFound("no dataset x"), 3, "error: no dataset x\n"),
        (errors.Corrupt("bad", hint="get another"), 5, "error: bad\nhint: get another\n"),
        (click.UsageError("No such thing."), 2, "error: no such thing\n"),
        (click.ClickException("Went wrong"), 1, "error: Went wrong\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (click.Abort(), 130, "error: interrupted\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied\n"),
        (OSError("odd"), 1, "error: odd\n"),
        (BrokenPipeError(), 1, ""),
        (
            ValueError("oops"),
            1,
            "error: ValueError: oops\nhint: this is a bug; `--debug` shows where\n",
        ),
    ],
)
def test_messages(error: BaseException, code: int, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error, as_json=False, debug=False) == code
    assert capsys.readouterr() == ("", shown)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(errors.AccessDenied("no", hint="ask"), as_json=True, debug=False) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "error": {"kind": "access_denied", "message": "no", "hint": "ask", "exit_code": 6},
    }
