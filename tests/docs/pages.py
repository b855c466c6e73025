"""Reading Markdown: sections, tables, code, links of the project's documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)


def pages() -> dict[str, str]:
    """Return the text of every document, by its path in the repository."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}


def prose(text: str) -> str:
    """Return *text* without its fenced code."""
    return _FENCED.sub("", text)


def code_blocks(text: str, language: str) -> list[str]:
    """Return the fenced code of that *language*."""
    return [body for name, body in _FENCED.findall(text) if name == language]


def code_spans(text: str) -> list[str]:
    """Return what stands between backquotes, each on one line."""
    return [" ".join(span.split()) for span in _SPAN.findall(text)]


def links(text: str) -> list[tuple[str, str]]:
    """Return text and target of each link."""
    return _LINK.findall(prose(text))


def sections(text: str, *, level: int) -> Iterator[tuple[str, str]]:
    """Yield heading and body of each section of *level*; its body ends at the next heading of any level."""
    found = list(_HEADING.finditer(prose(text)))
    text = prose(text)
    for index, match in enumerate(found):
        stop = found[index + 1].start() if index + 1 < len(found) else len(text)
        if len(match[1]) == level:
            yield match[2], text[match.end() : stop]


def section(text: str, heading: str) -> str:
    """Return the body of the section *heading*, of any level, with the sections below it."""
    text = prose(text)
    found = list(_HEADING.finditer(text))
    (index,) = [index for index, match in enumerate(found) if match[2] == heading]
    level = len(found[index][1])
    stop = next((match.start() for match in found[index + 1 :] if len(match[1]) <= level), len(text))
    return text[found[index].end() : stop]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of *text*: rows of cells, without their heads."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        is_row = line.startswith("|")
        if is_row and not inside:
            found.append([])
        if is_row:
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        inside = is_row
    return [rows[2:] for rows in found]


def table(text: str, nth: int | None = None) -> list[list[str]]:
    """Return the rows of the *nth* table of *text*, of all of them when None."""
    return [row for number, rows in enumerate(tables(text)) if nth in (None, number) for row in rows]


def anchors(text: str) -> set[str]:
    """Return the anchors that the headings of *text* have on the web."""
    return {re.sub(r"[^\w\- ]", "", match[2].lower()).replace(" ", "-") for match in _HEADING.finditer(prose(text))}
