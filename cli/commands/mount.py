"""`dvfs mount`: show a version as a directory."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfs.cli.opening import Traced, open_for_mount
from dvfs.cli.options import Command, common, json_option, local_path, quiet_option, size
from dvfs.cli.options import workers as parsed_workers
from dvfs.cli.output import emit, name_fields, say, shown, wants_json, wants_quiet
from dvfs.cli.session import configuration

if TYPE_CHECKING:
    from dvfs.fs.mount import Ready


@click.command(cls=Command, name="mount")
@click.argument("words", metavar="DATASET DIR", nargs=-1, type=local_path)
@click.option("--id", "dataset_id", metavar="DATASET", help="The dataset; then DIR is the only argument.")
@click.option("--rw", "writable", is_flag=True, help="Take edits: they go to an overlay, and `dvfs commit` keeps them.")
@click.option("--overlay", metavar="NAME", help="The overlay to use.  [default: that of the dataset at DIR]")
@click.option("--foreground", is_flag=True, help="Stay until the mount ends; SIGTERM and Ctrl-C unmount.")
@click.option("--allow-other", is_flag=True, help="Let other users in.")
@click.option("--uid", type=click.IntRange(0), metavar="UID", help="Owner of all files.  [default: you]")
@click.option("--gid", type=click.IntRange(0), metavar="GID", help="Group of all files.  [default: yours]")
@click.option("--subdir", default="", metavar="PATH", help="Show this directory of the version only.")
@click.option("--read-ahead", type=size, metavar="SIZE", help="How far to read ahead in a file read in order.")
@click.option("--cache-dir", metavar="PATH", allow_from_autoenv=False, help="Folder of the cache.")
@click.option("--cache-size", type=size, metavar="SIZE", allow_from_autoenv=False, help="Byte budget of the cache.")
@click.option(
    "--prefetch",
    type=click.Choice(["none", "auto", "all"]),
    default="auto",
    show_default=True,
    help="What to fetch before it is read: nothing, what seems to come, or the whole version.",
)
@click.option(
    "--workers",
    type=parsed_workers,
    metavar="N",
    allow_from_autoenv=False,
    help="How many processes answer, if it is read-only; 0 or auto: by the cores.",
)
@click.option("--record", metavar="NAME", help="Keep the order in which files are first read, as trace NAME.")
@click.option(
    "--replay", multiple=True, metavar="NAME", help="Fetch first what this trace has; may be repeated.  [default: all]"
)
@click.option("--no-replay", is_flag=True, help="Replay no trace.")
@click.option("-o", "fuse_options", multiple=True, metavar="OPT", help="A further option, as for mount(8).")
@quiet_option()
@json_option
@common
def command(
    words: tuple[str, ...],
    dataset_id: str | None,
    writable: bool,
    overlay: str | None,
    foreground: bool,
    allow_other: bool,
    uid: int | None,
    gid: int | None,
    subdir: str,
    read_ahead: int | None,
    cache_dir: str | None,
    cache_size: int | None,
    prefetch: str,
    workers: int | None,
    record: str | None,
    replay: tuple[str, ...],
    no_replay: bool,
    fuse_options: tuple[str, ...],
) -> None:
    """Show a finalized version as a directory: a file's bytes are fetched when they are read.

    DIR is made if it is not there, and must be empty. A name is resolved once, now. The directory is read-only;
    with --rw it takes edits, which are kept beside the version until `dvfs commit` makes a child version of them.
    """
    from dvfs.fs.mount import mount_daemon, mount_foreground
    from dvfs.fs.mountinfo import canonical
    from dvfs.fs.options import MountOptions, workers_for
    from dvfs.fs.readahead import MAX_WINDOW_BYTES

    dataset, directory = _named(words, dataset_id)
    if overlay is not None and not writable:
        raise click.UsageError("--overlay needs --rw", _context())
    if writable and subdir:
        raise click.UsageError("--rw takes no --subdir: a commit needs the whole version", _context())
    if writable and (record or replay):
        raise click.UsageError("--rw takes no --record and no --replay: traces are of versions", _context())
    if writable and workers is not None:
        raise click.UsageError("--rw takes no --workers: one process answers what takes edits", _context())
    if replay and prefetch != "auto":
        raise click.UsageError("--replay needs --prefetch auto", _context())
    if no_replay and replay:
        raise click.UsageError("--replay and --no-replay contradict each other", _context())
    config = configuration({"cache_dir": cache_dir, "cache_size": cache_size, "workers": workers})
    config.check()
    options = MountOptions(
        directory=Path(directory),
        state_dir=config.state_dir,
        uid=uid,
        gid=gid,
        allow_other=allow_other,
        subdir=os.fsencode(subdir).strip(b"/"),
        prefetch=prefetch,
        read_ahead_bytes=MAX_WINDOW_BYTES if read_ahead is None else read_ahead,
        fuse_options=tuple(option for given in fuse_options for option in given.split(",") if option),
        writable=writable,
        workers=config.workers or workers_for(len(os.sched_getaffinity(0))),
    )
    # The version is opened in the daemon: nothing heavy, no thread and no handle is here when it is forked.
    place = (overlay, canonical(Path(directory))) if writable else None
    traced = None if writable else Traced(record, () if no_replay else replay or None)
    open_version = partial(open_for_mount, config, dataset, place, traced)
    open_same = partial(open_for_mount, config)
    if foreground:
        mount_foreground(options, open_version, _tell, open_same)
    else:
        _tell(mount_daemon(options, open_version, open_same))


def _context() -> click.Context:
    return click.get_current_context()


def _named(words: tuple[str, ...], dataset_id: str | None) -> tuple[str, str]:
    """Return the dataset and the directory."""
    named = words if dataset_id is None else (dataset_id, *words)
    if len(named) != 2:
        raise click.UsageError("name a dataset and a directory: DATASET DIR", _context())
    return named[0], named[1]


def _tell(ready: Ready) -> None:
    if wants_json():
        emit(
            {
                "id": ready.id,
                "name": ready.name,
                "version": ready.version,
                "digest": ready.digest,
                **name_fields("directory", os.fsencode(ready.directory)),
                "pid": ready.pid,
                "log": ready.log,
            }
        )
    elif not wants_quiet():
        say(f"Mounted {ready.name}@{ready.version} at {shown(ready.directory)}")
        say(f"id: {ready.id}")
        say(f"digest: {ready.digest}")
    sys.stdout.flush()
