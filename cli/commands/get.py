"""`dvfs get`: a local copy of a version."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import click

from dvfs.cli.options import Command, common, dataset_option, json_option, quiet_option, verbose_option, workers_option
from dvfs.cli.output import emit, say, wants_json, wants_quiet
from dvfs.cli.progress import progress
from dvfs.cli.session import opened
from dvfs.store.errors import AlreadyExists

DEFAULT_WORKERS = 8


class _Options(TypedDict):
    part: int | None
    num_parts: int | None
    workers: int


@click.command(cls=Command, name="get")
@dataset_option
@click.option("--copy", metavar="DIR", type=click.Path(path_type=Path), help="Make a writable copy in DIR.")
@click.option("--overwrite", is_flag=True, help="With --copy: replace what is in DIR.")
@click.option(
    "--link", metavar="PATH", type=click.Path(path_type=Path), help="Make a symbolic link to the read-only copy."
)
@click.option("--part", type=click.IntRange(0), metavar="I", help="Only part I, from 0 on, of --num-parts.")
@click.option("--num-parts", type=click.IntRange(1), metavar="N", help="In how many parts to divide the version.")
@workers_option
@verbose_option
@quiet_option()
@json_option
@common
def command(
    dataset: str | None,
    copy: Path | None,
    overwrite: bool,
    link: Path | None,
    part: int | None,
    num_parts: int | None,
    max_workers: int | None,
    verbose: bool,
) -> None:
    """Make a local copy of a version and print its path.

    Without --copy it is a read-only tree in the cache, made once. Files keep their mode and time of change.
    """
    context = click.get_current_context()
    if copy is not None and link is not None:
        raise click.UsageError("--copy and --link exclude each other", context)
    if overwrite and copy is None:
        raise click.UsageError("--overwrite goes with --copy", context)
    if (part is None) != (num_parts is None):
        raise click.UsageError("--part and --num-parts go together", context)
    if part is not None and num_parts is not None and part >= num_parts:
        raise click.UsageError(f"--part {part} is not one of 0 to {num_parts - 1}", context)
    from dvfs.store.materialise import cached_copy, copy_out

    with opened() as session:
        with progress(verbose) as bar:
            version = session.store.version(session.named(dataset))
            try:
                bar.on_total(version.tree.files, version.tree.size)
                options = _Options(part=part, num_parts=num_parts, workers=max_workers or DEFAULT_WORKERS)
                if copy is not None:
                    copy_out(version, copy, overwrite=overwrite, on_file=bar.on_file, **options)
                    path = copy
                else:
                    path = cached_copy(version, session.config.cache_dir / "copies", on_file=bar.on_file, **options)
            finally:
                version.close()
        if link is not None:
            _make_link(link, path)
        session.note(version.record.id, "get")
        if wants_json():
            emit({"id": version.record.id, "path": str(path)})
        elif copy is not None and not wants_quiet():
            say(f"Dataset local copy available for files at: {path}")
        elif copy is None:
            say(str(link or path))


def _make_link(link: Path, target: Path) -> None:
    """Make *link* point to *target*; a symbolic link that was there is replaced."""
    if link.is_symlink():
        link.unlink()
    try:
        link.symlink_to(target)
    except FileExistsError as exc:
        raise AlreadyExists(f"{link} exists and is no symbolic link") from exc
