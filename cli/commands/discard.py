"""`dvfs discard`: take edits back."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, common, json_option, local_path, quiet_option, yes_option
from dvfs.cli.output import counted, emit, name_fields, say, shown, wants_json, wants_quiet
from dvfs.cli.overlays import OverlaySession, find_overlay, opened_overlay, overlay_option
from dvfs.cli.question import ask

_SHOWN_PATHS = 10


@click.command(cls=Command, name="discard")
@click.argument("paths", metavar="[PATH...]", nargs=-1, type=local_path)
@overlay_option
@yes_option
@quiet_option()
@json_option
@common
def command(paths: tuple[str, ...], overlay: str | None, yes: bool) -> None:
    """Take back the edits at and below each PATH, or all of the mount around the working directory.

    What was moved is taken back at both ends; what comes back inside a directory that was removed brings it back.
    A file that is open meanwhile must be opened again. Edits that were committed stay.
    """
    from dvfs.fs.overlay.committing import alone

    found = find_overlay(paths, overlay)
    wanted = () if b"" in found.paths else found.paths
    with opened_overlay(found) as session, alone(session.desk, session.store):
        differing: tuple[bytes, ...] | None = None
        if wanted:
            if session.desk.state().frozen:
                session.desk.abandon()  # the store says that it made no version
            differing = _differing(session, wanted)
            question = f"Discard the edits at {counted(len(differing), 'path')}?"
        else:
            question = f"Discard all edits in overlay {found.name}?"
        if not yes:
            ask(question, [shown(path) for path in (differing or ())[:_SHOWN_PATHS]])
        session.desk.discard(wanted)
    if wants_json():
        emit({"overlay": found.name, "paths": [name_fields("path", path) for path in differing or ()]})
    elif not wants_quiet():
        say(
            f"Discarded all edits in overlay {found.name}"
            if differing is None
            else f"Discarded the edits at {counted(len(differing), 'path')}"
        )


def _differing(session: OverlaySession, paths: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the paths that differ and will not."""
    from contextlib import closing

    from dvfs.fs.overlay.committing import Frozen
    from dvfs.fs.overlay.discarding import plan

    owner = session.about.uid, session.about.gid
    with closing(Frozen(session.desk, session.store, session.desk.state())) as edits:
        return plan(edits.snapshot, paths, owner).paths
