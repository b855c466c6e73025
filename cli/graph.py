"""A graph of versions as text, drawn downwards from children to parents, as `git log --graph` does.

    * c3   one line for each version, its column marked
    |\\
    | * c2
    * | c1
    |/
    * c0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Row = tuple[str, tuple[str, ...], str]
"""The id of a version, those of its parents, and its line of text."""


def drawn(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the graph of *rows*, in which each version comes before its parents."""
    columns: list[str] = []
    for version, parents, text in rows:
        if version not in columns:
            columns.append(version)
        at = columns.index(version)
        yield "".join("* " if column == at else "| " for column in range(len(columns))) + text
        if not parents:
            del columns[at]
            if at < len(columns):
                yield _shifted(at, len(columns))
            continue
        columns[at] = parents[0]
        for parent in reversed(parents[1:]):
            yield "| " * at + "|\\" + " \\" * (len(columns) - at - 1)
            columns.insert(at + 1, parent)
        yield from _joined(columns)


def _joined(columns: list[str]) -> Iterator[str]:
    """Lead columns to the same version together, the right one to the left; yield the lines that draw it."""
    column = 1
    while column < len(columns):
        target = columns.index(columns[column])
        if target == column:
            column += 1
            continue
        del columns[column]
        yield ("| " * column)[:-1] + "/" + " /" * (len(columns) - column)
        for between in range(column - 1, target, -1):
            yield ("| " * between)[:-1] + "/" + "| " * (len(columns) - between)


def _shifted(at: int, count: int) -> str:
    """Return the line below a version that has no parents: the columns right of it move one to the left."""
    return "| " * at + " /" * (count - at)
