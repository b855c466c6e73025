"""`dvfs umount`: take a mount away."""

from __future__ import annotations

from pathlib import Path

import click

from dvfs.cli.options import Command, common, local_path, quiet_option
from dvfs.cli.output import note, say, shown, wants_quiet
from dvfs.cli.session import configuration
from dvfs.store.errors import DvfsError


@click.command(cls=Command, name="umount")
@click.argument("directories", metavar="DIR...", nargs=-1, type=local_path)
@click.option("--all", "all_mounts", is_flag=True, help="All mounts that `dvfs mounts` lists.")
@click.option("--lazy", is_flag=True, help="At once, also while in use: who uses it goes on until the end.")
@quiet_option()
@common
def command(directories: tuple[str, ...], all_mounts: bool, lazy: bool) -> None:
    """Take mounts away. One that is in use stays, and the processes that use it are named."""
    from dvfs.fs.mounts import Mounts

    if bool(directories) == all_mounts:
        raise click.UsageError("name directories, or give --all", click.get_current_context())
    mounts = Mounts(configuration().state_dir)
    names = [mount.directory for mount in mounts.all()] if all_mounts else list(directories)
    failed: DvfsError | None = None
    for name in names:
        try:
            mounts.umount(Path(name), lazy=lazy)
        except DvfsError as exc:
            if failed is not None:
                note(f"error: {failed.message}")
            failed = exc
        else:
            if not wants_quiet():
                say(f"Unmounted {shown(name)}")
    if failed is not None:
        raise failed
