"""`dvfs stash`: put edits aside, and take them up again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dvfs.cli.options import HELP_NAMES, Command, common, json_option, local_path, quiet_option, yes_option
from dvfs.cli.output import emit, say, wants_json, wants_quiet
from dvfs.cli.overlays import Found, find_overlay, opened_overlay, overlay_option
from dvfs.cli.question import ask

if TYPE_CHECKING:
    from dvfs.fs.overlay.desk import Desk


class StashGroup(click.Group):
    """A group whose first word may be left out: `dvfs stash` is `dvfs stash push`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return super().resolve_command(ctx, ["push", *args])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["push", *args]
        return super().parse_args(ctx, args)


@click.group(cls=StashGroup, name="stash", context_settings=HELP_NAMES)
def command() -> None:
    """Put all edits since the last commit aside, so that the mount is as it was; take them up again with `pop`.

    Each overlay has one stash. It is kept with the overlay, mounted or not.
    """


@command.command(cls=Command, name="push")
@click.argument("directory", metavar="[DIR]", required=False, type=local_path)
@overlay_option
@quiet_option()
@json_option
@common
def push(directory: str | None, overlay: str | None) -> None:
    """Put the edits of the mount at DIR, or around the working directory, aside. The same without the word `push`."""
    with _desk(directory, overlay) as (found, desk):
        desk.stash()
    _tell(found, f"Put the edits in overlay {found.name} aside; `dvfs stash pop` takes them up again")


@command.command(cls=Command, name="pop")
@click.argument("directory", metavar="[DIR]", required=False, type=local_path)
@overlay_option
@quiet_option()
@json_option
@common
def pop(directory: str | None, overlay: str | None) -> None:
    """Take the stash of the mount at DIR, or around the working directory, up again.

    There must be no edits, and no commit since.
    """
    with _desk(directory, overlay) as (found, desk):
        desk.pop()
    _tell(found, f"Took the stash of overlay {found.name} up again")


@command.command(cls=Command, name="drop")
@click.argument("directory", metavar="[DIR]", required=False, type=local_path)
@overlay_option
@yes_option
@quiet_option()
@json_option
@common
def drop(directory: str | None, overlay: str | None, yes: bool) -> None:
    """Throw the stash of the mount at DIR, or around the working directory, away."""
    with _desk(directory, overlay) as (found, desk):
        if not yes:
            ask(f"Throw the stash of overlay {found.name} away?")
        desk.drop()
    _tell(found, f"Threw the stash of overlay {found.name} away")


@contextmanager
def _desk(directory: str | None, overlay: str | None) -> Iterator[tuple[Found, Desk]]:
    from dvfs.fs.overlay.committing import alone

    found = find_overlay((directory,) if directory else (), overlay, is_whole=True)
    with opened_overlay(found) as session, alone(session.desk, session.store):
        yield found, session.desk


def _tell(found: Found, text: str, **fields: Any) -> None:
    if wants_json():
        emit({"overlay": found.name, **fields})
    elif not wants_quiet():
        say(text)
