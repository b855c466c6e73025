"""`dvfs metadata`: what else is to be said of a version, as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

import click

from dvfs.cli.options import Command, common, dataset_and_words, id_option, json_option, quiet_option, text
from dvfs.cli.output import Json, emit, say, shown, wants_json, wants_quiet
from dvfs.cli.session import opened
from dvfs.store.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from dvfs.store.record import Record


@click.command(cls=Command, name="metadata")
@click.argument("words", nargs=-1, type=text, metavar="[DATASET] [KEY [VALUE]]")
@id_option
@click.option("--text", "is_text", is_flag=True, help="VALUE is text, also where it could be JSON.")
@click.option("--unset", is_flag=True, help="Take KEY out.")
@quiet_option()
@json_option
@common
def command(words: tuple[str, ...], is_text: bool, unset: bool) -> None:
    """Show the metadata of a version, or its KEY; set KEY to VALUE, which is JSON, or text where it is not.

    Behind --id there are only KEY and VALUE.
    """
    from dvfs.store import labels

    ctx = click.get_current_context()
    dataset, pair = dataset_and_words(words)
    key, value = (*pair, None, None)[:2]
    if len(pair) > 2 or (unset and (key is None or value is not None)) or (is_text and value is None):
        raise click.UsageError("give [KEY [VALUE]], KEY with --unset, or KEY VALUE with --text", ctx)
    with opened() as session:
        spec = session.named(dataset)
        if unset and key is not None:
            record = labels.remove_metadata(session.store, spec, key)
        elif key is not None and value is not None:
            record = labels.set_metadata(session.store, spec, key, value if is_text else parsed(value))
        else:
            record = labels.find(session.store, spec)
            _show(record, key)
            return
    if wants_json():
        emit({"id": record.id, "metadata": record.metadata})
    elif not wants_quiet():
        say(f"Metadata {shown(key or '')} of dataset id={record.id} {record.title} {'removed' if unset else 'set'}")


def parsed(value: str) -> Json:
    """Return the JSON that *value* is, or *value* itself where it is none. Raises InvalidInput."""
    try:
        found: Json = json.loads(value, parse_constant=_no_number)
    except ValueError:
        return value
    except RecursionError as exc:
        raise InvalidInput("the value has too many levels") from exc
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


def _show(record: Record, key: str | None) -> None:
    found = record.metadata
    if key is not None:
        if key not in found:
            raise NotFound(f"dataset {record.title} ({record.id}) has no metadata {key!r}")
        found = {key: found[key]}
    if wants_json():
        emit({"id": record.id, "metadata": found})
    elif key is not None:
        say(_value(found[key]))
    else:
        for name in sorted(found):
            say(f"{shown(name)} = {json.dumps(found[name])}")


def _value(value: Json) -> str:
    return shown(value) if isinstance(value, str) else json.dumps(value)
