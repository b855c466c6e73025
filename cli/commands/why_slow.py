"""`dvfs why-slow`: what reading from a mount waits for, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from dvfs.cli.figures import mount_fields
from dvfs.cli.options import Command, common, json_option, local_path
from dvfs.cli.output import emit, note, say, wants_json
from dvfs.cli.session import configuration
from dvfs.store.errors import Unavailable

_SECONDS = 5.0


@click.command(cls=Command, name="why-slow")
@click.argument("directory", metavar="DIR", type=local_path)
@click.option(
    "--seconds", type=click.FloatRange(0.05), metavar="SECONDS", help="How long to look, from now on.  [default: 5]"
)
@click.option("--since-mount", is_flag=True, help="Look at all since the mount began, at once.")
@json_option
@common
def command(directory: str, seconds: float | None, since_mount: bool) -> None:
    """Say what reading from the mount at or around DIR waits for, most important first, and what to do about it.

    To be run while the program that seems slow is at work, or with --since-mount afterwards.
    """
    from dvfs.fs.asking import Asked
    from dvfs.fs.diagnosis import diagnose
    from dvfs.fs.mounts import Mounts

    if since_mount and seconds is not None:
        raise click.UsageError("--seconds and --since-mount exclude each other", click.get_current_context())
    asked = Asked(Mounts(configuration().state_dir), Path(directory))
    try:
        figures = asked.figures()
        if not since_mount:
            length = _SECONDS if seconds is None else seconds
            if not wants_json():
                note(f"looking for {length:g} s")
            if asked.wait_end(length):
                raise Unavailable("the mount ended meanwhile")
            figures = asked.figures() - figures
    finally:
        asked.close()
    findings = diagnose(figures)
    if wants_json():
        emit(mount_fields(asked.mount) | {"seconds": figures.seconds, "findings": [asdict(item) for item in findings]})
        return
    for finding in findings:
        say(finding.text)
        if finding.hint is not None:
            say(f"  hint: {finding.hint}")
