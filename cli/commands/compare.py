"""`dvfs compare`: what differs between two versions."""

from __future__ import annotations

import click

from dvfs.cli.differences import show_differences
from dvfs.cli.options import Command, common, json_option, quiet_option
from dvfs.cli.session import opened


@click.command(cls=Command, name="compare")
@click.argument("datasets", metavar="[SOURCE TARGET]", nargs=-1)
@click.option("--source", metavar="DATASET", help="The version to compare with; the first argument.")
@click.option("--target", metavar="DATASET", help="The version that is compared; the second argument.")
@click.option("-v", "--verbose", is_flag=True, help="Print each path, as it does unless --quiet.")
@quiet_option("Print the numbers alone.")
@json_option
@common
def command(datasets: tuple[str, ...], source: str | None, target: str | None, verbose: bool) -> None:
    """Show what differs between two versions: numbers of files, then path by path.

    Reads only those parts of the two catalogs that differ, and no file. Times do not count. It exits 0 whether or
    not something differs.
    """
    named = list(datasets)
    first = source or (named.pop(0) if named else None)
    second = target or (named.pop(0) if named else None)
    if first is None or second is None or named:
        raise click.UsageError(
            "name two versions: SOURCE TARGET, or --source and --target", click.get_current_context()
        )
    with opened() as session:
        records = [session.store.resolve(spec, "finished") for spec in (first, second)]
        show_differences(session.store, *records)
