"""Asking before something is lost."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from dvfs.cli.output import note, wants_json


def ask(question: str, lines: Iterable[str] = ()) -> None:
    """Go on if a person at the terminal says yes to *question*, shown after *lines*.

    Raises Abort for a no, UsageError where nobody can be asked.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or wants_json():
        raise click.UsageError(f"nobody can be asked: {question} `--yes` says yes", click.get_current_context())
    for line in lines:
        note(f"  {line}")
    click.confirm(question, abort=True, err=True)
