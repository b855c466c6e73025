"""`dvfs stats`: what a mount did since it began."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfs.cli.figures import RATES, fields, page, rates, rates_line
from dvfs.cli.options import Command, common, json_option, local_path
from dvfs.cli.output import emit, say, wants_json
from dvfs.cli.session import configuration
from dvfs.store.errors import Unavailable

if TYPE_CHECKING:
    from dvfs.fs.asking import Asked

_LINES_A_HEAD = 20


@click.command(cls=Command, name="stats")
@click.argument("directory", metavar="DIR", type=local_path)
@click.option("--watch", is_flag=True, help="Print a line of rates again and again, until Ctrl-C or the mount ends.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: the time between two lines.",
)
@json_option
@common
def command(directory: str, watch: bool, interval: float) -> None:
    """Tell what the mount at or around DIR did since it began: reads, hits, requests, and what was waited for."""
    from dvfs.fs.asking import Asked
    from dvfs.fs.mounts import Mounts

    asked = Asked(Mounts(configuration().state_dir), Path(directory))
    try:
        if watch:
            _watch(asked, interval)
            return
        figures = asked.figures()
        if wants_json():
            emit(fields(asked.mount, figures))
        else:
            for line in page(asked.mount, figures):
                say(line)
    finally:
        asked.close()


def _watch(asked: Asked, interval: float) -> None:
    """Print rates every *interval* seconds. Raises Unavailable when a mount that is there does not answer."""
    try:
        last, lines = asked.figures(), 0
        while not asked.wait_end(interval):
            figures = asked.figures()
            window, last = figures - last, figures
            if wants_json():
                emit(rates(window))
                continue
            if lines % _LINES_A_HEAD == 0:
                say(RATES)
            say(rates_line(window))
            lines += 1
    except KeyboardInterrupt:
        pass  # that is how one ends watching
    except Unavailable:
        if not asked.has_ended():
            raise
