"""`dvfs search`: list datasets."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, Many, common, json_option
from dvfs.cli.output import Json, emit, moment, name_fields, record_fields, say, shown, wants_json
from dvfs.cli.session import opened

if TYPE_CHECKING:
    from dvfs.store.content_search import Matches
    from dvfs.store.record import Record

_SHOWN = 10
_LISTED = 1000
"""So many paths of a version are listed, for people and for machines; the rest is only counted."""

_ROW = "{:16} | {:32} | {:16} | {:32} | {:19} | {:32}"


@click.command(cls=Command, name="search")
@click.option("--ids", cls=Many, metavar="ID...", help="Only these ids.")
@click.option("--project", metavar="PROJECT", help="Only this project, and those below it.")
@click.option("--name", metavar="NAME", help="Only names that hold this, in any case of letters.")
@click.option("--tags", cls=Many, metavar="TAG...", help="Only versions with all of these tags.")
@click.option("--non-recursive-project-search", is_flag=True, help="With --project: not those below it.")
@click.option("--not-only-completed", is_flag=True, help="Open versions too.")
@click.option(
    "--path",
    metavar="PATTERN",
    help="Only versions that have this path, or one that matches this wildcard by the rules of `remove`.",
)
@click.option("--digest", metavar="HEX", help="Only versions that have a file of this digest, or one that starts so.")
@json_option
@common
def command(
    ids: tuple[str, ...],
    project: str | None,
    name: str | None,
    tags: tuple[str, ...],
    non_recursive_project_search: bool,
    not_only_completed: bool,
    path: str | None,
    digest: str | None,
) -> None:
    """List datasets, in the order in which they were created.

    With --path or --digest the paths that were found stand below each version. Of versions that share most of
    their files the shared part is searched once.
    """
    from dvfs.store.collection import uncollected

    with uncollected(), opened() as session:  # of thousands of versions
        records = session.store.search(
            project=project,
            name=name,
            tags=tags,
            ids=ids,
            only_completed=not not_only_completed,
            recursive=not non_recursive_project_search,
        )
        if path is None and digest is None:
            _show((record, None) for record in records)
            return
        from dvfs.store.content_search import ContentSearch

        with closing(ContentSearch(session.store, path=path, digest=digest)) as search:
            _show((record, found) for record in records if (found := search.find(record)) is not None)


def _show(records: Iterable[tuple[Record, Matches | None]]) -> None:
    if wants_json():
        emit([record_fields(record) | _fields(matches) for record, matches in records])
        return
    head = _ROW.format("project", "name", "version", "tags", "created", "id").rstrip()
    say(head)
    say("-" * len(head))
    for record, matches in records:
        tags_shown = ", ".join(record.tags)
        words = (record.project, record.name, record.version, tags_shown)
        say(_ROW.format(*map(shown, words), moment(record.created_ns), record.id).rstrip())
        if matches is not None:
            for match in islice(matches, _SHOWN):
                say(f"  {shown(match.path)}")
            if matches.number > _SHOWN:
                say(f"  and {matches.number - _SHOWN} more")


def _fields(matches: Matches | None) -> dict[str, Json]:
    if matches is None:
        return {}
    listed: list[Json] = []
    for match in islice(matches, _LISTED):
        is_file = stat.S_ISREG(match.mode)
        digest = match.digest.hex() if is_file else None
        listed.append(name_fields("path", match.path) | {"size": match.size if is_file else None, "digest": digest})
    return {"number_of_paths": matches.number, "paths": listed}
