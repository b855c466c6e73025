"""`dvfs warm`: fill the cache with a version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, common, dataset_option, json_option, quiet_option
from dvfs.cli.output import emit, note, say, shown_size, wants_json, wants_quiet
from dvfs.cli.progress import progress
from dvfs.cli.session import Session, opened

if TYPE_CHECKING:
    from dvfs.store.block import BlockRef
    from dvfs.store.version import Version

_BATCH_BLOCKS = 1024


@click.command(cls=Command, name="warm")
@dataset_option
@quiet_option()
@json_option
@common
def command(dataset: str | None) -> None:
    """Fill the cache with all of a version, named as a dataset or by the directory where it is mounted.

    What does not fit the budget of the cache pushes out what was used longest ago.
    """
    with opened() as session, progress() as bar:
        version = session.store.version(_mounted_at(session, dataset) or session.named(dataset))
        try:
            budget = version.cache.info().budget_bytes
            if version.tree.size > budget and not wants_quiet():
                note(
                    f"warning: {version.record.title} has {shown_size(version.tree.size)},"
                    f" the cache keeps {shown_size(budget)}"
                )
            bar.on_total(0, version.tree.size)
            blocks = fetched = size = 0
            for batch in _batches(_blocks(version)):
                version.fetcher.want(batch)
                for ref in batch:
                    if not version.fetcher.cached(ref):
                        version.fetcher.block(ref)
                    blocks += 1
                    size += ref.raw
                    bar.on_bytes(ref.raw)
            fetched = version.fetcher.stats().bytes_fetched
        finally:
            version.close()
    if wants_json():
        emit({"id": version.record.id, "blocks": blocks, "bytes": size, "fetched_bytes": fetched})
    elif not wants_quiet():
        say(f"Cache holds {version.record.title}: {blocks} blocks, {shown_size(size)}, {shown_size(fetched)} fetched")


def _mounted_at(session: Session, word: str | None) -> str | None:
    """Return the id of what is mounted at directory *word*, None where nothing is."""
    from dvfs.fs.mounts import Mounts

    if word is None or not os.path.isdir(word):
        return None
    mount = Mounts(session.config.state_dir).at(Path(word))
    return None if mount is None else mount.id


def _blocks(version: Version) -> Iterator[BlockRef]:
    """Yield the blocks of all files, those that neighbouring files share once."""
    last: BlockRef | None = None
    for _, entry in version.entries():
        for ref in version.blocks(entry) if entry.is_file else ():
            if ref != last:
                yield ref
            last = ref


def _batches(refs: Iterator[BlockRef]) -> Iterator[list[BlockRef]]:
    """Yield *refs* in lists, each in the order of packs."""
    while batch := list(islice(refs, _BATCH_BLOCKS)):
        yield sorted(batch, key=lambda ref: (ref.storage, ref.pack, ref.offset))
