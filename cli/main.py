"""The program `dvfs`: finds the command, runs it, turns an error into a message and an exit code.

A command's module is imported when the command is called, and libraries where they are used, so that
`dvfs --help` and the start of a mount are quick.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from dvfs import __version__
from dvfs.cli import errors
from dvfs.cli.options import HELP_NAMES, Invocation, common

SECTIONS: dict[str, dict[str, str]] = {
    "Make versions": {
        "create": "Begin a new version of a dataset.",
        "add": "Add local files and folders to a version.",
        "remove": "Remove files and folders from a version.",
        "sync": "Make a version equal to local folders, and finalize it.",
        "upload": "Upload what was added.",
        "close": "Upload what is left and finalize the version.",
        "finalize": "The same as close.",
        "squash": "Merge versions, and all that they come from, into one.",
    },
    "Read versions": {
        "search": "List datasets.",
        "list": "List the content of a version.",
        "get": "Make a local copy of a version.",
        "compare": "Show what differs between two versions.",
        "verify": "Check a version in the store, or a local copy of it.",
        "use": "Choose the dataset that commands mean when none is named.",
        "log": "Show the lineage of a version as a graph.",
        "runs": "List the runs that made and read a version.",
        "traces": "List the orders of first reads that are kept with a version.",
    },
    "Look after versions": {
        "publish": "Publish a finalized version.",
        "tag": "Give a version tags, and take them.",
        "set-description": "Say what a version is.",
        "metadata": "Show and set the metadata of a version.",
        "rename": "Give a dataset another name.",
        "move": "Move a dataset to another project.",
        "delete": "Delete a version, or all of a dataset.",
    },
    "Mount versions": {
        "mount": "Show a version as a directory.",
        "umount": "Take a mount away.",
        "mounts": "List the mounts of this machine.",
        "stats": "Tell what a mount did since it began.",
        "why-slow": "Say what reading from a mount waits for.",
        "warm": "Fill the cache with a version.",
        "prefetch": "Tell a mount in which order its files will be read.",
    },
    "Edit a mount": {
        "status": "Say what was edited.",
        "diff": "Show what was edited, or what differs between two versions.",
        "commit": "Make the edits a child version.",
        "discard": "Take edits back.",
        "stash": "Put edits aside, and take them up again.",
        "overlays": "List the edits that this machine keeps.",
    },
    "This machine": {
        "cache": "Look after the local cache.",
        "config": "Show and set the configuration.",
        "doctor": "Check that this machine can mount and reach the store.",
    },
}
"""Every command with its one line of help, as `dvfs --help` shows them."""

_FIRST_OBJECTS = 50_000

_MODULES = {"finalize": "close", "set-description": "set_description", "why-slow": "why_slow"}
"""Commands whose module has another name."""


class Program(click.Group):
    """The group of all commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f"dvfs.cli.commands.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.group(cls=Program, context_settings=HELP_NAMES | {"auto_envvar_prefix": "DVFS"}, invoke_without_command=True)
@click.version_option(__version__, prog_name="dvfs", allow_from_autoenv=False)
@common
@click.pass_context
def program(ctx: click.Context) -> None:
    """Mount any version of a dataset as a directory: lazy, verified, cached, on plain storage.

    A dataset is named by its id, a unique start of the id, project/name, project/name@version or tag:TAG.
    Every option has an environment variable: `--chunk-size` of `upload` is DVFS_UPLOAD_CHUNK_SIZE.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the program with *arguments* (without its own name); return its exit code."""
    told = Invocation()
    try:
        value: Any = program.main(list(arguments), prog_name="dvfs", standalone_mode=False, obj=told)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        as_json = told.json or "--json" in arguments
        debug = told.debug or "--debug" in arguments
        return errors.report(error, as_json=as_json, debug=debug)
    return value if isinstance(value, int) else errors.OK


def collect_later() -> None:
    """Look for unreachable objects only once 50,000 were made, and from then on as ever.

    Those before are of modules, which stay: looking through them again and again is a sixth of a command's time.
    They are not looked through later either.
    """

    def begin(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            gc.callbacks.remove(begin)
            gc.freeze()
            gc.set_threshold(*usual)

    usual = gc.get_threshold()
    gc.set_threshold(_FIRST_OBJECTS, *usual[1:])
    gc.callbacks.append(begin)


def main() -> NoReturn:
    """Run the program with the arguments of this process, and end it."""
    collect_later()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    gc.freeze()  # what is left dies with the process: it is not looked through first
    sys.exit(code)
