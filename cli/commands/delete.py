"""`dvfs delete`: delete a version, or all of a dataset."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dvfs.cli.errors import FAILED, OK
from dvfs.cli.options import (
    Command,
    common,
    dataset_option,
    json_option,
    named_dataset,
    naming_options,
    quiet_option,
)
from dvfs.cli.output import counted, emit, note, record_fields, say, wants_json, wants_quiet
from dvfs.cli.session import Session, opened
from dvfs.store.errors import WrongState

if TYPE_CHECKING:
    from dvfs.store.record import Record
    from dvfs.store.records import Want


@click.command(cls=Command, name="delete")
@dataset_option
@naming_options
@click.option("--version", metavar="VERSION", help="With --name.  [default: the only one]")
@click.option("--entire-dataset", is_flag=True, help="All versions of the dataset; needs --force.")
@click.option("--force", is_flag=True, help="Also a version that has children; asks nothing.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
@quiet_option()
@json_option
@common
@click.pass_context
def command(
    ctx: click.Context,
    dataset: str | None,
    project: str | None,
    name: str | None,
    version: str | None,
    entire_dataset: bool,
    force: bool,
    yes: bool,
) -> int:
    """Delete a version: nobody finds it any more. Its bytes stay in the store until garbage collection.

    The dataset in use is deleted without being named only while it is not finalized. A version that others have as
    a parent is not deleted without --force; they stay whole in any case.
    """
    spec = named_dataset(dataset, project, name)
    if version is not None:
        if name is None or entire_dataset:
            raise click.UsageError("--version goes with --project and --name, without --entire-dataset", ctx)
        spec = f"{spec}@{version}"
    if entire_dataset and not force:
        raise click.UsageError("--entire-dataset needs --force", ctx)
    with opened() as session:
        deleted = _all(session, ctx, spec) if entire_dataset else _one(session, spec, force, yes or force)
        session.in_use.forget(record.id for record in deleted)
    if not deleted:
        note("Nothing was deleted.")
        return FAILED
    _tell(deleted)
    return OK


def _all(session: Session, ctx: click.Context, spec: str | None) -> list[Record]:
    from dvfs.store import deletion
    from dvfs.store.records import dataset_of

    found = dataset_of(spec) if spec is not None else None
    if found is None:
        raise click.UsageError("--entire-dataset takes a dataset as project/name, or --project with --name", ctx)
    return deletion.delete_all(session.store, *found)


def _one(session: Session, spec: str | None, force: bool, yes: bool) -> list[Record]:
    from dvfs.store import deletion

    want: Want = "any" if spec is not None else "open"
    record = deletion.find(session.store, session.named(spec))
    if want == "open" and not record.status.is_open:
        raise WrongState(
            f"dataset {record.title} ({record.id}) is {record.status}, and not named",
            hint=f"`dvfs delete {record.id}` deletes it",
        )
    if not force and record.status != "deleted":
        deletion.check_unused(session.store, record)
    if not yes and record.status != "deleted" and not _answer(record):
        return []
    return [deletion.delete(session.store, record.id, force=force, want=want)]


def _answer(record: Record) -> bool:
    question = f"Delete dataset {record.title} ({record.id}, {record.status})?"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer: --yes does")
    return click.confirm(question, err=True)


def _tell(deleted: list[Record]) -> None:
    if wants_json():
        emit([record_fields(record) for record in deleted])
    elif not wants_quiet():
        for record in deleted:
            say(f"Dataset deleted id={record.id} {record.title}")
        note(f"The bytes of {counted(len(deleted), 'version')} stay in the store until garbage collection.")
