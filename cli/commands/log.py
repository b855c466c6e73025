"""`dvfs log`: the lineage of a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, common, dataset_option, json_option
from dvfs.cli.output import Json, emit, moment, record_fields, say, shown, timestamp, wants_json
from dvfs.cli.session import opened

if TYPE_CHECKING:
    from dvfs.store.lineage import Node

_DIGITS = 12


@click.command(cls=Command, name="log")
@dataset_option
@json_option
@common
def command(dataset: str | None) -> None:
    """Show a version and all that it stems from as a graph, newest first; with --json as a list.

    Versions that are deleted are shown as such.
    """
    from dvfs.cli.graph import drawn
    from dvfs.store.lineage import ancestry

    with opened() as session:
        nodes = ancestry(session.store, session.named(dataset))
    if wants_json():
        emit([_fields(node) for node in nodes])
        return
    for line in drawn((node.id, node.parents, _line(node)) for node in nodes):
        say(line.rstrip())


def _line(node: Node) -> str:
    record = node.record
    if record is None:
        return f"{node.id[:_DIGITS]} (nothing is known of it any more)"
    words = [node.id[:_DIGITS], shown(record.title)]
    if record.status == "deleted":
        words.append(f"(deleted {moment(record.deleted_ns)})")
    elif record.status != "completed":
        words.append(f"({record.status})")
    if record.tags:
        words.append(f"[{', '.join(map(shown, record.tags))}]")
    first, _, more = record.description.strip().partition("\n")
    if first:
        words.append(shown(first.strip()) + (" …" if more else ""))
    return " ".join(words)


def _fields(node: Node) -> dict[str, Json]:
    record = node.record
    if record is None:
        return {"id": node.id, "status": None, "parents": []}
    fields = record_fields(record) | {"description": record.description, "parents": list(record.parents)}
    return fields | ({"deleted": timestamp(record.deleted_ns)} if record.status == "deleted" else {})
