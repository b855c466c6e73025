"""What goes to stdout (data) and to stderr (notes), and how values are written for people and for machines.

Text for people never holds control characters of a dataset's names: `shown` escapes them. JSON carries a
name that is not UTF-8 a second time, in base64, under the key with `_b64` added.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import invocation

if TYPE_CHECKING:
    from dvfs.store.record import Record

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff\\]")
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


def wants_json() -> bool:
    """Tell whether the running command was asked for JSON."""
    return invocation().json


def wants_quiet() -> bool:
    """Tell whether the running command was asked to say nothing but errors."""
    return invocation().quiet


def say(text: str) -> None:
    """Print a line of data to stdout."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line to stderr: what is going on, not what was asked for."""
    click.echo(text, err=True)


def emit(document: Mapping[str, Json] | list[Json]) -> None:
    """Print *document* to stdout as JSON in one line."""
    click.echo(json.dumps(document))


def emit_with(document: Mapping[str, Json], key: str, items: Iterable[Json]) -> None:
    """Print *document* with *items* as the list *key* at its end: one JSON document, an item a line, kept nowhere."""
    click.echo(json.dumps(document)[:-1] + (", " if document else "") + json.dumps(key) + ": [", nl=False)
    for number, item in enumerate(items):
        click.echo(("," if number else "") + "\n" + json.dumps(item), nl=False)
    click.echo("]}")


def log_to_stderr() -> None:
    """Have what the libraries log shown as `warning: …`, with `--json` as one object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(as_json=wants_json()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if invocation().debug else logging.WARNING)


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        level, message = record.levelname.lower(), record.getMessage()
        return json.dumps({level: message}) if self._as_json else f"{level}: {message}"


def shown(name: bytes | str) -> str:
    r"""Return *name* for people, on one line: `\n`, `\xNN` for bytes that are no text, `\\` for a backslash."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def name_fields(key: str, name: bytes) -> dict[str, Json]:
    """Return the JSON fields for *name*: *key*, and *key*_b64 where it is not UTF-8."""
    try:
        return {key: name.decode()}
    except UnicodeDecodeError:
        encoded = base64.b64encode(name).decode("ascii")
        return {key: name.decode("utf-8", "replace"), f"{key}_b64": encoded}


def shown_size(count: int) -> str:
    """Return *count* bytes for people: `17 B`, `1.5 MiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} PiB"


def counted(number: int, noun: str) -> str:
    """Return `1 file` or `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(time_ns: int) -> str:
    """Return *time_ns* since the epoch as UTC for people: `2026-01-31 12:00:00`."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def timestamp(time_ns: int) -> str:
    """Return *time_ns* since the epoch for machines: `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def record_fields(record: Record) -> dict[str, Json]:
    """Return what `search --json` says of a version."""
    return {
        "id": record.id,
        "project": record.project,
        "name": record.name,
        "version": record.version,
        "status": record.status.value,
        "tags": list(record.tags),
        "created": timestamp(record.created_ns),
    }


def finished_fields(record: Record) -> dict[str, Json]:
    """Return what commands that change a version say of it: as `record_fields`, with counts and digest."""
    counts = record.counts
    return record_fields(record) | {
        "digest": record.digest or None,
        "entries": counts.entries,
        "files": counts.files,
        "bytes": counts.size,
        "uploaded_bytes": counts.uploaded,
    }
