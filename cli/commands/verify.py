"""`dvfs verify`: whether a version is whole, in the store or in a local copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfs.cli import errors
from dvfs.cli.options import Command, common, dataset_option, json_option, quiet_option, verbose_option, workers_option
from dvfs.cli.output import Json, counted, emit_with, name_fields, say, shown, wants_json, wants_quiet
from dvfs.cli.progress import Bar, progress
from dvfs.cli.session import Session, opened

if TYPE_CHECKING:
    from dvfs.store.verify import Mismatch
    from dvfs.store.version import Version

_WORKERS = 8


@click.command(cls=Command, name="verify")
@dataset_option
@click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Check this local copy.  [default: the store, and what `get` keeps in the cache]",
)
@click.option("--filesize", is_flag=True, help="Compare sizes only; read no file.")
@workers_option
@verbose_option
@quiet_option("Print mismatches alone.")
@json_option
@common
def command(dataset: str | None, folder: Path | None, filesize: bool, max_workers: int | None, verbose: bool) -> int:
    """Check that a version can be had whole and right; print each path that cannot, and exit 5 if there is one.

    Without --folder every block is read from the store, none from the cache, and compared with its digest. With it
    the files and links of the version are looked for in DIR, and compared; what else is there does not count.
    """
    found = 0
    with (
        opened() as session,
        closing(session.store.version(session.named(dataset))) as version,
        progress(verbose) as bar,
    ):
        bar.on_total(version.tree.files, 0 if filesize else version.tree.size)
        mismatches = _mismatches(session, version, folder, filesize, max_workers or _WORKERS, bar)

        def told() -> Iterator[Mismatch]:
            nonlocal found
            for mismatch in mismatches:
                found += 1
                bar.clear()
                yield mismatch

        if wants_json():
            emit_with({"id": version.record.id}, "errors", map(_fields, told()))
        else:
            for path, reason in told():
                say(f"{shown(path)}: {reason}")
    if not wants_json() and not wants_quiet():
        ending = f"completed, {counted(found, 'error')} found!" if found else "completed successfully, no errors found."
        say(f"Dataset verification {ending}")
    return errors.DAMAGE if found else errors.OK


def _mismatches(
    session: Session, version: Version, folder: Path | None, sizes_only: bool, workers: int, bar: Bar
) -> Iterator[Mismatch]:
    from dvfs.store.verify import verify_stored
    from dvfs.store.verify_copy import verify_copy

    cutting = session.store.parameters.cutting
    if folder is not None:
        return verify_copy(version, folder, cutting, sizes_only=sizes_only, workers=workers, progress=bar)
    found = verify_stored(version, sizes_only=sizes_only, workers=workers, progress=bar)
    kept = session.config.cache_dir / "copies" / version.record.id
    if not kept.is_dir():
        return found
    local = verify_copy(version, kept, cutting, sizes_only=sizes_only, workers=workers)
    return chain(found, (mismatch._replace(reason=f"in {kept}: {mismatch.reason}") for mismatch in local))


def _fields(mismatch: Mismatch) -> Json:
    return name_fields("path", mismatch.path) | {"reason": mismatch.reason}
