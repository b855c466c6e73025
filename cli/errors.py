"""What an error looks like on the command line, and which exit code it is.

    0   ok, also when there was nothing to do
    1   failed
    2   usage: wrong words, or a dataset that was not named
    3   unknown dataset or mount
    4   wrong state, taken name, conflict
    5   mismatch or damage
    6   store unavailable, or access denied
    130 interrupted

Errors go to stderr as `error: …` and `hint: …`, as one JSON object with `--json`; a traceback only
with `--debug`. A reader of the output that goes away (`dvfs list | head`) ends the program with 1 and no word.
"""

from __future__ import annotations

import json
import sys
import traceback

import click

from dvfs.store import errors

OK = 0
FAILED = 1
USAGE = 2
UNKNOWN = 3
WRONG_STATE = 4
DAMAGE = 5
UNAVAILABLE = 6
INTERRUPTED = 130

_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.NotFound, UNKNOWN),
    (errors.Conflict, WRONG_STATE),
    (errors.WrongState, WRONG_STATE),
    (errors.ReadOnly, WRONG_STATE),
    (errors.BadSource, FAILED),
    (errors.InvalidInput, USAGE),
    (errors.Corrupt, DAMAGE),
    (errors.Unavailable, UNAVAILABLE),
    (click.UsageError, USAGE),
    (click.Abort, INTERRUPTED),
    (KeyboardInterrupt, INTERRUPTED),
)
"""The first class that fits gives the exit code; all others are 1."""


def exit_code(error: BaseException) -> int:
    """Return the exit code that *error* ends the program with."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def describe(error: BaseException) -> dict[str, str]:
    """Return `kind`, `message` and, where there is a remedy, `hint` of *error*."""
    if isinstance(error, errors.DvfsError):
        described = {"kind": error.kind, "message": error.message}
        return described | ({"hint": error.hint} if error.hint else {})
    if isinstance(error, click.UsageError):
        hint = {"hint": f"`{error.ctx.command_path} --help` shows how it is used"} if error.ctx else {}
        return {"kind": "usage", "message": _sentence(error.format_message())} | hint
    if isinstance(error, click.ClickException):
        return {"kind": "failed", "message": error.format_message()}
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return {"kind": "interrupted", "message": "interrupted"}
    if isinstance(error, OSError):
        return {"kind": "os_error", "message": _os_message(error)}
    message = f"{type(error).__name__}: {error}"
    return {"kind": "internal", "message": message, "hint": "this is a bug; `--debug` shows where"}


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Print *error* to stderr, and return its exit code."""
    code = exit_code(error)
    if isinstance(error, BrokenPipeError):
        return code
    if debug:
        traceback.print_exception(error)
    described = describe(error)
    if as_json:
        print(json.dumps({"error": described | {"exit_code": code}}), file=sys.stderr)
        return code
    print(f"error: {described['message']}", file=sys.stderr)
    if "hint" in described:
        print(f"hint: {described['hint']}", file=sys.stderr)
    return code


def _sentence(text: str) -> str:
    """Return a message of click in the form of ours: no capital, no full stop."""
    return text[:1].lower() + text[1:].rstrip(".")


def _os_message(error: OSError) -> str:
    if error.filename is None:
        return error.strerror or str(error)
    name = error.filename if isinstance(error.filename, str) else repr(error.filename)
    return f"{name}: {error.strerror}"
