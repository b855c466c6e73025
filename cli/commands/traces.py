"""`dvfs traces`: the orders of first reads that are kept with a version."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, common, dataset_option, json_option, quiet_option
from dvfs.cli.output import Json, emit, moment, say, timestamp, wants_json, wants_quiet
from dvfs.cli.session import opened

_ROW = "{:32} | {:19} | {}"


@click.command(cls=Command, name="traces")
@dataset_option
@click.option("--remove", metavar="NAME", help="Remove this trace.")
@quiet_option()
@json_option
@common
def command(dataset: str | None, remove: str | None) -> None:
    """List the traces of a version: the orders in which files were first read by a mount with `--record`.

    A later mount replays them: it fetches what they have before anybody asks.
    """
    from dvfs.store import traces

    with opened() as session:
        backend = session.store.backend
        record = session.store.resolve(session.named(dataset), "finished")
        if remove is not None:
            traces.remove(backend, record.id, remove)
            if wants_json():
                emit({"removed": remove})
            elif not wants_quiet():
                say(f"Trace {remove} removed from {record.title}")
            return
        version = session.store.version(record)
        try:
            root = version.root.page
            found = [(name, traces.read(backend, record.id, root, name)) for name in traces.names(backend, record.id)]
        finally:
            version.close()
    if wants_json():
        emit([_fields(name, trace.time_ns, len(trace.ranks)) for name, trace in found])
        return
    head = _ROW.format("name", "recorded", "files")
    say(head)
    say("-" * len(head))
    for name, trace in found:
        say(_ROW.format(name, moment(trace.time_ns), len(trace.ranks)))


def _fields(name: str, time_ns: int, files: int) -> Json:
    return {"name": name, "time": timestamp(time_ns), "files": files}
