"""`dvfs cache`: info, clear, verify."""

from __future__ import annotations

import click

from dvfs.cli.options import HELP_NAMES, Command, common, json_option, quiet_option
from dvfs.cli.output import counted, emit, log_to_stderr, say, shown_size, wants_json, wants_quiet
from dvfs.cli.progress import progress
from dvfs.cli.session import configuration, opened_cache


@click.group(name="cache", context_settings=HELP_NAMES)
def command() -> None:
    """Look after the local cache."""


@command.command(cls=Command, name="info")
@json_option
@common
def info() -> None:
    """Show where the cache is, what it holds and what it may hold."""
    log_to_stderr()
    with opened_cache(configuration()) as cache:
        found = cache.info()
    if wants_json():
        emit(
            {
                "path": str(found.path),
                "blocks": found.blocks,
                "bytes": found.bytes,
                "budget_bytes": found.budget_bytes,
            }
        )
        return
    say(f"path: {found.path}")
    say(f"blocks: {found.blocks}")
    say(f"size: {shown_size(found.bytes)}")
    say(f"budget: {shown_size(found.budget_bytes)}")


@command.command(cls=Command, name="clear")
@quiet_option()
@json_option
@common
def clear() -> None:
    """Empty the cache. Nothing is lost: what is read again is fetched again.

    Copies that `get` made, in the folder copies, stay: somebody may be using them.
    """
    log_to_stderr()
    with opened_cache(configuration()) as cache:
        before = cache.info()
        cache.clear()
        after = cache.info()
    freed = max(0, before.bytes - after.bytes)
    if wants_json():
        emit({"freed_bytes": freed, "bytes": after.bytes})
    elif not wants_quiet():
        say(f"Cache cleared: {shown_size(freed)} freed")


@command.command(cls=Command, name="verify")
@quiet_option()
@json_option
@common
def verify() -> None:
    """Read every block of the cache and drop the damaged ones.

    Exits 0 also when some were damaged: they are fetched again when they are needed.
    """
    log_to_stderr()
    with opened_cache(configuration()) as cache, progress() as bar:
        report = cache.verify(bar.on_bytes)
    if wants_json():
        emit(
            {
                "blocks": report.blocks,
                "bytes": report.bytes,
                "damaged": list(report.damaged),
                "strays": report.strays,
            }
        )
    elif not wants_quiet():
        for path in report.damaged:
            say(f"damaged, dropped: {path}")
        say(
            f"{counted(report.blocks, 'block')} sound ({shown_size(report.bytes)}),"
            f" {len(report.damaged)} damaged, {counted(report.strays, 'stray file')}"
        )
