"""`dvfs umount`: take a mount away."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, common, local_path, quiet_option
from dvfs.cli.output import note, say, shown, wants_quiet
from dvfs.cli.session import configuration
from dvfs.store.errors import DvfsError

if TYPE_CHECKING:
    from dvfs.fs.mounts import Mount


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
    state_dir = configuration().state_dir
    mounts = Mounts(state_dir)
    names = [mount.directory for mount in mounts.all()] if all_mounts else list(directories)
    failed: DvfsError | None = None
    for name in names:
        known = mounts.at(Path(name))
        try:
            mounts.umount(Path(name), lazy=lazy)
        except DvfsError as exc:
            if failed is not None:
                note(f"error: {failed.message}")
            failed = exc
        else:
            if not wants_quiet():
                say(f"Unmounted {shown(name)}")
                if known is not None and known.overlay and not lazy:
                    _say_kept(state_dir, known)
    if failed is not None:
        raise failed


def _say_kept(state_dir: Path, mount: Mount) -> None:
    """Say how edits are taken up again, if any are kept."""
    from dvfs.fs.overlay.home import Overlays, default_name
    from dvfs.fs.overlay.listing import holds_any

    overlays = Overlays(state_dir)
    if mount.overlay not in overlays.names() or not holds_any(overlays.path(mount.overlay)):
        return
    about = overlays.about(mount.overlay)
    words = ["dvfs", "mount", "--rw", mount.title, mount.directory]
    if default_name(about.store, mount.name, Path(mount.directory)) != mount.overlay:
        words[3:3] = ["--overlay", mount.overlay]
    say(f"Edits of {shown(mount.title)} are kept in overlay {mount.overlay}; take them up again with:")
    say(f"  {shown(shlex.join(words))}")
