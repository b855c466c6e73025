"""Commits an overlay in a process that is killed at a crash point: NAME POINT, settings from the environment."""

from __future__ import annotations

import os
import signal
import sys

import click

from dvfs.cli.options import Invocation
from dvfs.cli.overlays import find_overlay, opened_overlay
from dvfs.fs.overlay.committing import CommitOptions, commit
from dvfs.store.upload import UploadOptions


def main(directory: str, point: str) -> None:
    def crash(passed: str) -> None:
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        click.Context(click.Command("commit"), obj=Invocation()),
        opened_overlay(find_overlay((directory,), None, is_whole=True)) as session,
    ):
        session.store.crash = session.store.records._crash = crash
        commit(session.desk, session.store, CommitOptions(upload=UploadOptions(workers=1)))


if __name__ == "__main__":
    main(*sys.argv[1:])
